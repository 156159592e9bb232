package roles

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/services/worker/internal/command"
)

type metrics struct {
	command.Metrics
	attempts metric.Int64Counter
	inFlight metric.Int64UpDownCounter
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
	if m.Metrics, err = command.NewMetrics(meter); err != nil {
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
