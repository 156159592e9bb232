package roles

import (
	"errors"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
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
	for _, e := range r.ledgerEvents() { // the apply loop has told nothing of them
		if e.Type == events.TypeOutcome && e.Outcome.Kind == "user" {
			last, found, err := r.ledger.LastOn(t.Context(), events.OutcomeSubject(0))
			if err != nil || found {
				t.Errorf("an outcome of a queued command is on the shard's subject, at %d (%v)", last.Address, err)
			}
			break
		}
	}
}
