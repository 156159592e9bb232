package jobs

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

type metrics struct {
	added    metric.Int64Counter
	attempts metric.Int64Counter
	deaths   metric.Int64Counter
	running  metric.Int64UpDownCounter
	duration metric.Float64Histogram
}

func newMetrics(meter metric.Meter, c *Client) (*metrics, error) {
	var m metrics
	var err error
	if m.added, err = meter.Int64Counter("writ.jobs.enqueued", metric.WithUnit("{job}"), metric.WithDescription("Jobs put on a queue")); err != nil {
		return nil, err
	}
	if m.attempts, err = meter.Int64Counter("writ.jobs.attempts", metric.WithUnit("{attempt}"),
		metric.WithDescription("Attempts by queue and result: done, failed, snoozed, cancelled, lost")); err != nil {
		return nil, err
	}
	if m.deaths, err = meter.Int64Counter("writ.jobs.dead", metric.WithUnit("{job}"), metric.WithDescription("Jobs whose last attempt failed")); err != nil {
		return nil, err
	}
	if m.running, err = meter.Int64UpDownCounter("writ.jobs.running", metric.WithUnit("{job}"), metric.WithDescription("Jobs in work in this process")); err != nil {
		return nil, err
	}
	if m.duration, err = meter.Float64Histogram("writ.jobs.duration", metric.WithUnit("s"), metric.WithDescription("How long an attempt took"),
		metric.WithExplicitBucketBoundaries(.01, .05, .1, .5, 1, 5, 10, 30, 60, 300, 900)); err != nil {
		return nil, err
	}
	_, err = meter.Int64ObservableGauge("writ.jobs.waiting", metric.WithUnit("{job}"),
		metric.WithDescription("Jobs on a queue that wait or run"),
		metric.WithInt64Callback(func(ctx context.Context, o metric.Int64Observer) error {
			queues, err := c.Queues(ctx)
			if err != nil {
				return nil // an outage is told by other means
			}
			waiting := map[string]int64{}
			for _, q := range queues {
				waiting[label(q.Name)] += int64(q.Waiting)
			}
			for name, n := range waiting {
				o.Observe(n, of(name))
			}
			return nil
		}))
	return &m, err
}

func of(queue string) metric.MeasurementOption {
	return metric.WithAttributes(attribute.String("queue", label(queue)))
}

func (m *metrics) enqueued(ctx context.Context, queue string) { m.added.Add(ctx, 1, of(queue)) }
func (m *metrics) died(ctx context.Context, queue string)     { m.deaths.Add(ctx, 1, of(queue)) }
func (m *metrics) started(ctx context.Context, queue string)  { m.running.Add(ctx, 1, of(queue)) }

func (m *metrics) ended(ctx context.Context, queue, result string, took time.Duration) {
	m.running.Add(ctx, -1, of(queue))
	m.duration.Record(ctx, took.Seconds(), of(queue))
	m.attempts.Add(ctx, 1, metric.WithAttributes(attribute.String("queue", label(queue)), attribute.String("result", result)))
}
