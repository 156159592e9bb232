package roles

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/testkit"
)

// A process is paused between its commit and its outcome and loses the lease;
// the next one tells the outcome. The first one wakes and does not tell it again,
// although it has not looked at the ledger before.
func TestWokenWorkerTellsNothingTwice(t *testing.T) {
	databases(t, func(t *testing.T, r *rig) {
		ann := r.person("ann@example.com", "user")
		paused, wake := make(chan struct{}), make(chan struct{})
		p := r.start(func(at point) bool { return at == afterPublish }, func(w *Worker) {
			inner := w.at
			w.at = func(at point) error {
				if at == afterCommit {
					close(paused)
					<-wake
				}
				return inner(at)
			}
			w.timing.beat, w.timing.hold = time.Hour, time.Hour // nothing of a paused process runs
		})
		c := r.roles(ann.ID, "manager")
		<-paused
		r.start(nil)
		r.outcomes(c)
		close(wake)
		<-p.died // after it has said what it had to say
		next := r.roles(ann.ID, "finance")
		r.outcomes(c, next)
	})
}

// An acknowledgement that does not come says nothing: the outcome is looked for,
// and told once.
func TestLostAcknowledgementTellsOnce(t *testing.T) {
	r := sqlite(t)
	ann := r.person("ann@example.com", "user")
	proxy := testkit.NewProxy(t, r.nats[len("nats://"):])
	r.via, r.patience = "nats://"+proxy.Addr(), 500*time.Millisecond
	r.start(nil, func(w *Worker) {
		inner := w.at
		first := true
		w.at = func(at point) error {
			if at == afterCommit && first {
				first = false
				// Read before, so that the outcome is under way when the delay begins to count.
				last, err := w.Ledger.LastOutcomes(t.Context(), events.SubjectStytchOutcomes)
				if err != nil {
					return err
				}
				w.told = &last
				proxy.Delay(400 * time.Millisecond) // there, and more than the patience by the time it is back
			}
			return inner(at)
		}
	})
	c := r.roles(ann.ID, "manager")
	testkit.Eventually(t, soon, func() error { // it is stored, and nobody who told it knows
		for _, e := range r.ledgerEvents() {
			if e.Type == events.TypeOutcome && e.Outcome.CommandID == c {
				return nil
			}
		}
		return errors.New("no outcome yet")
	})
	if n, _, err := r.store.QueueLength(t.Context()); err != nil || n != 1 {
		t.Fatalf("%d on the queue (%v): its acknowledgement was not lost", n, err)
	}
	proxy.Restore()
	if o := r.outcomes(c, r.roles(ann.ID, "finance"))[c]; o.Status != events.StatusApplied {
		t.Errorf("%+v", o)
	}
}

// The apply loop begins anew, as after a restart, behind commands that the role
// worker has ended: their outcomes are not the apply loop's to tell.
func TestApplyLoopTellsNothingOfQueuedCommands(t *testing.T) {
	databases(t, func(t *testing.T, r *rig) {
		ann := r.person("ann@example.com", "user")
		r.start(nil)
		applied := r.roles(ann.ID, "manager")
		r.status(applied, events.StatusApplied)
		rejected := r.submit(r.boss, user.ActionRoles, ann.ID, user.RolesChange{Roles: []string{"finance"}},
			func(_ *events.Decision, c *events.Command) { c.IfMatch = []int64{77} })
		r.outcomes(applied, rejected)
		r.stopLoop()
		r.loop()
		id := newID() // whose outcome comes after what the loop told when it began
		c := r.submit(r.boss, kind.ActionCreate, id, json.RawMessage(`{"first_name":"last"}`), func(d *events.Decision, c *events.Command) {
			c.Kind, d.Resource.Kind = contact.Kind.Name, contact.Kind.Name
		})
		all := r.outcomes(applied, rejected, c) // once each
		if all[applied].Status != events.StatusApplied || all[rejected].Status != events.StatusRejected {
			t.Errorf("%+v", all)
		}
	})
}
