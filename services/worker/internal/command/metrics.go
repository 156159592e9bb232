package command

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/store"
)

// Metrics count what becomes of commands, whichever part of the worker ends them.
type Metrics struct{ commands, dead, decisions metric.Int64Counter }

// NewMetrics makes the instruments. Parts that have a meter in common count together.
func NewMetrics(meter metric.Meter) (m Metrics, err error) {
	if m.commands, err = meter.Int64Counter("writ.apply.commands", metric.WithUnit("{command}"),
		metric.WithDescription("Commands by kind, action and status")); err != nil {
		return m, err
	}
	if m.dead, err = meter.Int64Counter("writ.dead.letters", metric.WithUnit("{message}"),
		metric.WithDescription("Dead letters by code")); err != nil {
		return m, err
	}
	m.decisions, err = meter.Int64Counter("writ.decisions", metric.WithUnit("{decision}"),
		metric.WithDescription("Decisions by kind, action, effect and stage"))
	return m, err
}

// Ended counts a command that has its outcome.
func (m *Metrics) Ended(ctx context.Context, c store.Command) {
	m.commands.Add(ctx, 1, metric.WithAttributes(attribute.String("kind", c.Kind),
		attribute.String("action", c.Action), attribute.String("status", string(c.Status))))
}

// Buried counts a dead letter.
func (m *Metrics) Buried(ctx context.Context, code string) {
	m.dead.Add(ctx, 1, metric.WithAttributes(attribute.String("code", code)))
}

// Decided counts a decision.
func (m *Metrics) Decided(ctx context.Context, d *events.Decision) {
	m.decisions.Add(ctx, 1, metric.WithAttributes(attribute.String("kind", d.Resource.Kind), attribute.String("action", d.Action),
		attribute.String("effect", string(d.Effect)), attribute.String("stage", string(d.Stage))))
}
