package roles

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/store"
)

type metrics struct {
	attempts  metric.Int64Counter
	inFlight  metric.Int64UpDownCounter
	commands  metric.Int64Counter
	dead      metric.Int64Counter
	decisions metric.Int64Counter
}

func newMetrics(meter metric.Meter, s *store.Store) (*metrics, error) {
	var m metrics
	var err error
	if m.attempts, err = meter.Int64Counter("writ.roles.attempts", metric.WithUnit("{attempt}"),
		metric.WithDescription("Tries at commands for Stytch by result: done, refused or retry")); err != nil {
		return nil, err
	}
	if m.inFlight, err = meter.Int64UpDownCounter("writ.roles.in_flight", metric.WithUnit("{command}"),
		metric.WithDescription("Commands for Stytch that are being tried")); err != nil {
		return nil, err
	}
	// The next three are the apply loop's as well, so that they count everything.
	if m.commands, err = meter.Int64Counter("writ.apply.commands", metric.WithUnit("{command}"),
		metric.WithDescription("Commands by kind, action and status")); err != nil {
		return nil, err
	}
	if m.dead, err = meter.Int64Counter("writ.dead.letters", metric.WithUnit("{message}"),
		metric.WithDescription("Dead letters by code")); err != nil {
		return nil, err
	}
	if m.decisions, err = meter.Int64Counter("writ.decisions", metric.WithUnit("{decision}"),
		metric.WithDescription("Decisions by kind, action, effect and stage")); err != nil {
		return nil, err
	}
	waiting, err := meter.Int64ObservableGauge("writ.roles.waiting", metric.WithUnit("{command}"),
		metric.WithDescription("Commands for Stytch whose outcome is not on the ledger yet"))
	if err != nil {
		return nil, err
	}
	lag, err := meter.Float64ObservableGauge("writ.roles.lag", metric.WithUnit("s"),
		metric.WithDescription("How long ago the oldest of them was issued; 0 when there is none"))
	if err != nil {
		return nil, err
	}
	_, err = meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		n, oldest, err := s.QueueLength(ctx)
		if err != nil {
			return err
		}
		age := 0.0
		if n > 0 {
			age = max(time.Since(oldest).Seconds(), 0)
		}
		o.ObserveInt64(waiting, int64(n))
		o.ObserveFloat64(lag, age)
		return nil
	}, waiting, lag)
	return &m, err
}

func (m *metrics) attempt(ctx context.Context, result string) {
	m.attempts.Add(ctx, 1, metric.WithAttributes(attribute.String("result", result)))
}

func (m *metrics) ended(ctx context.Context, c store.Command) {
	m.commands.Add(ctx, 1, metric.WithAttributes(attribute.String("kind", c.Kind),
		attribute.String("action", c.Action), attribute.String("status", string(c.Status))))
}

func (m *metrics) buried(ctx context.Context, code string) {
	m.dead.Add(ctx, 1, metric.WithAttributes(attribute.String("code", code)))
}

func (m *metrics) decided(ctx context.Context, d *events.Decision) {
	m.decisions.Add(ctx, 1, metric.WithAttributes(attribute.String("kind", d.Resource.Kind), attribute.String("action", d.Action),
		attribute.String("effect", string(d.Effect)), attribute.String("stage", string(d.Stage))))
}
