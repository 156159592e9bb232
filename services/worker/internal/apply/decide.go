package apply

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/services/worker/internal/command"
)

// attempts is how often a handler that crashes is tried.
const attempts = 3

// process works one command into the state and moves the position past it, or
// blocks when Cerbos does not answer: order forbids to go on.
func (s *shard) process(ctx context.Context, st *state, it *item) {
	if it.unburied != nil {
		st.blocked = it.unburied
		return
	}
	if err := s.settle(ctx, st, it); err != nil {
		st.blocked = err
		return
	}
	st.moved = it.Address
}

// settle brings a command to its end in the state. The error is what it waits for.
func (s *shard) settle(ctx context.Context, st *state, it *item) error {
	if it.refused != nil {
		st.refused = append(st.refused, it)
		return nil
	}
	c := &it.event.Command
	if known, ok := st.commands[c.ID]; ok {
		// The same id again: a retry whose first try was on its way, or is long done.
		// Its effect is there; a different command is refused.
		if known.Fingerprint != c.Fingerprint {
			st.bury(it, command.ErrReused)
		} else if known.Status.Final() {
			st.repeated = append(st.repeated, &resultOf{it: it, row: known})
		}
		return nil
	}
	if it.copied {
		return nil // what it did is done where the other copy stands
	}
	r := &resultOf{it: it}
	if first, ok := st.keys[c.Key]; ok && c.Key != "" && first.ID != c.ID {
		r.other = true // the key is the first one's
		if it.recorded == nil {
			st.reject(r, command.KeyReused())
			return nil
		}
	}
	if it.external() && it.recorded == nil {
		if err := it.event.Expired(command.Now()); err != nil {
			st.reject(r, err)
		} else {
			st.enqueue(it)
		}
		return nil
	}
	var err error
	if it.recorded != nil {
		err = st.repeat(r)
	} else {
		var row *kind.Row
		if row, err = s.execute(ctx, st, it, r); err == nil {
			err = st.finish(r, row)
		}
	}
	switch {
	case err == nil:
	case it.recorded == nil && fault.Is(err, fault.Unavailable):
		return err
	case errors.Is(err, user.ErrAskAgain): // who decides it again
		st.enqueue(it)
	default:
		st.reject(r, err)
	}
	return nil
}

// execute decides whether the command may still be applied and applies it in
// memory. An error of pkg/fault rejects it, any other fails it.
func (s *shard) execute(ctx context.Context, st *state, it *item, r *resultOf) (*kind.Row, error) {
	c := &it.event.Command
	if it.poison != nil {
		return nil, errUnstorable // the cause may quote the data: it is logged, not recorded
	}
	if err := it.event.Expired(command.Now()); err != nil {
		return nil, err
	}
	h := it.handler
	row := st.rows[h.Kind][c.ResourceID]
	if row != nil && row.Tenant != c.Tenant && !h.Kind.In(*row, c.Tenant) {
		return nil, fault.Missing(c.Kind, c.ResourceID)
	}
	if row == nil && (c.Action != h.Creates || st.departed[c.ResourceID]) {
		// Deleted meanwhile. What today's policy says of it is recorded all the same.
		if err := s.decideAgain(ctx, st, row, r); err != nil && !fault.Is(err, fault.Denied) {
			return nil, err
		}
		return nil, fault.Missing(c.Kind, c.ResourceID)
	}
	if command.Stale(&it.event.Decision, versionOf(row), st.userVersion(it.event.Decision.Principal.ID), st.revision) {
		if err := s.decideAgain(ctx, st, row, r); err != nil {
			return nil, err
		}
	}
	if version := versionOf(row); len(c.IfMatch) > 0 && !slices.Contains(c.IfMatch, version) {
		return nil, fault.Conflict("version-conflict", "%s %s is at version %d, not %d", c.Kind, c.ResourceID, version, c.IfMatch)
	}
	err := st.counts.room(h, c)
	if err != nil {
		return nil, err
	}
	for r.row.Attempts = 1; ; r.row.Attempts++ {
		var next *kind.Row
		if next, err = safely(h, row, c); err == nil {
			return next, nil
		}
		if crashed := (*crash)(nil); !errors.As(err, &crashed) || r.row.Attempts == attempts {
			return nil, err
		}
	}
}

// repeat does again what a command did before the database was restored: it was
// decided then, and its outcome is on the ledger.
func (s *state) repeat(r *resultOf) error {
	o, c := r.it.recorded, &r.it.event.Command
	var result []byte
	if o.Status == events.StatusApplied {
		h := r.it.handler
		next, err := safely(h, s.rows[h.Kind][c.ResourceID], c)
		if err != nil {
			return err
		}
		if result, err = encodeRow(next); err != nil {
			return err
		}
		s.set(h.Kind, c.ResourceID, next)
	}
	row := command.Row(r.it.event, r.it.Address)
	row.Status, row.Code, row.Reason, row.Version, row.Attempts = o.Status, o.Code, o.Reason, o.Version, o.Attempts
	row.DecisionID, row.Result, row.Outcome, row.At = o.DecisionID, result, r.it.recordedRaw, o.At
	if r.other || o.Code == command.CodeKeyReused {
		row.Key = "" // the first one's, which may be in another shard and come later now
	}
	r.row = row
	s.add(r)
	return nil
}

func (s *state) userVersion(id string) int64 {
	return versionOf(s.rows[user.Kind][id])
}

// versionOf gives a row's version, 0 when there is none.
func versionOf(row *kind.Row) int64 {
	if row == nil {
		return 0
	}
	return row.Version
}

// enqueue leaves a command to the role worker. From here on it is permitted as
// far as its expiry goes: it may wait for Stytch as long as it takes.
func (s *state) enqueue(it *item) {
	c := &it.event.Command
	row := command.Row(it.event, it.Address)
	row.Queued = true
	s.queued = append(s.queued, store.Queued{Sequence: it.Address, CommandID: c.ID, Lane: c.ResourceID})
	s.waiting = append(s.waiting, row)
	s.know(row)
}

// know keeps a command for those of the batch that come after it.
func (s *state) know(row store.Command) {
	s.commands[row.ID] = row
	if row.Key != "" {
		s.keys[row.Key] = row
	}
}

// add keeps what became of a command.
func (s *state) add(r *resultOf) {
	s.results = append(s.results, r)
	s.know(r.row)
}

// decideAgain asks Cerbos with today's attributes and keeps the answer as the
// second decision.
func (s *shard) decideAgain(ctx context.Context, st *state, row *kind.Row, r *resultOf) error {
	c := &r.it.event.Command
	var today *user.User
	if u := st.rows[user.Kind][c.PrincipalID]; u != nil {
		today = u.Value.(*user.User)
	}
	attrs, err := r.it.handler.Attrs(row, c)
	if err != nil {
		return fmt.Errorf("attributes of %s %s: %w", c.Kind, c.ResourceID, err)
	}
	res := events.Resource{Kind: c.Kind, ID: c.ResourceID, Version: versionOf(row), Attr: attrs}
	// One that does not answer, or slowly, must not keep the batch from being
	// committed: the commands that need no decision go on.
	if st.cerbos == nil && time.Now().After(st.decideBy) {
		st.cerbos = fault.Unreachable("cerbos", errSlow)
	}
	if st.cerbos != nil {
		return st.cerbos
	}
	r.second, r.raw, err = command.Again(ctx, s.authz, r.it.event, today, res)
	if fault.Is(err, fault.Unavailable) {
		st.cerbos = err
	}
	if r.second != nil {
		s.metrics.Decided(ctx, r.second)
	}
	return err
}

// finish records a command that was applied.
func (s *state) finish(r *resultOf, row *kind.Row) error {
	c := &r.it.event.Command
	result, err := encodeRow(row)
	if err != nil {
		return err
	}
	if err := s.end(r, command.Ending{Status: events.StatusApplied, Version: versionOf(row), Result: result}); err != nil {
		return err
	}
	d := r.it.handler.Kind
	s.set(d, c.ResourceID, row)
	if d == user.Kind && row == nil {
		s.departed[c.ResourceID] = true
	}
	return nil
}

// set has a row written at the end, nil to have it deleted.
func (s *state) set(d *kind.Definition, id string, row *kind.Row) {
	s.counts.changed(d, s.rows[d][id], row)
	s.rows[d][id] = row
	s.changed[d][id] = true
}

// reject records a command that was refused (an error of pkg/fault) or failed
// (any other, and a dead letter).
func (s *state) reject(r *resultOf, cause error) {
	end, dead := command.Refused(cause)
	if dead {
		s.bury(r.it, cause)
	}
	if err := s.end(r, end); err != nil {
		s.bury(r.it, err)
	}
}

// end makes the command's row and outcome.
func (s *state) end(r *resultOf, end command.Ending) (err error) {
	end.Attempts, end.Second, end.Apply = r.row.Attempts, r.second, r.raw
	row, made, err := command.Settle(r.it.event, r.it.Address, end)
	if err != nil {
		return err
	}
	if r.other {
		row.Key = ""
	}
	r.row, r.made = row, made
	s.add(r)
	return nil
}

func (s *state) bury(it *item, cause error) {
	s.dead = append(s.dead, command.DeadLetter(it.Record, 1, cause))
}

// crash is a panic of a handler.
type crash struct {
	value any
	stack []byte
}

func (c *crash) Error() string { return fmt.Sprintf("the handler crashed: %v", c.value) }

// errSlow is a Cerbos that answers, but not for all of a batch in time.
var errSlow = errors.New("too slow to decide the whole batch at once")

// errUnstorable is a command whose row the database refuses.
var errUnstorable = errors.New("the database refuses the resource's data")

// safely calls the handler; a panic is an error and changes nothing.
func safely(h Handler, row *kind.Row, c *events.Command) (next *kind.Row, err error) {
	defer func() {
		if v := recover(); v != nil {
			next, err = nil, &crash{value: v, stack: debug.Stack()}
		}
	}()
	return h.Apply(row, c)
}
