// Package command is what the worker's ways of applying a command have in
// common: whether a message may be believed, whether its decision still holds,
// and what is said of how it ended.
package command

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/ledger"
)

// Read reads a command of a shard and checks that it may be believed. The event
// is not nil where it could be read at all.
func Read(keys *events.Keyring, r ledger.Record, shards int) (*events.Event, error) {
	e, err := events.Parse(r.Data)
	if err != nil {
		return nil, err
	}
	if e.Type != events.TypeWrit {
		return e, fmt.Errorf("%w: a %s on a command's subject", events.ErrMismatch, e.Type)
	}
	if err := e.Verify(keys, r.Subject); err != nil {
		return e, err
	}
	if want := events.CommandSubject(events.Shard(e.Command.ResourceID, shards)); r.Subject != want {
		return e, fmt.Errorf("%w: on %s, its resource belongs to %s", ErrShard, r.Subject, want)
	}
	return e, nil
}

// ErrShard is a command that stands in a shard where its resource does not
// belong: whoever put it there counts other shards. Applied it would leave its
// resource's order.
var ErrShard = errors.New("the command stands in the wrong shard")

// Stale reports whether anything that the decision saw has moved on: the
// versions are those of today's rows, 0 for none. A decision that does not tell
// its policy revision is always stale.
func Stale(d *events.Decision, resource, principal int64, revision string) bool {
	return d.Resource.Version != resource || d.Principal.Version != principal ||
		d.Policy.Revision == "" || d.Policy.Revision != revision
}

// Again asks Cerbos about a command with today's attributes. today is the
// principal's row, nil for none. The answer and its bytes come with a
// fault.Denied, too.
func Again(ctx context.Context, az authz.Authorizer, e *events.Event, today *user.User, res events.Resource) (*events.Decision, []byte, error) {
	c, first := &e.Command, &e.Decision
	p := today.Principal(c.PrincipalID, c.Tenant, first.Request, c.IssuedAt)
	answer, err := az.Check(ctx, authz.Request{Principal: p, Resource: res, Actions: []string{c.Action}, Tenant: c.Tenant, Scope: authz.TenantScope(c.Tenant)})
	if err != nil {
		return nil, nil, fmt.Errorf("decide %s of %s %s again: %w", c.Action, c.Kind, c.ResourceID, err)
	}
	result := answer.For(c.Action)
	id, err := uuid.NewV7()
	if err != nil {
		return nil, nil, fmt.Errorf("make a decision id: %w", err)
	}
	second := &events.Decision{
		ID: id.String(), Stage: events.StageApply, Tenant: c.Tenant, Principal: p, Resource: res, Action: c.Action,
		Effect: result.Effect, Policy: result.Policy, CallID: answer.CallID, EvaluatedAt: answer.EvaluatedAt.UTC(),
		TookMicros: answer.Took.Microseconds(), Request: first.Request, TraceID: first.TraceID, Command: first.Command,
	}
	raw, err := events.EncodeDecision(second)
	if err != nil {
		return nil, nil, err
	}
	if result.Effect != events.Allow {
		err = fault.New(fault.Denied, "denied", "%s of this %s is no longer allowed", c.Action, c.Kind)
	}
	return second, raw, err
}

// ErrReused is a second, different command under an id that has been used.
var ErrReused = errors.New("another command of this id was applied before")

// CodeKeyReused is the code of what KeyReused rejects.
const CodeKeyReused = "idempotency-key-reused"

// KeyReused is a second, different command under an idempotency key.
func KeyReused() error {
	return fault.New(fault.KeyReused, CodeKeyReused, "this Idempotency-Key was used for another request")
}

// ErrGone is a command whose message is not on the ledger any more.
var ErrGone = errors.New("the ledger no longer has the command's message: trimmed, purged or deleted before it was applied")

// Code names a refusal for programs.
func Code(err error) string {
	for _, c := range []struct {
		err  error
		code string
	}{
		{events.ErrSeal, "bad-seal"}, {events.ErrMismatch, "mismatch"}, {events.ErrExpired, "expired"},
		{events.ErrVersion, "unknown-version"}, {events.ErrMalformed, "malformed"}, {ErrReused, "command-id-reused"},
		{ErrGone, "gone"}, {ErrShard, "wrong-shard"},
	} {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return "failed"
}

// DeadLetter makes a dead letter of a command.
func DeadLetter(r ledger.Record, attempts int, cause error) ledger.DeadLetter {
	return ledger.DeadLetter{Service: "worker", Code: Code(cause), Reason: cause.Error(), Deliveries: max(attempts, 1), Record: r}
}

// maxReason bounds the reason of an outcome, in bytes.
const maxReason = 500

// Printable makes a reason fit for every database and bounds it.
func Printable(s string) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", ""), "")
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "")
	}
	return s
}

// Now is when an outcome is made; whole microseconds, as SQL keeps it.
func Now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
