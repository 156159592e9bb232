package roles

import (
	"context"
	"fmt"
	"time"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/store"
)

// An attempt that was given up, or whose process was paused or killed, may come
// to Stytch after the commands that followed it, and nobody hears of that. Stytch
// has no conditional updates, so it cannot be prevented; it is looked for, some
// times after each command that needed more than one attempt. Where Stytch has
// the memberships of another command than the directory, the command is put back
// on the queue, and whoever works there writes the directory's again (repair).

// maxInspected bounds how many users Stytch is asked about in one look for one age.
const maxInspected = 16

// watch is how far the commands have been looked after that are as old as age.
type watch struct {
	age time.Duration
	at  time.Time // of the last one
	id  string
}

// watches begin where a process that was here before may have ended: each goes
// back to where the next one begins, the last as far again.
func (w *Worker) watches(now time.Time) []watch {
	var all []watch
	for i, age := range w.timing.ages {
		back := 2 * age
		if i+1 < len(w.timing.ages) {
			back = w.timing.ages[i+1]
		}
		all = append(all, watch{age: age, at: now.Add(-back)})
	}
	return all
}

// verify looks after such commands until ctx ends. Every process does: it only
// reads, and what it puts back is put back once.
func (w *Worker) verify(ctx context.Context) {
	all := w.watches(time.Now())
	tick := time.NewTicker(w.timing.look)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for i := range all {
			if err := w.lookAfter(ctx, &all[i]); err != nil && ctx.Err() == nil {
				w.Log.DebugContext(ctx, "cannot look whether an old role change came late to Stytch, later", "error", err)
				break
			}
		}
	}
}

// lookAfter inspects the next commands of an age. After an error it goes on with
// the same one.
func (w *Worker) lookAfter(ctx context.Context, a *watch) error {
	if time.Now().UnixNano() < w.quiet.Load() {
		return nil // Stytch has asked for it
	}
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	all, err := w.Store.Tried(ctx, a.at, a.id, time.Now().Add(-a.age), maxInspected)
	if err != nil {
		return err
	}
	for _, c := range all {
		err := w.inspect(ctx, c)
		if identity.Temporary(err) || ctx.Err() != nil {
			return err
		}
		if err != nil { // it will not get better by asking again
			w.Log.WarnContext(ctx, "cannot tell whether an old role change came late to Stytch", "command", c.ID, "error", err)
		}
		a.at, a.id = c.At, c.ID
	}
	return nil
}

// inspect puts a command back whose user's memberships at Stytch are those of
// another command than the directory's, while none is under way.
func (w *Worker) inspect(ctx context.Context, c store.Command) error {
	id, err := userOf(c)
	if err != nil || id == "" {
		return err
	}
	u, err := w.Stytch.User(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	// In this order: a command that Stytch has seen is on the queue until its row is there.
	if _, under, err := w.Store.Head(ctx, id); err != nil || under {
		return err
	}
	row, err := w.load(ctx, id)
	if err != nil || row == nil || asUser(row).RolesCommand == u.RolesCommand {
		return err
	}
	w.Log.WarnContext(ctx, "Stytch has another role change than the directory", "user", id, "stytch", u.RolesCommand, "directory", asUser(row).RolesCommand)
	q := store.Queued{Sequence: c.Sequence, CommandID: c.ID, Lane: c.ResourceID}
	if err := w.Store.Update(ctx, func(ctx context.Context, tx *store.Tx) error { return tx.Requeue(ctx, q) }); err != nil {
		return fault.Unreachable("database", fmt.Errorf("put command %s back: %w", c.ID, err))
	}
	w.hint()
	return nil
}
