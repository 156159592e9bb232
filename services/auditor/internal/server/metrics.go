package server

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/writ-project/writ/pkg/events"
)

// metrics are of the HTTP side; requests are counted by otelhttp.
type metrics struct {
	decisions metric.Int64Counter
}

func newMetrics(meter metric.Meter, s *Server) (*metrics, error) {
	var m metrics
	var err error
	if m.decisions, err = meter.Int64Counter("writ.decisions", metric.WithUnit("{decision}"),
		metric.WithDescription("Decisions by kind, action, effect and stage")); err != nil {
		return nil, err
	}
	_, err = meter.Int64ObservableGauge("writ.audit.streams", metric.WithUnit("{stream}"),
		metric.WithDescription("Clients that follow the audit log"),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(int64(s.streams.count()))
			return nil
		}))
	return &m, err
}

func (m *metrics) decided(ctx context.Context, d *events.Decision) {
	m.decisions.Add(ctx, 1, metric.WithAttributes(attribute.String("kind", d.Resource.Kind), attribute.String("action", d.Action),
		attribute.String("effect", string(d.Effect)), attribute.String("stage", string(d.Stage))))
}
