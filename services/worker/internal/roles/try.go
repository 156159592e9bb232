package roles

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/telemetry"
	"github.com/writ-project/writ/services/worker/internal/command"
)

// job is one try at a command.
type job struct {
	q     store.Queued
	lease store.Lease
	row   store.Command // as SQL has it
	rec   ledger.Record
	event *events.Event

	effect effect
	// resource and principal are the rows that the decision was checked against.
	resource, principal *kind.Row
	// synced is what the user's row had been brought up to date by before Stytch
	// was asked. If that has moved on when the command is done, Stytch is asked again.
	synced   string
	second   *events.Decision // taken again, nil if the first one holds
	apply    []byte           // its bytes
	again    bool             // decide again, whatever the versions say
	intended bool             // this try has counted an attempt
	gone     bool             // the command's message is not on the ledger any more
	found    string           // the user whom a create has locked
	// recorded is the outcome that the command had before the database was
	// restored, and its bytes; nil for none.
	recorded    *events.Outcome
	recordedRaw []byte
}

var (
	// errBusy says that another command about the user is being tried.
	errBusy = errors.New("another command about this user is being tried")
	// errMoved says that what the decision saw has moved on.
	errMoved = errors.New("a row has changed meanwhile")
)

// refused ends a command: it will not be applied.
type refused struct {
	end   command.Ending
	dead  bool // it becomes a dead letter
	cause error
}

func (r *refused) Error() string { return r.cause.Error() }

// refuse ends a command as the apply loop would.
func refuse(cause error) error {
	end, dead := command.Refused(cause)
	return &refused{end: end, dead: dead, cause: cause}
}

// fail ends a command that Stytch refuses, or cannot be asked to do.
func fail(code, reason string, cause error) error {
	return &refused{end: command.Ending{Status: events.StatusFailed, Code: code, Reason: reason}, dead: true, cause: cause}
}

// maxCrashes is how often a command that crashes is tried.
const maxCrashes = 3

// try takes a command one step: off the queue when it returns nil, else it is to
// be tried again later.
func (w *Worker) try(ctx context.Context, j *job, la *lane) (err error) {
	if j.row, err = w.Store.Command(ctx, j.q.CommandID); err != nil {
		return err
	}
	if j.row.Status.Final() { // done, but perhaps not told
		if j.q.Attempts == store.Requeued {
			if err := w.repair(ctx, j); err != nil {
				return err
			}
		}
		return w.announce(ctx, j, true)
	}
	if j.rec, err = w.Ledger.Get(ctx, j.q.Sequence); err != nil {
		if j.gone, _ = w.Ledger.Gone(ctx, j.q.Sequence); !j.gone {
			return err
		}
		j.rec = ledger.Record{Address: j.q.Sequence, Subject: events.CommandSubject(events.Shard(j.row.ResourceID, w.Ledger.Shards()))}
	}
	ctx = telemetry.FromTraceParent(ctx, events.TraceOf(j.rec.Data))
	ctx, span := w.Telemetry.Tracer().Start(ctx, "process "+events.StreamLedger, trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(semconv.MessagingSystemKey.String("nats"), semconv.MessagingOperationName("process"),
			semconv.MessagingOperationTypeProcess, semconv.MessagingDestinationName(j.rec.Subject)))
	defer func() {
		if err != nil {
			span.RecordError(err)
		}
		span.End()
	}()
	defer func() {
		if j.found != "" {
			w.unlock(j.found)
		}
	}()
	err = w.guarded(ctx, j, la)
	no := (*refused)(nil)
	switch {
	case err == nil:
		w.metrics.attempt(ctx, "done")
	case errors.As(err, &no):
		w.metrics.attempt(ctx, "refused")
		err = w.reject(ctx, j, no)
	case errors.Is(err, errDied), errors.Is(err, errBusy):
		return err
	case errors.Is(err, store.ErrLeaseLost) || ctx.Err() != nil:
		w.putBack(ctx, j)
		return err
	}
	if err != nil {
		w.metrics.attempt(ctx, "retry")
		w.retrying(ctx, j, err)
		return err
	}
	return w.announce(ctx, j, false)
}

// guarded performs the command; a crash counts as a failure, and the third one
// ends it.
func (w *Worker) guarded(ctx context.Context, j *job, la *lane) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the handler crashed: %v", v)
			w.Log.ErrorContext(ctx, "the role worker's handler crashed", "command", j.q.CommandID, "value", v, "stack", string(debug.Stack()))
			if la.crashes++; la.crashes >= maxCrashes {
				err = refuse(err)
			}
		}
	}()
	return w.perform(ctx, j)
}

// perform brings a command to its end in SQL, or says why that must wait.
func (w *Worker) perform(ctx context.Context, j *job) error {
	if j.gone {
		return w.giveUp(ctx, j)
	}
	var err error
	if j.event, err = command.Read(w.Keys, j.rec, w.Ledger.Shards()); err == nil && j.event.Command.ID != j.q.CommandID {
		err = fmt.Errorf("%w: another command stands at %d now", events.ErrMismatch, j.q.Sequence)
	}
	if err != nil { // the apply loop could read it: somebody has been at the ledger, or at the keys
		j.event = eventOf(&j.row)
		return refuse(err)
	}
	if j.effect, err = effectOf(&j.event.Command); err != nil {
		return refuse(err)
	}
	if j.q.Sequence <= w.edge {
		if done, err := w.recall(ctx, j); done || err != nil {
			return err
		}
	}
	for range 5 {
		if err = w.attempt(ctx, j); !errors.Is(err, errMoved) {
			break
		}
		j.again = true
	}
	return err
}

// attempt decides, has the effect and records it. errMoved if what it went by has
// moved on.
func (w *Worker) attempt(ctx context.Context, j *job) error {
	if j.q.Attempts > 0 {
		if done, err := w.tried(ctx, j); done || err != nil {
			return err
		}
	}
	if err := w.decide(ctx, j); err != nil {
		return err
	}
	if err := j.effect.prepare(ctx, w, j); err != nil {
		return trouble(err)
	}
	if err := w.intend(ctx, j); err != nil {
		return err
	}
	if err := w.at(beforeCall); err != nil {
		return err
	}
	if err := j.effect.act(ctx, w, j); err != nil {
		return trouble(err)
	}
	if err := w.at(afterCall); err != nil {
		return err
	}
	return w.commit(ctx, j)
}

// tried records what an earlier attempt has done, if Stytch shows it, under the
// decision that was noted before that attempt.
func (w *Worker) tried(ctx context.Context, j *job) (done bool, err error) {
	if id := j.effect.user(j); id != "" {
		row, err := w.load(ctx, id)
		if err != nil {
			return false, err
		}
		j.synced = synced(row)
	}
	if done, err = j.effect.done(ctx, w, j); err != nil {
		return false, trouble(err)
	}
	if !done {
		return false, nil
	}
	if err := j.noted(); err != nil {
		return false, err
	}
	return true, w.commit(ctx, j)
}

// trouble sorts what Stytch says: what may go well later stays as it is, a
// refusal ends the command.
func trouble(err error) error {
	f, ok := errors.AsType[*fault.Error](err)
	no := (*refused)(nil)
	switch {
	case errors.As(err, &no), !ok, identity.Temporary(err):
		return err
	case f.Kind == fault.NotFound:
		return fail("not-found", "Stytch does not know this user", err)
	}
	return fail(f.Code, "Stytch refuses it: "+f.Code, err)
}

// decide makes sure that the command may still be applied, with another
// decision where the first one has gone stale.
func (w *Worker) decide(ctx context.Context, j *job) (err error) {
	c := &j.event.Command
	if j.resource, err = w.load(ctx, c.ResourceID); err != nil {
		return err
	}
	j.synced = synced(j.resource)
	if j.principal, err = w.load(ctx, c.PrincipalID); err != nil {
		return err
	}
	missing := j.resource == nil && c.Action != user.ActionCreate
	if missing || j.again || c.Action == user.ActionBootstrap ||
		command.Stale(&j.event.Decision, version(j.resource), version(j.principal), w.Authz.Revision()) {
		attrs, err := j.effect.attrs(ctx, w, j)
		if err != nil {
			return err
		}
		res := events.Resource{Kind: c.Kind, ID: c.ResourceID, Version: version(j.resource), Attr: attrs}
		j.second, j.apply, err = command.Again(ctx, w.Authz, j.event, asUser(j.principal), res)
		if j.second != nil {
			w.metrics.Decided(ctx, j.second)
		}
		switch {
		case fault.Is(err, fault.Unavailable) || ctx.Err() != nil:
			return err
		case missing: // deleted meanwhile; what today's policy says of it is recorded all the same
		case err != nil:
			return refuse(err)
		}
	}
	if missing {
		return refuse(fault.Missing(c.Kind, c.ResourceID))
	}
	if len(c.IfMatch) > 0 && !matches(c.IfMatch, version(j.resource)) {
		return refuse(fault.Conflict("version-conflict", "%s %s is at version %d, not %d", c.Kind, c.ResourceID, version(j.resource), c.IfMatch))
	}
	return nil
}

func matches(versions []int64, v int64) bool {
	for _, m := range versions {
		if m == v {
			return true
		}
	}
	return false
}

// load reads a user's row, nil for none.
func (w *Worker) load(ctx context.Context, id string) (*kind.Row, error) {
	row, err := w.Store.Get(ctx, user.Kind, id)
	if fault.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &row, nil
}

func version(row *kind.Row) int64 {
	if row == nil {
		return 0
	}
	return row.Version
}

// synced is what brought a row up to date last.
func synced(row *kind.Row) string {
	if row == nil {
		return ""
	}
	return asUser(row).Synced
}

func asUser(row *kind.Row) *user.User {
	if row == nil {
		return nil
	}
	return row.Value.(*user.User)
}
