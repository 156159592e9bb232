package main

import (
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
)

type ledgerCmd struct {
	Reshard reshardCmd `cmd:"" help:"Spread commands over another number of shards, while no api runs."`
}

// reshardCmd is the step of docs/runbook.md between stopping the services and
// starting them with the new number.
type reshardCmd struct {
	Shards      int    `arg:"" help:"How many shards there are to be, 1 to 64."`
	NATSURL     string `help:"Where the ledger is." name:"nats-url" env:"WRIT_NATS_URL" required:""`
	DatabaseURL string `help:"sqlite:PATH or postgres://…" name:"database-url" env:"WRIT_DATABASE_URL" required:""`
}

// Run changes the number of shards of a ledger of which everything is applied.
// Run again after it was killed, it does what is left.
func (c *reshardCmd) Run(a *app) error {
	st, err := store.Open(a.ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	defer st.Close()
	nc, err := ledger.Connect(c.NATSURL, "writ-ledger-reshard")
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	positions, err := st.Positions(a.ctx)
	if err != nil {
		return err
	}
	begin, err := ledger.Reshard(a.ctx, js, positions, c.Shards)
	if err != nil {
		return err
	}
	if err := st.ResetShards(a.ctx, c.Shards, begin); err != nil {
		return fmt.Errorf("the ledger has %d shards now, the database does not know of them: run this again before anything starts: %w", c.Shards, err)
	}
	_, err = fmt.Fprintf(a.out, "The ledger has %d shards. Each begins after event %d: everything before it is applied.\nNow set WRIT_LEDGER_SHARDS=%d for api, worker and auditor, and start them.\n", c.Shards, begin, c.Shards)
	return err
}
