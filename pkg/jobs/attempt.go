package jobs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/writ-project/writ/pkg/telemetry"
)

// errDied is what the last attempt ended with when its worker was killed.
var errDied = errors.New("the worker died in the middle of the attempt")

// maxError bounds the error in a record, in bytes.
const maxError = 1 << 10

// attempt runs the handler once and settles what comes of it.
func (w *worker) attempt(ctx context.Context, msg jetstream.Msg, j *Job) {
	j.Attempts = w.q.Attempts
	if j.Status == Running && j.Last() { // counted when it began: it never ended
		cause := errDied
		if j.Error != "" { // it did end, but its last step failed
			cause = errors.New(j.Error)
		}
		w.dead(ctx, msg, j, cause)
		return
	}
	j.Attempt++
	j.Status, j.StartedAt, j.FinishedAt, j.NotBefore, j.Error = Running, now(), time.Time{}, time.Time{}, ""
	if err := w.states.put(ctx, j); err != nil { // another worker or a person was faster, or an outage
		w.later(msg, time.Second)
		return
	}
	ctx, span := w.cfg.Tracer.Start(telemetry.Extract(ctx, msg.Headers()), "process JOBS", trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(attribute.String("writ.queue", j.Queue), attribute.String("writ.job", j.ID), attribute.Int("writ.attempt", j.Attempt)))
	defer span.End()
	err := w.work(ctx, msg, *j)
	if err != nil {
		span.SetStatus(codes.Error, "")
	}
	w.settle(context.WithoutCancel(ctx), msg, j, err)
}

// work calls the handler, and meanwhile keeps the message and listens for a
// cancellation.
func (w *worker) work(ctx context.Context, msg jetstream.Msg, j Job) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, w.q.Timeout, fmt.Errorf("the attempt took longer than %s", w.q.Timeout))
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		w.keep(ctx, stop, msg, j)
	}()
	defer func() {
		stop(nil)
		<-kept
	}()
	started := time.Now()
	w.metrics.started(ctx, j.Queue)
	defer func() {
		if v := recover(); v != nil {
			w.cfg.Log.ErrorContext(ctx, "a job's handler crashed", "queue", j.Queue, "job", j.ID, "error", fmt.Sprint(v), "stack", string(debug.Stack()))
			err = fmt.Errorf("the handler crashed: %v", v)
		}
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = errors.Join(cause, err)
		}
		w.metrics.ended(context.WithoutCancel(ctx), j.Queue, result(err), time.Since(started))
	}()
	return w.q.handle(ctx, j)
}

// keep says that the job is in work, and ends its context when the record is no
// longer this attempt's.
func (w *worker) keep(ctx context.Context, stop context.CancelCauseFunc, msg jetstream.Msg, j Job) {
	tick := time.NewTicker(min(w.q.AckWait/3, 2*time.Second))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		_ = msg.InProgress() // while NATS is away nobody else gets it either
		current, err := w.states.get(ctx, j.Queue, j.ID)
		switch {
		case err != nil || current == nil || current.revision <= j.revision:
		case current.Status == Cancelled:
			stop(ErrCancelled)
		default:
			stop(ErrLost)
		}
	}
}

func result(err error) string {
	switch {
	case err == nil:
		return "done"
	case errors.Is(err, ErrStopping), errors.Is(err, ErrLost):
		return "lost"
	}
	if _, ok := errors.AsType[*snoozed](err); ok {
		return "snoozed"
	}
	if _, ok := errors.AsType[*cancelled](err); ok || errors.Is(err, ErrCancelled) {
		return "cancelled"
	}
	return "failed"
}

func isExhausted(err error) bool {
	_, ok := errors.AsType[*exhausted](err)
	return ok
}

// settle acts on the handler's intent: first the record, then the message.
func (w *worker) settle(ctx context.Context, msg jetstream.Msg, j *Job, err error) {
	j.Error, j.FinishedAt = "", now()
	if err != nil {
		j.Error = printable(err.Error())
	}
	pause := time.Duration(0)
	switch r := result(err); {
	case r == "done":
		j.Status = Done
	case errors.Is(err, ErrCancelled), errors.Is(err, ErrLost):
		w.finishUnless(ctx, msg, err)
		return
	case r == "lost": // the worker stops: the attempt does not count
		j.Status, j.Attempt, j.Error = Queued, j.Attempt-1, ""
	case r == "snoozed":
		s, _ := errors.AsType[*snoozed](err)
		j.Status, j.Attempt, pause = Queued, j.Attempt-1, s.d
	case r == "cancelled":
		j.Status = Cancelled
	case j.Last() || isExhausted(err):
		w.dead(ctx, msg, j, err)
		return
	default:
		j.Status, pause = Retrying, w.pause(j.Attempt)
		w.cfg.Log.WarnContext(ctx, "job will be tried again", "queue", j.Queue, "job", j.ID, "attempt", j.Attempt, "pause", pause, "error", err)
	}
	if pause > 0 {
		j.NotBefore, j.FinishedAt = now().Add(pause), time.Time{}
	}
	if !w.keepRecord(ctx, j) {
		w.later(msg, time.Second) // the work is done once more: handlers are idempotent
		return
	}
	if j.Status.Final() {
		w.finish(ctx, msg)
		return
	}
	w.later(msg, pause)
}

// finishUnless takes a cancelled job's message away; one that another worker
// has is left to it.
func (w *worker) finishUnless(ctx context.Context, msg jetstream.Msg, err error) {
	if errors.Is(err, ErrCancelled) {
		w.finish(ctx, msg)
	}
}

// keepRecord writes the record, trying for a moment: it is the memory of the attempt.
func (w *worker) keepRecord(ctx context.Context, j *Job) bool {
	for wait := 50 * time.Millisecond; ; wait *= 2 {
		err := w.states.put(ctx, j)
		if err == nil {
			return true
		}
		if errors.Is(err, errChanged) || wait > time.Second {
			return false
		}
		sleep(ctx, wait)
	}
}

// dead ends a job whose attempts are used up.
func (w *worker) dead(ctx context.Context, msg jetstream.Msg, j *Job, cause error) {
	ctx, cancel := context.WithTimeout(ctx, 2*callTimeout)
	defer cancel()
	if w.q.Exhausted != nil {
		if j.Error = printable(cause.Error()); !w.keepRecord(ctx, j) {
			w.later(msg, time.Second)
			return
		}
		if err := w.exhausted(ctx, *j, cause); err != nil {
			w.cfg.Log.WarnContext(ctx, "a dead job's last step failed, it will be tried again", "queue", j.Queue, "job", j.ID, "error", err)
			w.later(msg, w.again(msg)) // the record says running on the last attempt: this comes again
			return
		}
	}
	if err := w.bury(ctx, msg, j.Sequence, j.Attempt, "failed", cause); err != nil {
		w.later(msg, time.Second)
		return
	}
	j.Status, j.Error, j.FinishedAt = Dead, printable(cause.Error()), now()
	w.metrics.died(ctx, j.Queue)
	w.cfg.Log.ErrorContext(ctx, "job is dead", "queue", j.Queue, "job", j.ID, "attempts", j.Attempt, "error", cause)
	if !w.keepRecord(ctx, j) {
		w.later(msg, time.Second)
		return
	}
	w.finish(ctx, msg)
}

func (w *worker) exhausted(ctx context.Context, j Job, cause error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("it crashed: %v", v)
		}
	}()
	return w.q.Exhausted(ctx, j, cause)
}

// pause is how long to wait after attempt n: exponential, with jitter.
func (q *registered) pause(n int) time.Duration {
	if q.Schedule != nil {
		return q.Schedule(n)
	}
	d := q.MaxBackoff
	if shift := n - 1; shift < 30 {
		d = min(q.Backoff<<shift, q.MaxBackoff)
	}
	return d/2 + rand.N(d/2+1)
}

func (w *worker) pause(n int) time.Duration { return w.q.pause(n) }

// again is how long to wait until a last step that failed is tried again: longer
// with each delivery, as there is no end to them.
func (w *worker) again(msg jetstream.Msg) time.Duration {
	n := uint64(1)
	if meta, err := msg.Metadata(); err == nil {
		n = max(meta.NumDelivered, uint64(w.q.Attempts)) - uint64(w.q.Attempts)
	}
	d := w.q.MaxBackoff
	if n < 30 {
		d = min(w.q.Backoff<<n, w.q.MaxBackoff)
	}
	return d/2 + rand.N(d/2+1)
}

// printable makes an error fit for a record.
func printable(s string) string {
	if len(s) > maxError {
		s = s[:maxError]
	}
	return strings.ToValidUTF8(s, "")
}
