// The worker service: see the package services/worker.
package main

import (
	"log/slog"

	"github.com/writ-project/writ/pkg/service"
	"github.com/writ-project/writ/services/worker"
)

func main() {
	service.Main("worker", worker.Run, func(c *worker.Config) **slog.Logger { return &c.Log })
}
