package roles

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/telemetry"
	"github.com/writ-project/writ/services/worker/internal/command"
)

// intend counts the attempt that is about to be made, in a transaction in which
// everything that it depends on is as it was decided on: from here on the effect
// may be there. errMoved if something is not.
func (w *Worker) intend(ctx context.Context, j *job) error {
	c := &j.event.Command
	noted := j.row
	noted.DecisionID, noted.Apply = j.event.Decision.ID, nil
	if j.second != nil {
		noted.DecisionID, noted.Apply = j.second.ID, j.apply
	}
	err := w.Store.Update(ctx, func(ctx context.Context, tx *store.Tx) error {
		if err := tx.Holds(ctx, j.lease); err != nil {
			return err
		}
		rows, err := tx.Rows(ctx, user.Kind, []string{c.ResourceID, c.PrincipalID})
		if err != nil {
			return err
		}
		if rowVersion(rows, c.ResourceID) != version(j.resource) || rowVersion(rows, c.PrincipalID) != version(j.principal) {
			return errMoved
		}
		if err := keepsAdmin(ctx, tx, j, rows); err != nil {
			return err
		}
		if err := tx.Tried(ctx, j.q.Sequence); err != nil {
			return err
		}
		return tx.PutCommand(ctx, noted)
	})
	if err == nil {
		j.row, j.intended = noted, true
		j.q.Attempts++
	}
	return err
}

func rowVersion(rows map[string]kind.Row, id string) int64 {
	if r, ok := rows[id]; ok {
		return r.Version
	}
	return 0
}

// errAdmins says that an admin cannot be taken away yet: what becomes of the
// others is open.
var errAdmins = fault.New(fault.Unavailable, "last-admin-open", "the other admins' roles are being changed")

// keepsAdmin makes sure that tenant default keeps an admin of whom it is known
// that they stay one. Commands come here one at a time (Tx.Holds).
func keepsAdmin(ctx context.Context, tx *store.Tx, j *job, rows map[string]kind.Row) error {
	c := &j.event.Command
	row, there := rows[c.ResourceID]
	first := c.Action == user.ActionBootstrap
	if !first && !(j.effect.endsAdmin() && there && user.IsAdmin(row, user.DefaultTenant)) {
		return nil
	}
	ids, err := tx.MayBeAdmins(ctx)
	if err != nil {
		return err
	}
	found, err := tx.Rows(ctx, user.Kind, ids)
	if err != nil {
		return err
	}
	changing, err := tx.Attempted(ctx)
	if err != nil {
		return err
	}
	others, sure := 0, 0
	for id, r := range found {
		if id == c.ResourceID || !user.IsAdmin(r, user.DefaultTenant) {
			continue
		}
		others++
		if changing[id] == "" {
			sure++
		}
	}
	delete(changing, c.ResourceID)
	switch {
	case first && others > 0:
		return errMoved // decided on there being none
	case first && slices.Contains(slices.Collect(maps.Values(changing)), user.ActionBootstrap):
		return errAdmins // another one may be the first
	case first || sure > 0:
		return nil
	case others > 0:
		return errAdmins
	}
	return refuse(fault.Conflict("last-admin", "tenant %s would have no admin left", user.DefaultTenant))
}

// tries is how often the command has been tried, this time included.
func (j *job) tries() int {
	n := j.q.Attempts
	if !j.intended {
		n++
	}
	return max(j.row.Attempts+1, n)
}

// noted takes the decision that an earlier attempt was made under.
func (j *job) noted() error {
	if len(j.row.Apply) == 0 {
		return nil
	}
	j.second, j.apply = &events.Decision{}, j.row.Apply
	if err := json.Unmarshal(j.apply, j.second); err != nil {
		return fmt.Errorf("read the second decision of command %s: %w", j.q.CommandID, err)
	}
	return nil
}

// commit writes the row and the command's ending, if the lease is still held.
func (w *Worker) commit(ctx context.Context, j *job) error {
	c, id := &j.event.Command, j.effect.user(j)
	var done store.Command
	err := w.Store.Update(ctx, func(ctx context.Context, tx *store.Tx) error {
		if err := tx.Holds(ctx, j.lease); err != nil {
			return err
		}
		end := command.Ending{Status: events.StatusApplied, Attempts: j.tries(), Second: j.second, Apply: j.apply}
		if id != "" && (j.recorded == nil || j.recorded.Status == events.StatusApplied) {
			next, err := w.writeRow(ctx, tx, j, id)
			if err != nil {
				return err
			}
			if next != nil {
				end.Version = next.Version
				if end.Result, err = json.Marshal(*next); err != nil {
					return refuse(fmt.Errorf("encode the result: %w", err))
				}
			}
		}
		var err error
		if done, err = j.settle(end); err != nil {
			return refuse(err)
		}
		if o := j.recorded; o != nil {
			done.Status, done.Code, done.Reason, done.Version, done.Attempts = o.Status, o.Code, o.Reason, o.Version, o.Attempts
			done.DecisionID, done.Outcome, done.Apply, done.At = o.DecisionID, j.recordedRaw, nil, o.At
		}
		return tx.PutCommand(ctx, done)
	})
	if store.IsPermanent(err) { // the cause may quote the data: it is logged, not recorded
		w.Log.ErrorContext(ctx, "the database refuses a user's data", "command", c.ID, "error", err)
		return fail("failed", "the database refuses the user's data", errors.New("the database refuses the user's data"))
	}
	if err == nil {
		j.row = done
		w.metrics.Ended(ctx, done)
	}
	return err
}

// settle makes the command's row, which stays one whose outcome the apply loop
// does not tell.
func (j *job) settle(end command.Ending) (store.Command, error) {
	done, _, err := command.Settle(j.event, j.q.Sequence, end)
	done.Queued = true
	return done, err
}

// writeRow writes the user's row as the command leaves it.
func (w *Worker) writeRow(ctx context.Context, tx *store.Tx, j *job, id string) (*kind.Row, error) {
	// The apply loop changes a row in a transaction that has its shard's
	// position: with it nobody else does.
	if _, err := tx.Positions(ctx, []int{events.Shard(id, w.Ledger.Shards())}); err != nil {
		return nil, err
	}
	rows, err := tx.Rows(ctx, user.Kind, []string{id})
	if err != nil {
		return nil, err
	}
	gone, err := tx.Departed(ctx, []string{id})
	if err != nil {
		return nil, err
	}
	var before *kind.Row
	if r, ok := rows[id]; ok {
		before = &r
	}
	action := j.event.Command.Action
	if e, ok := j.effect.(*refresh); ok && e.gone {
		action = user.ActionDelete
	}
	switch {
	case action == user.ActionDelete:
		if err := tx.DeleteRows(ctx, user.Kind, []string{id}); err != nil {
			return nil, err
		}
		return nil, tx.Depart(ctx, id, command.Now())
	case gone[id] && action == user.ActionCreate:
		return nil, errMoved // deleted since the address was looked for
	case j.recorded == nil && before != nil && synced(before) != j.synced:
		return nil, errMoved // a sync came between, which may have asked Stytch later
	}
	next := j.effect.row(before, j)
	if next == nil {
		if j.recorded != nil {
			return nil, nil
		}
		return nil, refuse(fault.Missing(user.Kind.Name, id))
	}
	next = user.Synced(next, j.q.CommandID) // what Stytch said before is old from here on
	return next, tx.PutRows(ctx, user.Kind, []kind.Row{*next})
}

// reject ends a command that is not applied; its dead letter is stored first.
func (w *Worker) reject(ctx context.Context, j *job, no *refused) error {
	if no.dead {
		d := command.DeadLetter(j.rec, j.tries(), no.cause)
		d.Code = no.end.Code
		if err := w.Ledger.Bury(ctx, d); err != nil {
			return err
		}
		w.metrics.Buried(ctx, d.Code)
	}
	end := no.end
	end.Attempts, end.Second, end.Apply = j.tries(), j.second, j.apply
	done, err := j.settle(end)
	if err != nil {
		return err
	}
	err = w.Store.Update(ctx, func(ctx context.Context, tx *store.Tx) error {
		if err := tx.Holds(ctx, j.lease); err != nil {
			return err
		}
		return tx.PutCommand(ctx, done)
	})
	if err == nil {
		j.row = done
		w.metrics.Ended(ctx, done)
	}
	return err
}

// retrying makes it known that a command waits, and why.
func (w *Worker) retrying(ctx context.Context, j *job, cause error) {
	row := j.row
	row.Status, row.Attempts, row.At = events.StatusRetrying, j.tries(), command.Now()
	row.Code, row.Reason = "waiting", "it will be tried again"
	if f, ok := errors.AsType[*fault.Error](cause); ok {
		row.Code, row.Reason = f.Code, f.Message
	}
	err := w.Store.Update(ctx, func(ctx context.Context, tx *store.Tx) error {
		if err := tx.Holds(ctx, j.lease); err != nil {
			return err
		}
		return tx.PutCommand(ctx, row)
	})
	if err != nil {
		w.Log.DebugContext(ctx, "cannot tell that a command waits", "command", j.q.CommandID, "error", err)
	}
}

// announce puts the outcome on the ledger, tells whoever waits and takes the
// command off the queue. repeated says that this may have been done before.
func (w *Worker) announce(ctx context.Context, j *job, repeated bool) error {
	if err := w.at(afterCommit); err != nil {
		return err
	}
	if j.recorded == nil {
		if err := w.publish(ctx, j, repeated); err != nil {
			return err
		}
	}
	if j.event != nil {
		command.Notify(ctx, w.Ledger, w.Log, j.event.Command.ReplyTo, j.row)
	}
	if err := w.at(afterPublish); err != nil {
		return err
	}
	return w.Store.Update(ctx, func(ctx context.Context, tx *store.Tx) error { return tx.Dequeue(ctx, j.q.Sequence) })
}

// publish puts the second decision and the outcome on the ledger, once: where an
// earlier try may have done it they are looked for first, and nobody else can have
// appended in between.
func (w *Worker) publish(ctx context.Context, j *job, repeated bool) error {
	all, err := command.Messages(w.Keys, j.row)
	if err != nil {
		return err
	}
	w.telling.Lock()
	defer w.telling.Unlock()
	if w.told == nil {
		last, err := w.Ledger.LastOutcomes(ctx, events.SubjectStytchOutcomes)
		if err != nil {
			return err
		}
		w.told, repeated = &last, true // what stands there may be this one's, told by another process
	}
	if repeated {
		id := events.OutcomeID(j.row.ID)
		found, err := w.Ledger.Find(ctx, j.q.Sequence, []string{events.SubjectStytchOutcomes}, map[string]bool{id: true})
		if _, there := found[id]; there || err != nil {
			return err
		}
	}
	trace := telemetry.TraceParent(ctx)
	for i := range all {
		all[i].Trace = trace
	}
	last, err := w.Ledger.AppendOutcomes(ctx, events.SubjectStytchOutcomes, *w.told, []ledger.Answer{{Command: j.q.Sequence, Events: all}})
	if err != nil {
		w.told = nil // it is open where they end
		return err
	}
	w.told = &last
	return nil
}
