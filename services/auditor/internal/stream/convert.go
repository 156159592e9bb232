package stream

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/telemetry"
)

// converted is a batch as it is appended.
type converted struct {
	audit.Batch
	taken      int                // messages
	traces     []context.Context  // of Items
	checkpoint *events.Checkpoint // the last one in the batch
}

// convert makes the entries of a batch. What cannot be believed becomes a dead
// letter and no entry; unless it is known, from when it was copied before.
func (f *follower) convert(ctx context.Context, batch []ledger.Record, known bool) (*converted, error) {
	c := &converted{
		Batch:  audit.Batch{Items: make([]audit.Item, 0, len(batch)), Start: batch[0].Sequence, Sequence: batch[len(batch)-1].Sequence},
		taken:  len(batch),
		traces: make([]context.Context, 0, len(batch)),
	}
	ms := max(f.head.Decisions.Last.Ms, f.head.Outcomes.Last.Ms)
	for _, r := range batch {
		e, err := events.Skim(r.Data)
		if err == nil {
			err = e.Verify(f.Seals, r.Subject)
		}
		if err != nil {
			if e != nil && f.signedHere(e) {
				c.checkpoint = &e.Checkpoint
			}
			if !known {
				if err := f.bury(ctx, r, err); err != nil {
					return nil, err
				}
			}
			c.explain(r.Sequence, audit.WhyRefused)
			continue
		}
		item := audit.Item{Entry: audit.Entry{Log: audit.Decisions, Record: e.RawDecision, Seal: e.Seal.String()}, DecisionID: e.Decision.ID}
		switch e.Type {
		case events.TypeCheckpoint:
			c.checkpoint = &e.Checkpoint
			c.explain(r.Sequence, audit.WhyCheckpoint)
			continue
		case events.TypeOutcome:
			item.Log, item.Record, item.DecisionID, item.Command = audit.Outcomes, e.RawOutcome, e.Outcome.DecisionID, e.Outcome.Sequence
		}
		// A clock that stepped back must not break the order of the ids.
		ms = max(ms, uint64(max(r.Time.UnixMilli(), 0)))
		item.ID = audit.ID{Ms: ms, Sequence: r.Sequence}
		c.Items = append(c.Items, item)
		c.traces = append(c.traces, telemetry.Extract(context.Background(), r.Header))
	}
	return c, nil
}

// explain adds a sequence that is no entry.
func (c *converted) explain(sequence uint64, why audit.Why) {
	if n := len(c.Explained); n > 0 {
		if last := &c.Explained[n-1]; last.Last+1 == sequence && last.Why == why {
			last.Last = sequence
			return
		}
	}
	c.Explained = append(c.Explained, audit.Range{First: sequence, Last: sequence, Why: why})
}

func (w *Writer) bury(ctx context.Context, r ledger.Record, cause error) error {
	code := "malformed"
	for e, c := range map[error]string{events.ErrSeal: "bad-seal", events.ErrMismatch: "mismatch", events.ErrVersion: "unknown-version"} {
		if errors.Is(cause, e) {
			code = c
		}
	}
	if err := w.Ledger.Bury(ctx, ledger.DeadLetter{Service: "auditor", Code: code, Reason: cause.Error(), Deliveries: 1, Record: r}); err != nil {
		return fmt.Errorf("bury message %d: %w", r.Sequence, err)
	}
	w.refused.Add(ctx, 1, metric.WithAttributes(attribute.String("code", code)))
	w.Log.WarnContext(ctx, "refused a message of the ledger", "sequence", r.Sequence, "subject", r.Subject, "error", cause)
	return nil
}
