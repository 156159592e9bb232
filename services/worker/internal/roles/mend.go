package roles

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/services/worker/internal/command"
)

// recall finds the outcome that a command had before the database was restored
// from an older state. What it did to the directory is done again; what it did
// at Stytch is there.
func (w *Worker) recall(ctx context.Context, j *job) (done bool, err error) {
	id := events.OutcomeID(j.q.CommandID)
	found, err := w.Ledger.Find(ctx, j.q.Sequence, []string{events.AllOutcomes}, map[string]bool{id: true})
	if err != nil {
		return false, fmt.Errorf("recall the outcome of %s: %w", j.q.CommandID, err)
	}
	r, ok := found[id]
	if !ok {
		return false, nil
	}
	e, err := events.Parse(r.Data)
	if err != nil || e.Verify(w.Keys, r.Subject) != nil {
		return false, nil // not the worker's
	}
	j.recorded, j.recordedRaw = &e.Outcome, e.RawOutcome
	if e.Outcome.Status == events.StatusApplied {
		if err := j.effect.repeat(ctx, w, j); err != nil {
			return false, err
		}
	}
	return true, w.commit(ctx, j)
}

// giveUp ends a command of which nothing is left but its row. It fails, and the
// ones behind it go on; but what an earlier attempt has done at Stytch is done.
func (w *Worker) giveUp(ctx context.Context, j *job) error {
	j.event = eventOf(&j.row)
	switch j.row.Action {
	case user.ActionRoles, user.ActionBootstrap:
		j.effect = &change{unknown: true}
	case user.ActionDelete:
		j.effect = remove{}
	default:
		j.effect = nothing{}
	}
	if j.q.Sequence <= w.edge {
		if done, err := w.recall(ctx, j); done || err != nil {
			return err
		}
	}
	if j.q.Attempts > 0 {
		if done, err := w.tried(ctx, j); done || err != nil {
			return err
		}
	}
	return refuse(command.ErrGone)
}

// eventOf is what a command's row tells of its event.
func eventOf(row *store.Command) *events.Event {
	e := &events.Event{Command: events.Command{ID: row.ID, Kind: row.Kind, ResourceID: row.ResourceID, Action: row.Action,
		Tenant: row.Tenant, PrincipalID: row.PrincipalID, Fingerprint: row.Fingerprint, Key: row.Key, IssuedAt: row.IssuedAt}}
	e.Decision.ID = row.DecisionID
	return e
}

// putBack is for a try that may have reached Stytch although the lease was lost:
// paused, say, while another process applied this command and the next ones.
// What it wrote is then older than what should be there.
func (w *Worker) putBack(ctx context.Context, j *job) {
	if !j.intended {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readLimit)
	defer cancel()
	err := w.Store.Update(ctx, func(ctx context.Context, tx *store.Tx) error { return tx.Requeue(ctx, j.q) })
	if err != nil {
		w.Log.ErrorContext(ctx, "Stytch may have been told of an old role change, and nobody will look", "command", j.q.CommandID, "error", err)
	}
}

// userOf gives whom a command was about, "" for nobody: a create that made none.
func userOf(c store.Command) (string, error) {
	switch {
	case c.Action != user.ActionCreate:
		return c.ResourceID, nil
	case len(c.Result) == 0:
		return "", nil
	}
	var made user.User
	if err := json.Unmarshal(c.Result, &made); err != nil {
		return "", fmt.Errorf("read the result of command %s: %w", c.ID, err)
	}
	return made.ID, nil
}

// repair writes the directory's memberships to Stytch again.
func (w *Worker) repair(ctx context.Context, j *job) error {
	id, err := userOf(j.row)
	if err != nil || id == "" {
		return err
	}
	switch j.row.Action {
	case user.ActionDelete, user.ActionSync: // which has told Stytch nothing
		return nil
	case user.ActionCreate:
		if !w.lock(id) {
			return errBusy
		}
		defer w.unlock(id)
	}
	row, err := w.load(ctx, id)
	if err != nil || row == nil {
		return err
	}
	u := asUser(row)
	tenants := u.Tenants
	if tenants == nil {
		tenants = map[string]user.Membership{}
	}
	_, err = w.Stytch.UpdateUser(ctx, id, identity.Update{Tenants: tenants, RolesCommand: cmp.Or(u.RolesCommand, identity.NoCommand)})
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err == nil {
		w.Log.WarnContext(ctx, "an old role change that came late to Stytch was undone", "user", id)
	}
	return err
}
