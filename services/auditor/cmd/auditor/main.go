// The auditor service: see the package services/auditor.
package main

import (
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/writ-project/writ/pkg/service"
	"github.com/writ-project/writ/services/auditor"
)

func main() {
	if os.Getenv("GOGC") == "" {
		// What it holds is small and what passes through is not: collecting less often
		// took an eighth off its CPU. GOMEMLIMIT bounds it where memory is short.
		debug.SetGCPercent(800)
	}
	service.Main("auditor", auditor.Run, func(c *auditor.Config) **slog.Logger { return &c.Log })
}
