package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
)

// observeWithin bounds one callback: what it asks may hang, and the export waits for it.
const observeWithin = 2 * time.Second

// observeLastWithin is the same for [Telemetry.StopObserving], which has little time.
const observeLastWithin = 100 * time.Millisecond

// meter is the SDK's with one difference: a callback that fails costs its own gauge. A periodic reader of the SDK drops
// the whole export instead, so that an outage of the ledger would also hide everything else, and end a process with an error.
type meter struct {
	metric.Meter
	t *Telemetry
}

// observe calls back, unless what is observed may be closed by now.
func (t *Telemetry) observe(ctx context.Context, callback func(context.Context) error) error {
	within := observeWithin
	switch t.observing.Load() {
	case observesLast:
		within = observeLastWithin
	case observesNoMore:
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := callback(ctx); err != nil {
		otel.Handle(err)
	}
	return nil
}

// What is done with callbacks.
const (
	observes int32 = iota
	observesLast
	observesNoMore
)

func (m meter) int64s(callbacks []metric.Int64Callback) metric.Int64Callback {
	return func(ctx context.Context, o metric.Int64Observer) error {
		for _, callback := range callbacks {
			_ = m.t.observe(ctx, func(ctx context.Context) error { return callback(ctx, o) }) // always nil
		}
		return nil
	}
}

func (m meter) float64s(callbacks []metric.Float64Callback) metric.Float64Callback {
	return func(ctx context.Context, o metric.Float64Observer) error {
		for _, callback := range callbacks {
			_ = m.t.observe(ctx, func(ctx context.Context) error { return callback(ctx, o) }) // always nil
		}
		return nil
	}
}

func (m meter) Int64ObservableGauge(name string, options ...metric.Int64ObservableGaugeOption) (metric.Int64ObservableGauge, error) {
	c := metric.NewInt64ObservableGaugeConfig(options...)
	return m.Meter.Int64ObservableGauge(name, metric.WithDescription(c.Description()), metric.WithUnit(c.Unit()), metric.WithInt64Callback(m.int64s(c.Callbacks())))
}

func (m meter) Int64ObservableCounter(name string, options ...metric.Int64ObservableCounterOption) (metric.Int64ObservableCounter, error) {
	c := metric.NewInt64ObservableCounterConfig(options...)
	return m.Meter.Int64ObservableCounter(name, metric.WithDescription(c.Description()), metric.WithUnit(c.Unit()), metric.WithInt64Callback(m.int64s(c.Callbacks())))
}

func (m meter) Int64ObservableUpDownCounter(name string, options ...metric.Int64ObservableUpDownCounterOption) (metric.Int64ObservableUpDownCounter, error) {
	c := metric.NewInt64ObservableUpDownCounterConfig(options...)
	return m.Meter.Int64ObservableUpDownCounter(name, metric.WithDescription(c.Description()), metric.WithUnit(c.Unit()), metric.WithInt64Callback(m.int64s(c.Callbacks())))
}

func (m meter) Float64ObservableGauge(name string, options ...metric.Float64ObservableGaugeOption) (metric.Float64ObservableGauge, error) {
	c := metric.NewFloat64ObservableGaugeConfig(options...)
	return m.Meter.Float64ObservableGauge(name, metric.WithDescription(c.Description()), metric.WithUnit(c.Unit()), metric.WithFloat64Callback(m.float64s(c.Callbacks())))
}

func (m meter) Float64ObservableCounter(name string, options ...metric.Float64ObservableCounterOption) (metric.Float64ObservableCounter, error) {
	c := metric.NewFloat64ObservableCounterConfig(options...)
	return m.Meter.Float64ObservableCounter(name, metric.WithDescription(c.Description()), metric.WithUnit(c.Unit()), metric.WithFloat64Callback(m.float64s(c.Callbacks())))
}

func (m meter) Float64ObservableUpDownCounter(name string, options ...metric.Float64ObservableUpDownCounterOption) (metric.Float64ObservableUpDownCounter, error) {
	c := metric.NewFloat64ObservableUpDownCounterConfig(options...)
	return m.Meter.Float64ObservableUpDownCounter(name, metric.WithDescription(c.Description()), metric.WithUnit(c.Unit()), metric.WithFloat64Callback(m.float64s(c.Callbacks())))
}

func (m meter) RegisterCallback(callback metric.Callback, instruments ...metric.Observable) (metric.Registration, error) {
	return m.Meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		return m.t.observe(ctx, func(ctx context.Context) error { return callback(ctx, o) })
	}, instruments...)
}

// StopObserving observes once more, sends the metrics as they are, and from then on calls no callback: what it reads can be
// closed after this returns. Call it before that, and Shutdown at the very end, which sends what was counted meanwhile.
func (t *Telemetry) StopObserving(ctx context.Context) error {
	t.observing.Store(observesLast)
	defer t.observing.Store(observesNoMore)
	return t.metrics.ForceFlush(ctx)
}
