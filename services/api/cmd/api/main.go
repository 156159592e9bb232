// The api service: see the package services/api.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/writ-project/writ/pkg/settings"
	"github.com/writ-project/writ/pkg/telemetry"
	"github.com/writ-project/writ/services/api"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "api:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	cfg, err := settings.Load[api.Config]()
	if err != nil {
		return err
	}
	cfg.Log = telemetry.LoggerFromEnv("writ-api")
	return api.Run(ctx, cfg)
}
