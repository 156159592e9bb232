package stream

import (
	"context"
	"fmt"
	"testing"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

// forge puts an event among others on the ledger that nobody has sealed.
func (r *rig) forge() {
	r.t.Helper()
	strangers := need(events.ParseKeyring(events.GenerateKey("test")))(r.t)
	d := events.Decision{ID: newID(), Stage: events.StageRequest, Resource: events.Resource{Kind: "contact"}, Action: "read", Effect: events.Allow}
	m := need(events.NewDecision(strangers, events.SourceAPI, &d))(r.t)
	mine := r.events(5)
	var all []events.Message
	for _, other := range mine {
		if other.Subject == m.Subject {
			all = append(all, other)
		}
	}
	must(r.t, r.ledger.AppendAll(r.t.Context(), append(all, m)))
}

func (r *rig) letters() []ledger.Letter {
	r.t.Helper()
	all, _, err := r.ledger.Letters(r.t.Context(), 0, 100)
	must(r.t, err)
	return all
}

// TestDiscardedLettersStayAway: a dead letter that somebody has looked at and discarded
// does not come back: not when the auditor starts again, and not when Redis is filled
// again, by the same auditor or by another one; a new refusal has its own.
func TestDiscardedLettersStayAway(t *testing.T) {
	t.Parallel()
	redises(t, func(t *testing.T, r *rig) {
		_, stop := r.start()
		r.fill(6)
		r.forge()
		r.fill(3)
		r.forge() // nothing comes after it that would be signed
		refused := func(n uint64) {
			t.Helper()
			r.equal()
			testkit.Eventually(t, soon, func() error {
				rec, found, err := r.ledger.LastOn(t.Context(), events.AllCheckpoints)
				if err != nil || !found {
					return fmt.Errorf("no checkpoint: %w", err)
				}
				cp := need(events.Parse(rec.Data))(t).Checkpoint
				for _, l := range r.letters() {
					if l.Record.Address > cp.Sequence {
						return fmt.Errorf("the last checkpoint is of %d, the refusal of %d", cp.Sequence, l.Record.Address)
					}
				}
				return nil
			})
			if report := r.verified(); report.Explained[audit.WhyRefused] != n {
				t.Fatalf("%d refused, want %d", report.Explained[audit.WhyRefused], n)
			}
		}
		testkit.Eventually(t, soon, func() error {
			if n := len(r.letters()); n != 2 {
				return fmt.Errorf("%d letters, want 2", n)
			}
			return nil
		})
		refused(2)
		for _, l := range r.letters() {
			if l.Code != "bad-seal" || l.Service != "auditor" || l.Record.Address == 0 {
				t.Fatalf("%+v", l)
			}
			must(t, r.ledger.Remove(t.Context(), l))
		}
		none := func(how string) {
			t.Helper()
			refused(2)
			if all := r.letters(); len(all) != 0 {
				t.Fatalf("%s: %d letters came back, the first of %d", how, len(all), all[0].Record.Address)
			}
		}
		must(t, r.rdb.FlushAll(context.Background()).Err())
		none("filled again")
		stop()
		_, stop = r.start()
		none("started again")
		stop()
		must(t, r.rdb.FlushAll(context.Background()).Err())
		r.start()
		none("started again beside an empty Redis")
		r.forge()
		testkit.Eventually(t, soon, func() error {
			if n := len(r.letters()); n != 1 {
				return fmt.Errorf("%d letters, want the new one", n)
			}
			return nil
		})
		refused(3)
	})
}
