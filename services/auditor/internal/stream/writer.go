package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/telemetry"
)

// appendTimeout bounds one append to Redis.
const appendTimeout = 5 * time.Second

const (
	minBackoff = 10 * time.Millisecond
	maxBackoff = 2 * time.Second
)

// Writer copies the ledger's decisions and outcomes into the Log.
type Writer struct {
	ledger *ledger.Ledger
	log    *Log
	keys   *events.Keyring
	slog   *slog.Logger
	tel    *telemetry.Telemetry

	position atomic.Uint64 // ledger sequence up to which all is in Redis
	known    atomic.Value  // Marks: the last ids known to be in Redis
	entries  metric.Int64Counter
	refused  metric.Int64Counter
	batch    metric.Float64Histogram
}

// NewWriter makes a Writer.
func NewWriter(l *ledger.Ledger, log *Log, keys *events.Keyring, logger *slog.Logger, tel *telemetry.Telemetry) (*Writer, error) {
	w := &Writer{ledger: l, log: log, keys: keys, slog: logger, tel: tel}
	w.known.Store(Marks{})
	meter := tel.Meter()
	var err error
	if w.entries, err = meter.Int64Counter("writ.audit.entries", metric.WithUnit("{entry}"),
		metric.WithDescription("Entries appended, by stream")); err != nil {
		return nil, err
	}
	if w.refused, err = meter.Int64Counter("writ.dead.letters", metric.WithUnit("{message}"),
		metric.WithDescription("Dead letters by code")); err != nil {
		return nil, err
	}
	if w.batch, err = meter.Float64Histogram("writ.audit.append.duration", metric.WithUnit("s"),
		metric.WithDescription("One append of a batch to Redis"),
		metric.WithExplicitBucketBoundaries(.0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 5)); err != nil {
		return nil, err
	}
	_, err = meter.Int64ObservableGauge("writ.audit.lag", metric.WithUnit("{message}"),
		metric.WithDescription("Messages of the ledger that are not in the audit streams yet"),
		metric.WithInt64Callback(func(ctx context.Context, o metric.Int64Observer) error {
			lag, err := w.Lag(ctx)
			if err == nil {
				o.Observe(int64(lag))
			}
			return err
		}))
	return w, err
}

// Lag is how many messages of the ledger are not in Redis yet.
func (w *Writer) Lag(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	last, err := w.ledger.Last(ctx)
	if err != nil {
		return 0, err
	}
	return last - min(last, w.position.Load()), nil
}

// Run copies until ctx ends. Outages are waited out: while Redis is slow, full
// or gone the ledger keeps what is to be copied.
func (w *Writer) Run(ctx context.Context) error {
	wait := minBackoff
	for ctx.Err() == nil {
		progress := false
		err := w.follow(ctx, &progress)
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, ErrAhead) {
			return err
		}
		if progress {
			wait = minBackoff
		}
		if !errors.Is(err, ErrMoved) {
			w.slog.WarnContext(ctx, "audit log waits", "error", err, "wait", wait)
		}
		t := time.NewTimer(wait/2 + rand.N(wait/2+1))
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		wait = min(2*wait, maxBackoff)
	}
	return nil
}

// ErrAhead means that Redis holds entries of sequences that the ledger has not
// got: they do not belong together, or the ledger was lost.
var ErrAhead = errors.New("the audit streams are ahead of the ledger: they do not belong together, or the ledger was lost (docs/runbook.md)")

// follow copies from the position that Redis tells until something fails.
func (w *Writer) follow(ctx context.Context, progress *bool) error {
	pos, err := w.begin(ctx)
	if err != nil {
		return err
	}
	w.position.Store(pos.Sequence())
	w.know(pos)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var guard sync.WaitGroup
	defer guard.Wait()
	defer cancel(nil)
	guard.Go(func() { w.guard(ctx, cancel) })
	err = w.ledger.Follow(ctx, pos.Sequence()+1, func(ctx context.Context, batch []ledger.Record) error {
		entries, traces, err := w.convert(ctx, pos, batch)
		if err != nil {
			return err
		}
		if len(entries) > 0 {
			started := time.Now()
			// A stop must not cut an append off half way through its answer.
			actx, cancel := context.WithTimeout(context.WithoutCancel(ctx), appendTimeout)
			defer cancel()
			next, err := w.log.Append(actx, pos, entries)
			if err != nil {
				return err
			}
			pos = next
			w.know(pos)
			w.observe(ctx, entries, traces, started)
		}
		*progress = true
		w.position.Store(batch[len(batch)-1].Sequence)
		return nil
	})
	if cause := context.Cause(ctx); errors.Is(cause, ErrMoved) {
		return cause
	}
	return err
}

// begin gives the position to copy from. Streams that have not lost the same
// have no position: they are deleted, to be filled from the ledger.
func (w *Writer) begin(ctx context.Context) (Position, error) {
	pos, err := w.log.Position(ctx)
	if err != nil {
		return pos, err
	}
	had := pos.Marks
	if had == (Marks{}) && !pos.Empty() {
		// Only without marks is this writer's memory worth more: with them the
		// streams may be shorter because another auditor is filling them again.
		had = w.known.Load().(Marks)
	}
	last, err := w.ledger.Last(ctx)
	if err != nil {
		return pos, err
	}
	// What is left of another ledger's streams must not be deleted either.
	if pos.Sequence() > last || !pos.Empty() && max(pos.Marks.Decisions.Sequence, pos.Marks.Outcomes.Sequence) > last {
		return pos, ErrAhead
	}
	if !pos.Below(had) {
		return pos, nil
	}
	w.slog.WarnContext(ctx, "the audit streams have lost entries, filling them from the beginning",
		"decisions", pos.Decisions, "outcomes", pos.Outcomes, "had_decisions", had.Decisions, "had_outcomes", had.Outcomes)
	return w.log.Reset(ctx, pos)
}

func (w *Writer) know(pos Position) { w.known.Store(Marks{pos.Decisions, pos.Outcomes}) }

// guardEvery is how often Redis is asked whether it still has what it was given.
const guardEvery = time.Second

// guard ends the copying when Redis has lost entries, so that it begins again
// from what is left: without traffic no append would notice.
func (w *Writer) guard(ctx context.Context, end context.CancelCauseFunc) {
	tick := time.NewTicker(guardEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		known := w.known.Load().(Marks)
		if pos, err := w.log.Position(ctx); err == nil && (pos.Below(known) || pos.Below(pos.Marks)) {
			w.slog.WarnContext(ctx, "Redis has lost entries", "decisions", pos.Decisions, "outcomes", pos.Outcomes,
				"had_decisions", known.Decisions, "had_outcomes", known.Outcomes)
			end(ErrMoved)
			return
		}
	}
}

// convert makes the entries of a batch. What cannot be believed becomes a dead
// letter and no entry.
func (w *Writer) convert(ctx context.Context, pos Position, batch []ledger.Record) ([]Entry, []context.Context, error) {
	ms := pos.Ms()
	entries := make([]Entry, 0, len(batch))
	traces := make([]context.Context, 0, len(batch))
	for _, r := range batch {
		e, err := events.Parse(r.Data)
		if err == nil {
			err = e.Verify(w.keys, r.Subject)
		}
		if err != nil {
			if err := w.bury(ctx, r, err); err != nil {
				return nil, nil, err
			}
			continue
		}
		// A clock that stepped back must not break the order of the ids.
		ms = max(ms, uint64(max(r.Time.UnixMilli(), 0)))
		entry := Entry{Stream: Decisions, ID: ID{ms, r.Sequence}, Field: "decision", Record: e.RawDecision, Seal: e.Seal.KeyID + "." + e.Seal.MAC}
		if e.Type == events.TypeOutcome {
			entry.Stream, entry.Field, entry.Record = Outcomes, "outcome", e.RawOutcome
		}
		entries = append(entries, entry)
		traces = append(traces, telemetry.Extract(context.Background(), r.Header))
	}
	return entries, traces, nil
}

func (w *Writer) bury(ctx context.Context, r ledger.Record, cause error) error {
	code := "malformed"
	for e, c := range map[error]string{events.ErrSeal: "bad-seal", events.ErrMismatch: "mismatch", events.ErrVersion: "unknown-version"} {
		if errors.Is(cause, e) {
			code = c
		}
	}
	if err := w.ledger.Bury(ctx, ledger.DeadLetter{Service: "auditor", Code: code, Reason: cause.Error(), Deliveries: 1, Record: r}); err != nil {
		return fmt.Errorf("bury message %d: %w", r.Sequence, err)
	}
	w.refused.Add(ctx, 1, metric.WithAttributes(attribute.String("code", code)))
	w.slog.WarnContext(ctx, "refused a message of the ledger", "sequence", r.Sequence, "subject", r.Subject, "error", cause)
	return nil
}

func (w *Writer) observe(ctx context.Context, entries []Entry, traces []context.Context, started time.Time) {
	done := time.Now()
	w.batch.Record(ctx, done.Sub(started).Seconds())
	n := map[string]int64{}
	for i, e := range entries {
		n[e.Stream]++
		_, span := w.tel.Tracer().Start(traces[i], "append "+e.Stream, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(started))
		if span.IsRecording() {
			span.SetAttributes(semconv.DBSystemNameKey.String("redis"), semconv.DBOperationName("XADD"), semconv.DBCollectionName(e.Stream),
				attribute.String("writ.entry.id", e.ID.String()))
		}
		span.End(trace.WithTimestamp(done))
	}
	for s, count := range n {
		w.entries.Add(ctx, count, metric.WithAttributes(attribute.String("stream", s)))
	}
}
