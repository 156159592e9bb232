package stream

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/telemetry"
)

type metrics struct {
	entries metric.Int64Counter
	refused metric.Int64Counter
	trimmed metric.Int64Counter
	signed  metric.Int64Counter
	untold  metric.Int64Counter
	batch   metric.Float64Histogram
}

func (w *Writer) instrument() error {
	meter := w.Telemetry.Meter()
	for _, c := range []struct {
		into             *metric.Int64Counter
		name, unit, text string
	}{
		{&w.entries, "writ.audit.entries", "{entry}", "Entries appended, by stream"},
		{&w.refused, "writ.dead.letters", "{message}", "Dead letters by code"},
		{&w.trimmed, "writ.audit.trimmed", "{entry}", "Entries removed because they were older than the retention, by stream"},
		{&w.signed, "writ.audit.checkpoints", "{checkpoint}", "Checkpoints put on the ledger"},
		{&w.untold, "writ.audit.feed.dropped", "{event}", "Events that the live feed could not tell of"},
	} {
		var err error
		if *c.into, err = meter.Int64Counter(c.name, metric.WithUnit(c.unit), metric.WithDescription(c.text)); err != nil {
			return err
		}
	}
	var err error
	if w.batch, err = meter.Float64Histogram("writ.audit.append.duration", metric.WithUnit("s"),
		metric.WithDescription("One append of a batch to Redis"),
		metric.WithExplicitBucketBoundaries(.0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 5)); err != nil {
		return err
	}
	if _, err = meter.Int64ObservableGauge("writ.audit.lag", metric.WithUnit("{message}"),
		metric.WithDescription("Messages of the ledger that are not in the audit streams yet"),
		metric.WithInt64Callback(func(ctx context.Context, o metric.Int64Observer) error {
			lag, err := w.Lag(ctx)
			if err == nil {
				o.Observe(int64(lag))
			}
			return err
		})); err != nil {
		return err
	}
	_, err = meter.Int64ObservableGauge("writ.audit.contradiction", metric.WithUnit("{log}"), // not "1", which Prometheus is told as a ratio
		metric.WithDescription("1 while the audit log is not the one that was signed"),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			n := int64(0)
			if w.wrong.Load() != nil {
				n = 1
			}
			o.Observe(n)
			return nil
		}))
	return err
}

// observe counts what was appended and ends the records' traces.
func (w *Writer) observe(ctx context.Context, c *converted, started time.Time) {
	done := time.Now()
	w.batch.Record(ctx, done.Sub(started).Seconds())
	n := map[audit.Log]int64{}
	for i := range c.Items {
		item := &c.Items[i]
		n[item.Log]++
		if c.traces == nil || c.traces[i] == "" {
			continue
		}
		_, span := w.Telemetry.Tracer().Start(telemetry.FromTraceParent(context.Background(), c.traces[i]), "append "+item.Log.Stream(), trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(started))
		if span.IsRecording() {
			span.SetAttributes(semconv.DBSystemNameKey.String("redis"), semconv.DBOperationName("XADD"), semconv.DBCollectionName(item.Log.Stream()),
				attribute.String("writ.entry.id", item.ID.String()))
		}
		span.End(trace.WithTimestamp(done))
	}
	for l, count := range n {
		w.entries.Add(ctx, count, metric.WithAttributes(attribute.String("stream", l.Stream())))
	}
}
