package apply

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
)

// attempts is how often a handler that crashes is tried.
const attempts = 3

// process works one command into the state and moves its partition's position,
// or blocks the partition when Cerbos does not answer: order forbids to go on.
func (l *Loop) process(ctx context.Context, s *state, it *item) {
	if it.unburied != nil {
		s.blocked[it.partition] = it.unburied
		return
	}
	if it.refused != nil {
		s.refused = append(s.refused, it)
		s.moved[it.partition] = it.Sequence
		return
	}
	c := &it.event.Command
	if known, ok := s.commands[c.ID]; ok {
		// The same id again: a retry under an idempotency key that JetStream no
		// longer recognized. Its effect is there; a different command is refused.
		if known.Fingerprint != c.Fingerprint {
			s.bury(it, errReused)
		}
		s.moved[it.partition] = it.Sequence
		return
	}
	r := &resultOf{it: it}
	if it.recorded != nil {
		if err := s.repeat(r); err != nil {
			s.reject(r, err)
		}
		s.moved[it.partition] = it.Sequence
		return
	}
	row, err := l.execute(ctx, s, it, r)
	if fault.Is(err, fault.Unavailable) {
		s.blocked[it.partition] = err
		return
	}
	if err == nil {
		err = s.finish(r, row)
	}
	if err != nil {
		s.reject(r, err)
	}
	s.moved[it.partition] = it.Sequence
}

// execute decides whether the command may still be applied and applies it in
// memory. An error of pkg/fault rejects it, any other fails it.
func (l *Loop) execute(ctx context.Context, s *state, it *item, r *resultOf) (*kind.Row, error) {
	c := &it.event.Command
	if it.poison != nil {
		return nil, errUnstorable // the cause may quote the data: it is logged, not recorded
	}
	if err := it.event.Expired(now()); err != nil {
		return nil, err
	}
	h := it.handler
	row := s.rows[h.Kind][c.ResourceID]
	if row != nil && row.Tenant != c.Tenant && !h.Kind.In(*row, c.Tenant) {
		return nil, fault.Missing(c.Kind, c.ResourceID)
	}
	if row == nil && c.Action != h.Creates {
		// Deleted meanwhile. What today's policy says of it is recorded all the same.
		if err := l.decideAgain(ctx, s, row, r); err != nil && !fault.Is(err, fault.Denied) {
			return nil, err
		}
		return nil, fault.Missing(c.Kind, c.ResourceID)
	}
	if stale(s, it, row) {
		if err := l.decideAgain(ctx, s, row, r); err != nil {
			return nil, err
		}
	}
	if version := versionOf(row); len(c.IfMatch) > 0 && !slices.Contains(c.IfMatch, version) {
		return nil, fault.Conflict("version-conflict", "%s %s is at version %d, not %d", c.Kind, c.ResourceID, version, c.IfMatch)
	}
	var err error
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
		s.rows[h.Kind][c.ResourceID] = next
		s.changed[h.Kind][c.ResourceID] = true
	}
	r.row = store.Command{
		ID: c.ID, Tenant: c.Tenant, Kind: c.Kind, ResourceID: c.ResourceID, Action: c.Action, PrincipalID: c.PrincipalID,
		Status: o.Status, Code: o.Code, Reason: o.Reason, Version: o.Version, Attempts: o.Attempts, Fingerprint: c.Fingerprint,
		DecisionID: o.DecisionID, Sequence: r.it.Sequence, Result: result, Outcome: r.it.recordedRaw, IssuedAt: c.IssuedAt, At: o.At,
	}
	s.results = append(s.results, r)
	s.commands[c.ID] = r.row
	return nil
}

// stale reports whether anything that the decision saw has moved on. A
// decision that does not tell its policy revision is always stale.
func stale(s *state, it *item, row *kind.Row) bool {
	d := &it.event.Decision
	return d.Resource.Version != versionOf(row) ||
		d.Principal.Version != s.userVersion(d.Principal.ID) ||
		d.Policy.Revision == "" || d.Policy.Revision != s.revision
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

// decideAgain asks Cerbos with today's attributes and keeps the answer as the
// second decision.
func (l *Loop) decideAgain(ctx context.Context, s *state, row *kind.Row, r *resultOf) error {
	c, first := &r.it.event.Command, &r.it.event.Decision
	var today *user.User
	if u := s.rows[user.Kind][c.PrincipalID]; u != nil {
		today = u.Value.(*user.User)
	}
	p := today.Principal(c.PrincipalID, c.Tenant, first.Request, c.IssuedAt)
	attrs, err := r.it.handler.Attrs(row, c)
	if err != nil {
		return fmt.Errorf("attributes of %s %s: %w", c.Kind, c.ResourceID, err)
	}
	res := events.Resource{Kind: c.Kind, ID: c.ResourceID, Version: versionOf(row), Attr: attrs}
	// One that does not answer, or slowly, must not keep the batch from being
	// committed: the commands that need no decision go on.
	if s.cerbos == nil && time.Now().After(s.decideBy) {
		s.cerbos = fault.Unreachable("cerbos", errSlow)
	}
	if s.cerbos != nil {
		return s.cerbos
	}
	answer, err := l.authz.Check(ctx, authz.Request{Principal: p, Resource: res, Actions: []string{c.Action}, Tenant: c.Tenant, Scope: authz.TenantScope(c.Tenant)})
	if err != nil {
		err = fmt.Errorf("decide %s of %s %s again: %w", c.Action, c.Kind, c.ResourceID, err)
		if fault.Is(err, fault.Unavailable) {
			s.cerbos = err
		}
		return err
	}
	result := answer.For(c.Action)
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make a decision id: %w", err)
	}
	r.second = &events.Decision{
		ID: id.String(), Stage: events.StageApply, Tenant: c.Tenant, Principal: p, Resource: res, Action: c.Action,
		Effect: result.Effect, Policy: result.Policy, CallID: answer.CallID, EvaluatedAt: answer.EvaluatedAt.UTC(),
		TookMicros: answer.Took.Microseconds(), Request: first.Request, TraceID: first.TraceID, Command: first.Command,
	}
	if r.raw, err = events.EncodeDecision(r.second); err != nil {
		return err
	}
	l.metrics.decided(ctx, r.second)
	if result.Effect != events.Allow {
		return fault.New(fault.Denied, "denied", "%s of this %s is no longer allowed", c.Action, c.Kind)
	}
	return nil
}

// finish records a command that was applied.
func (s *state) finish(r *resultOf, row *kind.Row) error {
	c := &r.it.event.Command
	result, err := encodeRow(row)
	if err != nil {
		return err
	}
	if err := s.settle(r, events.StatusApplied, "", "", versionOf(row), result); err != nil {
		return err
	}
	d := r.it.handler.Kind
	s.rows[d][c.ResourceID] = row
	s.changed[d][c.ResourceID] = true
	return nil
}

// reject records a command that was refused (an error of pkg/fault) or failed
// (any other, and a dead letter).
func (s *state) reject(r *resultOf, cause error) {
	status, word, reason := events.StatusFailed, code(cause), cause.Error()
	if e, ok := errors.AsType[*fault.Error](cause); ok && e.Kind != fault.Internal {
		status, word, reason = events.StatusRejected, e.Code, e.Message
	} else {
		reason = printable(reason)
		s.bury(r.it, cause)
	}
	if err := s.settle(r, status, word, reason, 0, nil); err != nil {
		s.bury(r.it, err)
	}
}

// settle makes the command's row and outcome.
func (s *state) settle(r *resultOf, status events.Status, word, reason string, version int64, result []byte) error {
	c, first := &r.it.event.Command, &r.it.event.Decision
	decision := first.ID
	if r.second != nil {
		decision = r.second.ID
	}
	o := events.Outcome{
		ID: events.OutcomeID(c.ID), CommandID: c.ID, Kind: c.Kind, ResourceID: c.ResourceID, Action: c.Action, Tenant: c.Tenant,
		Status: status, Code: word, Reason: reason, Version: version, DecisionID: decision, Sequence: r.it.Sequence,
		Attempts: max(r.row.Attempts, 1), At: now(), TraceID: first.TraceID,
	}
	raw, err := events.EncodeOutcome(&o)
	if err != nil {
		return err
	}
	r.made = o
	r.row = store.Command{
		ID: c.ID, Tenant: c.Tenant, Kind: c.Kind, ResourceID: c.ResourceID, Action: c.Action, PrincipalID: c.PrincipalID,
		Status: status, Code: word, Reason: reason, Version: version, Attempts: o.Attempts, Fingerprint: c.Fingerprint,
		DecisionID: decision, Sequence: r.it.Sequence, Result: result, Outcome: raw, Apply: r.raw, IssuedAt: c.IssuedAt, At: o.At,
	}
	s.results = append(s.results, r)
	s.commands[c.ID] = r.row
	return nil
}

func (s *state) bury(it *item, cause error) { s.dead = append(s.dead, deadLetter(it, cause)) }

func deadLetter(it *item, cause error) ledger.DeadLetter {
	return ledger.DeadLetter{Service: "worker", Code: code(cause), Reason: cause.Error(), Deliveries: it.deliveries, Record: it.Record}
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

// printable makes a reason fit for every database and bounds it.
func printable(s string) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "")
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "")
	}
	return s
}

// maxReason bounds the reason of an outcome, in bytes.
const maxReason = 500

// safely calls the handler; a panic is an error and changes nothing.
func safely(h Handler, row *kind.Row, c *events.Command) (next *kind.Row, err error) {
	defer func() {
		if v := recover(); v != nil {
			next, err = nil, &crash{value: v, stack: debug.Stack()}
		}
	}()
	return h.Apply(row, c)
}
