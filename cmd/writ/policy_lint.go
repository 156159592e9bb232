package main

import (
	"encoding/json"
	"fmt"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/kinds"
)

// lintCmd looks at policies before they go into force.
type lintCmd struct {
	Dir    string `arg:"" help:"The folder with the policies." type:"existingdir"`
	Output string `short:"o" help:"pretty or json." enum:"pretty,json" default:"pretty"`
}

// Run tells what it finds, and exits with 1 if that is anything.
func (c *lintCmd) Run(a *app) error {
	found, err := authz.Lint(a.ctx, c.Dir, kinds.All)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		if found == nil {
			found = []authz.Finding{}
		}
		e := json.NewEncoder(a.out)
		e.SetIndent("", "  ")
		if err := e.Encode(found); err != nil {
			return err
		}
	} else {
		for _, f := range found {
			fmt.Fprintf(a.out, "%s: %s: %s\n", printable(f.Where), f.Rule, printable(f.Message))
		}
		if len(found) == 0 {
			fmt.Fprintf(a.out, "nothing found in %s\n", c.Dir)
		}
	}
	if len(found) > 0 {
		return exitCode(1)
	}
	return nil
}
