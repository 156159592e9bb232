package roles

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/store"
)

// errSilent is why work was broken off by whoever may have lost the lease.
var errSilent = errors.New("no sign of life got through, the lease may be somebody else's")

// errStopped is why work was broken off by whoever was told to stop.
var errStopped = errors.New("stopped")

// lead works on the queue until it is empty, the lease is lost or ctx ends.
func (w *Worker) lead(ctx context.Context, l store.Lease) error {
	held, lose := context.WithCancelCause(context.WithoutCancel(ctx))
	var beating sync.WaitGroup
	beating.Go(func() { w.beat(held, lose, l) })
	err := w.schedule(ctx, held, lose, l)
	lost := context.Cause(held)
	lose(nil)
	beating.Wait()
	if errors.Is(err, errDied) || lost != nil && !errors.Is(lost, errStopped) {
		return errors.Join(err, lost)
	}
	giving, cancel := context.WithTimeout(context.WithoutCancel(ctx), readLimit)
	defer cancel()
	return errors.Join(err, w.Store.GiveLease(giving, l))
}

// beat gives signs of life and breaks everything off when none gets through.
// Its clock starts before the sign is written, that of others after.
func (w *Worker) beat(held context.Context, lose context.CancelCauseFunc, l store.Lease) {
	dog := time.AfterFunc(w.timing.hold, func() { lose(errSilent) })
	defer dog.Stop()
	tick := time.NewTicker(w.timing.beat)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-held.Done():
			return
		}
		sent := time.Now()
		err := w.Store.BeatLease(held, l)
		switch {
		case errors.Is(err, store.ErrLeaseLost):
			lose(err)
		case err == nil:
			dog.Reset(w.timing.hold - time.Since(sent))
		}
	}
}

// lane is the commands of one user, of which the first is tried.
type lane struct {
	busy     bool
	until    time.Time // when to try again
	failures int
	crashes  int
}

// ended is a lane that is empty, or whose first command must wait.
type ended struct {
	name string
	err  error
}

// schedule tries the first command of each lane, many lanes at a time. When it
// returns none is under way.
func (w *Worker) schedule(ctx, held context.Context, lose context.CancelCauseFunc, l store.Lease) error {
	lanes := map[string]*lane{}
	done := make(chan ended, maxBusy)
	busy, empty, look := 0, false, true
	var todo []store.Queued
	stopping, grace := ctx.Done(), (<-chan time.Time)(nil)
	var died error
	var pause time.Time // Stytch asked for it: its limits are the project's
	strangers := 0      // how often in a row it did not take our credentials: all commands' trouble
	for {
		ending := stopping == nil || held.Err() != nil || died != nil
		if look && !ending {
			heads, err := w.heads(held, lanes)
			if err != nil {
				w.Log.WarnContext(ctx, "cannot read the queue", "error", err)
			}
			todo, empty, look = heads, err == nil && len(heads) == 0, false
		}
		seen := time.Now()
		for ; !ending && len(todo) > 0 && busy < maxBusy && seen.After(pause); todo = todo[1:] {
			name := todo[0].Lane
			la := lanes[name]
			if la == nil {
				la = &lane{}
				lanes[name] = la
			}
			if la.busy || la.until.After(seen) {
				continue
			}
			la.busy = true
			busy++
			go func() { done <- ended{name, w.lane(ctx, held, l, name, la)} }()
		}
		if busy == 0 && (ending || empty) {
			return died
		}
		next := time.NewTimer(w.due(lanes, pause, seen))
		select {
		case e := <-done:
			busy--
			la := lanes[e.name]
			la.busy = false
			switch {
			case errors.Is(e.err, errDied):
				died = e.err
			case e.err == nil:
				delete(lanes, e.name)
				strangers = 0
			case errors.Is(e.err, errBusy):
				la.until = time.Now().Add(w.timing.first / 4)
			default:
				la.failures++
				wait := w.backoff(la.failures, e.err)
				la.until = time.Now().Add(wait)
				asked := identity.RetryAfter(e.err)
				if identity.CredentialsRefused(e.err) {
					strangers++
					asked = w.backoff(strangers, e.err)
				}
				if until := time.Now().Add(asked); until.After(pause) {
					pause = until
					w.quiet.Store(until.UnixNano())
				}
				w.Log.WarnContext(ctx, "a command for Stytch waits", "user", e.name, "failures", la.failures, "wait", wait, "error", e.err)
			}
			look = look || len(todo) == 0
		case <-w.wake:
			look = true
		case <-next.C:
			look = true
		case <-stopping:
			stopping, grace = nil, time.After(w.timing.grace)
		case <-grace:
			lose(errStopped)
		}
		next.Stop()
	}
}

// heads reads the first commands of the lanes that are looked at, and forgets
// others where too many are kept: they begin anew when it is their turn.
func (w *Worker) heads(ctx context.Context, lanes map[string]*lane) ([]store.Queued, error) {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	limit := w.looked
	for _, la := range lanes {
		if !la.busy && la.failures >= stuckAfter {
			limit++
		}
	}
	heads, err := w.Store.Heads(ctx, min(limit, w.kept))
	if err == nil && len(lanes) > w.kept {
		near := map[string]bool{}
		for _, q := range heads {
			near[q.Lane] = true
		}
		maps.DeleteFunc(lanes, func(name string, la *lane) bool { return !la.busy && !near[name] })
	}
	return heads, err
}

// due is how long until a lane may be tried again, or the queue is looked at.
// Lanes that might have been tried at seen wait for room, not for a time.
func (w *Worker) due(lanes map[string]*lane, pause, seen time.Time) time.Duration {
	next := w.timing.poll
	sooner := func(t time.Time) {
		if t.After(seen) {
			next = min(next, max(time.Until(t), time.Millisecond))
		}
	}
	sooner(pause)
	for _, la := range lanes {
		if !la.busy {
			sooner(la.until)
		}
	}
	return next
}

// backoff is how long a lane waits after so many failures in a row: twice as
// long each time, half of it by chance, and never less than Stytch asked for.
func (w *Worker) backoff(failures int, err error) time.Duration {
	wait := w.timing.most
	if n := failures - 1; n < 20 {
		wait = min(w.timing.first<<n, wait)
	}
	wait = wait/2 + rand.N(wait/2+1)
	return max(wait, identity.RetryAfter(err))
}

// lane applies the commands of a lane, one after the other, until there is none
// or one must wait.
func (w *Worker) lane(ctx, held context.Context, l store.Lease, name string, la *lane) error {
	for ctx.Err() == nil && held.Err() == nil {
		more, err := w.next(held, l, name, la)
		if err != nil || !more {
			return err
		}
		la.failures, la.crashes = 0, 0
	}
	return nil
}

// next tries the first command of a lane.
func (w *Worker) next(held context.Context, l store.Lease, name string, la *lane) (more bool, err error) {
	if !w.lock(name) {
		return false, errBusy
	}
	defer w.unlock(name)
	ctx, cancel := context.WithTimeout(held, tryTimeout)
	defer cancel()
	q, found, err := w.Store.Head(ctx, name)
	if err != nil || !found {
		return false, err
	}
	w.metrics.inFlight.Add(ctx, 1)
	defer w.metrics.inFlight.Add(context.WithoutCancel(ctx), -1)
	return true, w.try(ctx, &job{q: q, lease: l}, la)
}
