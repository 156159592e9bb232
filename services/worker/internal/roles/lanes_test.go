package roles

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/testkit"
)

// TestAMessageThatIsGoneBlocksNobody: a command whose message the ledger has lost fails, with a dead letter, unless Stytch
// shows that it was done; and the commands behind it go on.
func TestAMessageThatIsGoneBlocksNobody(t *testing.T) {
	databases(t, func(t *testing.T, r *rig) {
		ann, bob, eve := r.person("ann@example.com", "user"), r.person("bob@example.com", "user"), r.person("eve@example.com", "user")
		done, removed := r.roles(bob.ID, "manager"), r.submit(r.boss, user.ActionDelete, eve.ID, nil)
		var both sync.WaitGroup
		both.Add(2)
		p := r.start(func(here point) bool {
			if here == afterCall {
				both.Done()
				both.Wait()
			}
			return here == afterCall
		})
		<-p.died
		<-p.died
		p.end()
		lost := r.roles(ann.ID, "manager")
		made := r.submit(r.boss, user.ActionCreate, user.NewID("new@example.com"), user.New{Email: "new@example.com"})
		all := []string{done, removed, lost, made}
		testkit.Eventually(t, soon, func() error {
			if n, _, err := r.store.QueueLength(t.Context()); err != nil || n < len(all) {
				return fmt.Errorf("%d are queued: %w", n, err)
			}
			return nil
		})
		r.forget()
		next := r.roles(ann.ID, "finance")
		r.start(nil)
		for c, want := range map[string]events.Status{
			done: events.StatusApplied, removed: events.StatusApplied, lost: events.StatusFailed, made: events.StatusFailed, next: events.StatusApplied,
		} {
			if row := r.status(c, want); want == events.StatusFailed && row.Code != "gone" {
				t.Errorf("%+v", row)
			}
		}
		r.agrees(ann.ID, "finance")
		r.agrees(bob.ID, "manager")
		if _, err := r.store.Get(t.Context(), user.Kind, eve.ID); err == nil {
			t.Error("eve is still in the directory")
		}
		r.outcomes(append(all, next)...)
		if have := r.dead(); fmt.Sprint(have) != "[gone gone]" {
			t.Errorf("dead letters: %v", have)
		}
	})
}

// forget has the ledger trim all that is on it.
func (r *rig) forget() {
	r.t.Helper()
	nc := need(nats.Connect(r.nats))(r.t)
	defer nc.Close()
	js := need(nc.JetStream())(r.t)
	cfg := need(js.StreamInfo(events.StreamLedger))(r.t).Config
	short := cfg
	short.MaxAge, short.Duplicates = 100*time.Millisecond, 100*time.Millisecond
	need(js.UpdateStream(&short))(r.t)
	testkit.Eventually(r.t, soon, func() error {
		info, err := js.StreamInfo(events.StreamLedger)
		if err == nil && info.State.Msgs > 0 {
			err = fmt.Errorf("%d messages are left", info.State.Msgs)
		}
		return err
	})
	need(js.UpdateStream(&cfg))(r.t)
}

// deaf is a Stytch that does not answer about some users.
type deaf struct {
	Stytch
	mu sync.Mutex
	to map[string]bool
}

func (d *deaf) UpdateUser(ctx context.Context, id string, up identity.Update) (identity.User, error) {
	d.mu.Lock()
	no := d.to[id]
	d.mu.Unlock()
	if no {
		return identity.User{}, fault.Unreachable("stytch", fmt.Errorf("no answer about %s", id))
	}
	return d.Stytch.UpdateUser(ctx, id, up)
}

// TestMoreLanesThanAreLookedAt: users of whom Stytch does not hear, more than are looked at, do not keep the others
// waiting; what is kept of them is bounded, and beyond that they wait, and nothing is lost.
func TestMoreLanesThanAreLookedAt(t *testing.T) {
	databases(t, func(t *testing.T, r *rig) {
		const looked, kept = 4, 8
		var stuck, free []string
		d := &deaf{to: map[string]bool{}}
		for i := range kept {
			id := r.person(fmt.Sprintf("stuck%d@example.com", i), "user").ID
			if i >= looked { // not yet
				free = append(free, id)
				continue
			}
			d.to[id] = true
			stuck = append(stuck, r.roles(id, "manager"))
		}
		for _, c := range stuck {
			r.queued(c)
		}
		r.start(nil, func(w *Worker) {
			d.Stytch, w.Stytch = w.Stytch, d
			w.looked, w.kept = looked, kept
		})
		var others []string
		for i := range 20 {
			others = append(others, r.roles(r.person(fmt.Sprintf("p%d@example.com", i), "user").ID, "manager"))
		}
		for _, c := range others { // there are as many stuck ones as are looked at
			r.status(c, events.StatusApplied)
		}
		// As many as are kept: who comes now waits until one of them is heard.
		d.mu.Lock()
		for _, id := range free {
			d.to[id] = true
		}
		d.mu.Unlock()
		for _, id := range free {
			stuck = append(stuck, r.roles(id, "manager"))
		}
		for _, c := range stuck {
			testkit.Eventually(t, soon, func() error {
				row, err := r.store.Command(t.Context(), c)
				if err == nil && row.Attempts < stuckAfter+1 {
					err = fmt.Errorf("%d attempts", row.Attempts)
				}
				return err
			})
		}
		last := r.roles(r.person("last@example.com", "user").ID, "manager")
		r.queued(last)
		d.mu.Lock()
		d.to = map[string]bool{}
		d.mu.Unlock()
		all := append(append(stuck, others...), last)
		for c, o := range r.outcomes(all...) {
			if o.Status != events.StatusApplied {
				t.Errorf("%s: %+v", c, o)
			}
		}
	})
}

// queued waits until a command is on the queue, and gives its row.
func (r *rig) queued(command string) (row store.Command) {
	r.t.Helper()
	testkit.Eventually(r.t, soon, func() (err error) {
		row, err = r.store.Command(r.t.Context(), command)
		return err
	})
	return row
}
