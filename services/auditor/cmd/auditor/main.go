// The auditor service: see the package services/auditor.
package main

import (
	"log/slog"

	"github.com/writ-project/writ/pkg/service"
	"github.com/writ-project/writ/services/auditor"
)

func main() {
	service.Main("auditor", auditor.Run, func(c *auditor.Config) **slog.Logger { return &c.Log })
}
