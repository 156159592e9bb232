package roles

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/stytchemu"
	"github.com/writ-project/writ/pkg/testkit"
)

// TestTwoWorkers: one is paused before it calls Stytch, the other takes over and
// goes on; the first one wakes up, writes old roles to Stytch, and that is undone.
func TestTwoWorkers(t *testing.T) {
	databases(t, func(t *testing.T, r *rig) {
		ann := r.person("ann@example.com", "user")
		paused, wake := make(chan struct{}), make(chan struct{})
		var once atomic.Bool
		r.start(nil, func(w *Worker) {
			inner := w.at
			w.at = func(at point) error {
				if at == beforeCall && once.CompareAndSwap(false, true) {
					close(paused)
					<-wake
				}
				return inner(at)
			}
			w.timing.beat = time.Hour // nothing of a paused process runs
			w.timing.hold = time.Hour
		})
		old := r.roles(ann.ID, "manager")
		<-paused
		r.start(nil)
		r.status(old, events.StatusApplied)
		newer := r.roles(ann.ID, "finance")
		r.status(newer, events.StatusApplied)
		r.agrees(ann.ID, "finance")
		before := r.puts.Load()
		close(wake)
		testkit.Eventually(t, soon, func() error { // its write arrives, and is undone
			if n := r.puts.Load() - before; n < 2 {
				return fmt.Errorf("%d writes", n)
			}
			return nil
		})
		r.agrees(ann.ID, "finance")
		r.outcomes(old, newer)
	})
}

// watchful looks after what may come late to Stytch.
func watchful(w *Worker) {
	w.timing.look = 50 * time.Millisecond
	w.timing.ages = []time.Duration{100 * time.Millisecond, time.Second, 5 * time.Second, time.Minute}
}

// settled waits until Stytch has the memberships of a command, and nothing is under way.
func (r *rig) settled(id, command string) {
	r.t.Helper()
	testkit.Eventually(r.t, soon, func() error {
		u, err := r.stytch.User(r.t.Context(), id)
		if err == nil && u.RolesCommand != command {
			err = fmt.Errorf("Stytch has %q, not %q", u.RolesCommand, command)
		}
		return err
	})
	r.idle()
}

// TestWokenAndKilled: as in TestTwoWorkers, but the first one is killed before it notices that the lease is lost, so that
// nobody tells of what it wrote.
func TestWokenAndKilled(t *testing.T) {
	databases(t, func(t *testing.T, r *rig) {
		ann := r.person("ann@example.com", "user")
		paused, wake := make(chan struct{}), make(chan struct{})
		p := r.start(func(at point) bool { return at == afterCall }, func(w *Worker) {
			inner := w.at
			w.at = func(at point) error {
				if at == beforeCall {
					close(paused)
					<-wake
				}
				return inner(at)
			}
			w.timing.beat, w.timing.hold = time.Hour, time.Hour // nothing of a paused process runs
		})
		old := r.roles(ann.ID, "manager")
		<-paused
		r.start(nil, watchful)
		r.status(old, events.StatusApplied)
		newer := r.roles(ann.ID, "finance")
		r.status(newer, events.StatusApplied)
		r.settled(ann.ID, newer)
		before := r.puts.Load()
		close(wake)
		<-p.died // after its write
		testkit.Eventually(t, soon, func() error {
			if n := r.puts.Load() - before; n < 2 {
				return fmt.Errorf("%d writes", n)
			}
			return nil
		})
		r.settled(ann.ID, newer)
		r.agrees(ann.ID, "finance")
		r.outcomes(old, newer)
	})
}

// TestAWriteThatStytchDoesLate: an attempt that was broken off is done at Stytch after the commands that followed. It is
// undone, also where its own command failed in the end.
func TestAWriteThatStytchDoesLate(t *testing.T) {
	for _, ending := range []string{"applied", "failed"} {
		t.Run(ending, func(t *testing.T) {
			t.Parallel()
			r := sqlite(t)
			ann := r.person("ann@example.com", "user")
			p := r.start(nil)
			must(t, r.emulator.Fail(stytchemu.Fault{Kind: stytchemu.FaultLate, Path: "/v1/users/" + ann.ID, Delay: 6 * time.Second}))
			puts := r.puts.Load()
			old := r.roles(ann.ID, "manager")
			testkit.Eventually(t, soon, func() error { // it is under way
				if n := len(r.emulator.Faults()); n > 0 {
					return fmt.Errorf("%d faults stand", n)
				}
				return nil
			})
			p.end() // which breaks it off after a second
			want := []string{"finance"}
			if ending == "failed" {
				want = []string{"user"}
				r.forget()
			}
			r.start(nil, watchful)
			newest := ""
			if ending == "applied" {
				r.status(old, events.StatusApplied)
				newest = r.roles(ann.ID, "finance")
				r.status(newest, events.StatusApplied)
			} else {
				r.status(old, events.StatusFailed)
			}
			r.settled(ann.ID, newest)
			testkit.Eventually(t, soon, func() error { // the late write, and the one that undoes it
				if n := r.puts.Load() - puts; n < 2 || n < 4 && ending == "applied" {
					return fmt.Errorf("%d writes", n)
				}
				return nil
			})
			r.settled(ann.ID, newest)
			r.agrees(ann.ID, want...)
			r.outcomes(old)
		})
	}
}
