package stream

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/writ-project/writ/pkg/audit"
)

// trimEvery is how often is trimmed. Filling an empty Redis brings entries that
// are too old already, so it is not rare.
const trimEvery = 5 * time.Second

// trim removes what is older than the retention, until ctx ends.
func (w *Writer) trim(ctx context.Context) {
	if w.Retention == 0 {
		return
	}
	for pause(ctx, trimEvery) {
		if err := w.trimOnce(ctx); err != nil && ctx.Err() == nil {
			w.Log.WarnContext(ctx, "audit log not trimmed", "error", err)
		}
	}
}

func (w *Writer) trimOnce(ctx context.Context) error {
	trimmed := false
	for _, l := range audit.Logs {
		for more := true; more && ctx.Err() == nil; {
			removed, rest, err := w.trimStep(ctx, l)
			if err != nil {
				return err
			}
			more, trimmed = rest, trimmed || removed > 0
		}
	}
	if !trimmed {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	return w.Appender.TrimExplained(ctx)
}

func (w *Writer) trimStep(ctx context.Context, l audit.Log) (removed int64, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	removed, more, err = w.Appender.Trim(ctx, l, time.Now().Add(-w.Retention))
	if removed > 0 {
		w.trimmed.Add(ctx, removed, metric.WithAttributes(attribute.String("stream", l.Stream())))
	}
	return removed, more, err
}
