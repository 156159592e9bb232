package server

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/problem"
	"github.com/writ-project/writ/pkg/request"
	"github.com/writ-project/writ/pkg/store"
)

// order is a mutation on its way to the ledger.
type order struct {
	caller      *gate.Caller
	key         string // idempotency key, "" for none
	wait        time.Duration
	waits       bool // the client asked to wait
	fingerprint string
	commandID   string
	keyID       string   // what stands for the key in commands, "" for none
	views       []string // the tenants that the answer tells about a user; none: the caller's
	// asked is whom a create of a user is about, and member whether the tenant knew them before.
	asked  *user.New
	member bool
}

// newOrder reads the headers that every mutation shares. The command's id comes
// from the idempotency key and the request, so a retry, on whatever instance and
// after whatever crash, is the same command. Another request under the key is
// another command: if two instances take them at the same moment, the worker
// applies the first and rejects the second, whose sender is told.
func newOrder(ctx context.Context, h MutationHeaders, parts ...string) (*order, error) {
	o := &order{caller: gate.CallerOf(ctx)}
	var err error
	if o.key, err = idempotencyKey(h.IdempotencyKey); err != nil {
		return nil, err
	}
	o.wait, o.waits = preferWait([]string{request.FieldLines(ctx, "Prefer")})
	sum := sha256.New()
	for _, p := range append(parts, request.FieldLines(ctx, "If-Match"), request.FieldLines(ctx, "If-None-Match"), request.FieldLines(ctx, "If-Unmodified-Since")) {
		fmt.Fprintf(sum, "%d:%s", len(p), p)
	}
	o.fingerprint = hex.EncodeToString(sum.Sum(nil))
	if o.key == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, fmt.Errorf("make a command id: %w", err)
		}
		o.commandID = id.String()
		return o, nil
	}
	o.keyID = keyedID(o.caller.Tenant, o.caller.ID, o.key)
	o.commandID = derivedID("writ command", o.keyID, o.fingerprint)
	return o, nil
}

// keyedID stands for an idempotency key of a principal in a tenant.
func keyedID(tenant, principal, key string) string {
	return derivedID("writ idempotency key", tenant, principal, key)
}

// derivedID makes an id of what identifies something: a UUIDv8 (RFC 9562, 5.8)
// over SHA-256.
func derivedID(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	var id uuid.UUID
	copy(id[:], sum[:])
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id.String()
}

// resourceID makes the id of a new resource: under an idempotency key always the
// same, so that every retry is answered with it.
func (o *order) resourceID() (string, error) {
	if o.keyID != "" {
		return derivedID("writ resource", o.commandID), nil
	}
	id, err := uuid.NewV7()
	return id.String(), err
}

// earlier finds the command that an idempotency key already stands for among
// those that are done. Found or not, nothing has been decided yet.
func (s *Server) earlier(ctx context.Context, o *order) (*command, error) {
	if o.keyID == "" {
		return nil, nil
	}
	row, err := s.Store.CommandByKey(ctx, o.keyID)
	if fault.Is(err, fault.NotFound) {
		if c, ok := s.recent.byKey(o.keyID); ok { // on its way
			return s.same(ctx, o, c)
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return s.same(ctx, o, fromRow(row))
}

// same gives the command that the key stands for if this request is the one
// that it was first sent with.
func (s *Server) same(ctx context.Context, o *order, c *command) (*command, error) {
	if c.Fingerprint != o.fingerprint {
		return nil, fault.New(fault.KeyReused, "idempotency-key-reused", "this Idempotency-Key was used for another request")
	}
	// The answer tells what became of the command, so it is a decision too.
	d, err := s.decideCommand(ctx, o.caller, c)
	if err != nil {
		return nil, err
	}
	if err := s.record(ctx, d); err != nil {
		return nil, err
	}
	if d.Effect != events.Allow {
		return nil, denied(d)
	}
	return s.await(ctx, o, c, nil)
}

// submit puts the command on the ledger with the decision that permits it, and
// waits for what becomes of it if the client asked to.
func (s *Server) submit(ctx context.Context, o *order, d *events.Decision, c events.Command) (*command, error) {
	if err := s.Backlog.Check(); err != nil {
		return nil, err
	}
	if c.Kind == user.Kind.Name && user.External(c.Action) {
		if err := s.Queue.Check(); err != nil {
			return nil, err
		}
	}
	c.ID, c.Key, c.Tenant, c.PrincipalID, c.Fingerprint = o.commandID, o.keyID, o.caller.Tenant, o.caller.ID, o.fingerprint
	c.IssuedAt = time.Now().UTC()
	var told <-chan events.Notice
	if o.wait > 0 {
		ch, done := s.waiters.wait(c.ID)
		defer done()
		told, c.ReplyTo = ch, s.waiters.subject
	}
	m, err := events.NewWrit(s.Keys, events.SourceAPI, d, &c, c.IssuedAt.Add(writLife))
	if err != nil {
		return nil, tooLarge(d, err)
	}
	actx, cancel := within(ctx, appendTimeout)
	defer cancel()
	if _, err := s.Ledger.Append(actx, m); err != nil {
		return nil, fmt.Errorf("submit command %s: %w", c.ID, err)
	}
	s.metrics.decided(ctx, d)
	accepted := &command{
		ID: c.ID, Status: events.StatusAccepted, Kind: c.Kind, ResourceID: c.ResourceID, Action: c.Action,
		PrincipalID: c.PrincipalID, Tenant: c.Tenant, IssuedAt: c.IssuedAt, DecisionID: d.ID, Key: c.Key, Fingerprint: c.Fingerprint,
	}
	s.recent.add(accepted)
	return s.await(ctx, o, accepted, told)
}

// How often SQL is asked about a command that nobody told about.
const (
	pollFirst = 25 * time.Millisecond
	pollMost  = 500 * time.Millisecond
)

// await gives the command as it stands when the client's wait is over or the
// command is done. told may be nil; what it loses is found in SQL.
func (s *Server) await(ctx context.Context, o *order, c *command, told <-chan events.Notice) (*command, error) {
	if o.wait <= 0 || c.Status.Final() {
		return c, nil
	}
	ctx, cancel := within(ctx, o.wait)
	defer cancel()
	poll := pollFirst
	if told != nil {
		poll = pollMost
	}
	for {
		t := time.NewTimer(poll)
		select {
		case n := <-told:
			t.Stop()
			return c.with(n), nil
		case <-ctx.Done():
			t.Stop()
			return c, nil
		case <-s.Stopping:
			t.Stop()
			return c, nil
		case <-t.C:
		}
		row, err := s.Store.Command(ctx, c.ID)
		if err == nil && row.Status.Final() {
			return fromRow(row), nil
		}
		poll = min(2*poll, pollMost) // an outage only costs the wait: the command is accepted
	}
}

// command is what is known of a command.
type command struct {
	ID, Kind, ResourceID, Action, PrincipalID, Tenant string
	Status                                            events.Status
	Code, Reason                                      string
	Attempts                                          int
	Version                                           int64
	DecisionID                                        string
	Key, Fingerprint                                  string
	IssuedAt, At                                      time.Time
	Result                                            []byte
}

func (c *command) with(n events.Notice) *command {
	out := *c
	out.Status, out.Code, out.Reason, out.Attempts = n.Status, n.Code, n.Reason, n.Attempts
	out.Version, out.DecisionID, out.Result, out.At = n.Version, n.DecisionID, n.Result, n.At
	return &out
}

func fromRow(r store.Command) *command {
	return &command{
		ID: r.ID, Kind: r.Kind, ResourceID: r.ResourceID, Action: r.Action, PrincipalID: r.PrincipalID, Tenant: r.Tenant,
		Status: r.Status, Code: r.Code, Reason: r.Reason, Attempts: r.Attempts, Version: r.Version, DecisionID: r.DecisionID,
		Key: r.Key, Fingerprint: r.Fingerprint, IssuedAt: r.IssuedAt, At: r.At, Result: r.Result,
	}
}

func fromEvent(e *events.Event) *command {
	c := e.Command
	return &command{
		ID: c.ID, Kind: c.Kind, ResourceID: c.ResourceID, Action: c.Action, PrincipalID: c.PrincipalID, Tenant: c.Tenant,
		Status: events.StatusAccepted, DecisionID: e.Decision.ID, Key: c.Key, Fingerprint: c.Fingerprint, IssuedAt: c.IssuedAt,
	}
}

// outcomeError is the problem that a command ended with; nil if it was applied
// or is not done.
func (c *command) outcomeError() error {
	kinds := map[string]fault.Kind{"denied": fault.Denied, "not-found": fault.NotFound, "already-exists": fault.KindConflict, problem.VersionConflict: fault.KindConflict, "idempotency-key-reused": fault.KeyReused}
	switch c.Status {
	case events.StatusRejected:
		k, ok := kinds[c.Code]
		if !ok {
			k = fault.KindConflict
		}
		e := fault.New(k, c.Code, "%s", c.Reason)
		if k == fault.Denied {
			e.DecisionID = c.DecisionID
		}
		return e
	case events.StatusFailed: // it was taken, and cannot be done: what GET /v1/commands/{id} tells
		return failure(c.Code, c.Reason)
	}
	return nil
}

// failure is the problem of a command that failed: it is in the way of what is
// there (409), or asks for what cannot be (422), which its code tells.
func failure(code, reason string) error {
	k := fault.KindConflict
	if code == "metadata-too-large" || strings.HasPrefix(code, "invalid-") { // Stytch's own types are among them
		k = fault.Invalid
	}
	return fault.New(k, cmp.Or(code, "failed"), "%s", cmp.Or(reason, "the command failed"))
}
