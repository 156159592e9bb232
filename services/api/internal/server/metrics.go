package server

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/writ-project/writ/pkg/events"
)

// metrics are the api's own; requests are counted by otelhttp.
type metrics struct {
	decisions metric.Int64Counter
	checks    metric.Int64Histogram
}

func newMetrics(meter metric.Meter) (*metrics, error) {
	var m metrics
	var err error
	if m.decisions, err = meter.Int64Counter("writ.decisions", metric.WithUnit("{decision}"),
		metric.WithDescription("Decisions by kind, action, effect and stage")); err != nil {
		return nil, err
	}
	m.checks, err = meter.Int64Histogram("writ.decision.duration", metric.WithUnit("us"),
		metric.WithDescription("How long Cerbos took"),
		metric.WithExplicitBucketBoundaries(5, 10, 20, 50, 100, 250, 500, 1000, 5000, 25000))
	return &m, err
}

func (m *metrics) decided(ctx context.Context, d *events.Decision) {
	m.decisions.Add(ctx, 1, metric.WithAttributes(attribute.String("kind", d.Resource.Kind), attribute.String("action", d.Action),
		attribute.String("effect", string(d.Effect)), attribute.String("stage", string(d.Stage))))
	m.checks.Record(ctx, d.TookMicros)
}
