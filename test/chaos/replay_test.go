package chaos

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kinds"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/test/e2e/outside"
)

// check holds what clients were told against the ledger, the database and the audit log.
func (l *load) check(t *testing.T, report *table) {
	t.Helper()
	outcomes := outside.Settled(t, &l.s.Stack, 2*time.Minute) // one outcome for each command, none twice
	audited := outside.Audit(t, &l.s.Stack)                   // Redis is the ledger, byte for byte
	applied := 0
	for _, m := range l.sent {
		o, ok := outcomes[m.command]
		switch {
		case !ok:
			t.Errorf("%s %s was answered %d as command %s, of which the ledger knows nothing", m.method, m.path, m.status, m.command)
		case m.status < 300 && m.status != 202 && o.Status != events.StatusApplied:
			t.Errorf("%s %s was answered %d and is %s: %s", m.method, m.path, m.status, o.Status, o.Reason)
		case o.Status == events.StatusApplied:
			applied++
		case o.Status == events.StatusFailed:
			t.Errorf("%s %s failed: %s", m.method, m.path, o.Reason)
		}
	}
	commands := replay(t, l.s.Database, audited.Ledger, outcomes)
	retried := 0
	for _, m := range l.sent {
		if m.tries > 1 {
			retried++
		}
	}
	report.row("commands answered", len(l.sent))
	report.row("… of them after a retry", retried)
	report.row("… applied", applied)
	report.row("reads answered", l.reads.Load())
	report.row("refused with Retry-After", l.refused.Load())
	report.row("connections that broke", l.broken.Load())
	report.row("slowest answer", time.Duration(l.slowest.Load()).Round(time.Millisecond))
	report.row("commands on the ledger", commands)
	report.row("decisions on the ledger and in Redis", len(audited.Decisions))
	report.row("outcomes on the ledger and in Redis", len(audited.Outcomes))
	if applied == 0 {
		t.Error("nothing was applied: this tests nothing")
	}
}

// replay makes the rows from the ledger alone, in its order, and compares them with what the database has: the same
// resources, at the same versions, with the same content.
func replay(t *testing.T, database string, ledger []outside.Record, outcomes map[string]events.Outcome) (commands int) {
	t.Helper()
	st, err := store.Open(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}()
	rows := map[string]map[string]kind.Row{}
	for _, d := range kinds.All {
		rows[d.Name] = map[string]kind.Row{}
	}
	seen := map[string]bool{}
	for _, r := range ledger {
		if r.Event.Type != events.TypeWrit {
			continue
		}
		c := &r.Event.Command
		if seen[c.ID] { // retried while it was on its way: that does nothing
			continue
		}
		seen[c.ID] = true
		d, ok := kinds.ByName(c.Kind)
		o := outcomes[c.ID]
		if !ok || o.Status != events.StatusApplied {
			continue
		}
		if o.Sequence != r.Address {
			t.Errorf("command %s stands at %d, its outcome says %d", c.ID, r.Address, o.Sequence)
		}
		if err := step(d, rows[d.Name], c, o); err != nil {
			t.Errorf("replay of %s %s %s at %d: %v", c.Action, c.Kind, c.ResourceID, r.Address, err)
		}
	}
	for _, d := range kinds.All {
		have := map[string]kind.Row{}
		for q := (store.Query{Tenant: "default", Limit: store.MaxLimit}); ; {
			page, err := st.List(t.Context(), d, q)
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range page.Items {
				have[row.ID] = row
			}
			if q.Cursor = page.NextCursor; q.Cursor == "" {
				break
			}
		}
		if len(have) != len(rows[d.Name]) {
			t.Errorf("the database has %d %ss, the ledger makes %d", len(have), d.Name, len(rows[d.Name]))
		}
		for id, want := range rows[d.Name] {
			if x, y := text(t, have[id]), text(t, want); x != y {
				t.Errorf("%s %s is %s, by the ledger %s", d.Name, id, x, y)
			}
		}
	}
	return len(seen)
}

// step applies one command to the rows, as the worker is meant to.
func step(d *kind.Definition, rows map[string]kind.Row, c *events.Command, o events.Outcome) (err error) {
	row, exists := rows[c.ResourceID]
	if exists == (c.Action == kind.ActionCreate) {
		return fmt.Errorf("the row exists: %t", exists)
	}
	switch c.Action {
	case kind.ActionCreate:
		row, err = d.Create(c.ResourceID, c.Tenant, c.PrincipalID, c.Body, c.IssuedAt)
	case kind.ActionUpdate:
		row, err = d.Update(row, c.Body, c.IssuedAt)
	case kind.ActionDelete:
		delete(rows, c.ResourceID)
		return nil
	default:
		row, err = d.Act(row, c.Action, kind.By{PrincipalID: c.PrincipalID, At: c.IssuedAt, Body: c.Body})
	}
	if err != nil {
		return err
	}
	if row.Version != o.Version {
		return fmt.Errorf("it makes version %d, its outcome says %d", row.Version, o.Version)
	}
	rows[c.ResourceID] = row
	return nil
}

func text(t *testing.T, row kind.Row) string {
	t.Helper()
	if row.Meta == nil {
		return "missing"
	}
	b, err := json.Marshal(row)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
