package apply

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/services/worker/internal/command"
)

type metrics struct {
	command.Metrics
	batchSize metric.Int64Histogram
	batchTime metric.Float64Histogram
	retries   metric.Int64Counter
}

func newMetrics(meter metric.Meter, l *ledger.Ledger, st *store.Store) (*metrics, error) {
	var m metrics
	var err error
	if m.batchSize, err = meter.Int64Histogram("writ.apply.batch.size", metric.WithUnit("{command}"),
		metric.WithDescription("Commands in one transaction"),
		metric.WithExplicitBucketBoundaries(1, 2, 4, 8, 16, 32, 64, 128, 256)); err != nil {
		return nil, err
	}
	if m.batchTime, err = meter.Float64Histogram("writ.apply.batch.duration", metric.WithUnit("s"),
		metric.WithDescription("From the start of the transaction to its commit"),
		metric.WithExplicitBucketBoundaries(.001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 5)); err != nil {
		return nil, err
	}
	if m.Metrics, err = command.NewMetrics(meter); err != nil {
		return nil, err
	}
	if m.retries, err = meter.Int64Counter("writ.apply.retries", metric.WithUnit("{batch}"),
		metric.WithDescription("Batches that had to be tried again")); err != nil {
		return nil, err
	}
	_, err = meter.Int64ObservableGauge("writ.apply.lag", metric.WithUnit("{command}"),
		metric.WithDescription("Commands on the ledger that are not applied yet, by shard"),
		metric.WithInt64Callback(func(ctx context.Context, o metric.Int64Observer) error {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			positions, err := st.Positions(ctx)
			if err != nil {
				return err
			}
			lag, err := l.Lag(ctx, positions)
			for shard, n := range lag {
				o.Observe(int64(n), metric.WithAttributes(attribute.Int("shard", shard)))
			}
			return err
		}))
	return &m, err
}

func (m *metrics) applied(ctx context.Context, s *state, commands int, took time.Duration) {
	m.batchSize.Record(ctx, int64(commands))
	m.batchTime.Record(ctx, took.Seconds())
	for _, r := range s.results {
		m.Ended(ctx, r.row)
	}
	for _, it := range s.refused {
		m.Buried(ctx, command.Code(it.refused))
	}
	for _, d := range s.dead {
		m.Buried(ctx, d.Code)
	}
}

// startSpan begins the span of a command in the trace of the request that sent
// it (OpenTelemetry's messaging conventions: a process span, one for each
// message of a batch).
func (l *Loop) startSpan(ctx context.Context, it *item) (context.Context, trace.Span) {
	return l.tel.Tracer().Start(ctx, "process "+events.StreamLedger, trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(semconv.MessagingSystemKey.String("nats"), semconv.MessagingOperationName("process"),
			semconv.MessagingOperationTypeProcess, semconv.MessagingDestinationName(it.Subject)))
}

func endSpan(it *item, err error) {
	if it.span == nil {
		return
	}
	if err != nil {
		it.span.RecordError(err)
	}
	it.span.End()
}

// traceCommit puts the transaction that several commands share into the trace
// of each of them.
func (l *Loop) traceCommit(items []*item, started, committed time.Time) {
	for _, it := range items {
		if it.span == nil || !it.span.IsRecording() {
			continue
		}
		_, span := l.tel.Tracer().Start(it.ctx, "transaction", trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(started),
			trace.WithAttributes(semconv.DBSystemNameKey.String(string(l.store.Dialect())), attribute.Int("writ.batch.size", len(items))))
		span.End(trace.WithTimestamp(committed))
	}
}
