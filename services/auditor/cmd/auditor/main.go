// The auditor service: see the package services/auditor.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/writ-project/writ/pkg/settings"
	"github.com/writ-project/writ/pkg/telemetry"
	"github.com/writ-project/writ/services/auditor"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "auditor:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	cfg, err := settings.Load[auditor.Config]()
	if err != nil {
		return err
	}
	cfg.Log = telemetry.LoggerFromEnv("writ-auditor")
	if os.Getenv("GOGC") == "" {
		// What it holds is small and what passes through is not: collecting less often
		// took a tenth off its CPU. GOMEMLIMIT bounds it where memory is short.
		debug.SetGCPercent(400)
	}
	return auditor.Run(ctx, cfg)
}
