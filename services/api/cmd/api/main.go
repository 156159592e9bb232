// The api service: see the package services/api.
package main

import (
	"log/slog"

	"github.com/writ-project/writ/pkg/service"
	"github.com/writ-project/writ/services/api"
)

func main() {
	service.Main("api", api.Run, func(c *api.Config) **slog.Logger { return &c.Log })
}
