// The auditor service: see the package services/auditor.
package main

import (
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/writ-project/writ/pkg/service"
	"github.com/writ-project/writ/services/auditor"
)

// memoryLimit is where the garbage collector begins to work harder, in bytes: the
// batches on their way are 32 MB at most, and what it needs to decide about 20 MB.
const memoryLimit = 80 << 20

func main() {
	// What it holds is small and what passes through is not: collecting less often
	// took an eighth off its CPU, as long as the heap stays below a bound.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(800)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	service.Main("auditor", auditor.Run, func(c *auditor.Config) **slog.Logger { return &c.Log })
}
