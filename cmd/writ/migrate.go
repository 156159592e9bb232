package main

import (
	"fmt"

	"github.com/writ-project/writ/pkg/store"
)

type migrateCmd struct {
	DatabaseURL string `help:"sqlite:PATH or postgres://…; the running local stack's if it is not given." env:"WRIT_DATABASE_URL"`
}

// Run brings the schema up to date.
func (c *migrateCmd) Run(a *app) error {
	url := c.DatabaseURL
	if url == "" {
		l, err := readLocal(a.data)
		if err != nil {
			return fmt.Errorf("WRIT_DATABASE_URL is not set, and %w", err)
		}
		url = l.Database
	}
	st, err := store.Open(a.ctx, url)
	if err != nil {
		return err
	}
	defer st.Close()
	if err := st.Migrate(a.ctx); err != nil {
		return err
	}
	v, err := st.Version(a.ctx)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.out, "The schema is at version %d.\n", v)
	return err
}
