package telemetry_test

import (
	"context"
	"errors"
	"testing"

	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/writ-project/writ/pkg/telemetry"
)

// TestFailedCallbackCostsItsOwnGauge: a periodic reader sends nothing of a collection that had an error.
func TestFailedCallbackCostsItsOwnGauge(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	tel := setup(t, "worker", telemetry.WithMetricReader(reader))
	meter := tel.Meter()
	calls := 0
	fails := func(context.Context) error { calls++; return errors.New("the ledger is away") }
	ints := metric.WithInt64Callback(func(ctx context.Context, _ metric.Int64Observer) error { return fails(ctx) })
	floats := metric.WithFloat64Callback(func(ctx context.Context, _ metric.Float64Observer) error { return fails(ctx) })
	gauge, err := meter.Int64ObservableGauge("ig", ints)
	errs := []error{err}
	_, err = meter.Int64ObservableCounter("ic", ints)
	errs = append(errs, err)
	_, err = meter.Int64ObservableUpDownCounter("iu", ints)
	errs = append(errs, err)
	_, err = meter.Float64ObservableGauge("fg", floats)
	errs = append(errs, err)
	_, err = meter.Float64ObservableCounter("fc", floats)
	errs = append(errs, err)
	_, err = meter.Float64ObservableUpDownCounter("fu", floats)
	errs = append(errs, err)
	_, err = meter.RegisterCallback(func(ctx context.Context, _ metric.Observer) error { return fails(ctx) }, gauge)
	errs = append(errs, err)
	counter, err := meter.Int64Counter("counted")
	if err := errors.Join(append(errs, err)...); err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 1)

	var got metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &got); err != nil {
		t.Errorf("the collection says %v, want no error", err)
	}
	// Prometheus' reader does not collect here: each of the seven is called once.
	if calls != 7 {
		t.Errorf("callbacks were called %d times, want 7", calls)
	}
	if n := len(got.ScopeMetrics); n != 1 || len(got.ScopeMetrics[0].Metrics) != 1 || got.ScopeMetrics[0].Metrics[0].Name != "counted" {
		t.Errorf("collected %+v, want the counter alone", got.ScopeMetrics)
	}
}

func TestNothingIsObservedAfterStopObserving(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	tel := setup(t, "worker", telemetry.WithMetricReader(reader))
	closed := false
	if _, err := tel.Meter().Int64ObservableGauge("lag", metric.WithInt64Callback(func(context.Context, metric.Int64Observer) error {
		if closed {
			t.Error("the callback is called, want nobody to read what is closed")
		}
		return nil
	})); err != nil {
		t.Fatal(err)
	}
	if err := tel.StopObserving(t.Context()); err != nil {
		t.Fatal(err)
	}
	closed = true
	var got metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &got); err != nil {
		t.Error(err)
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown says %v, want no error", err)
	}
}
