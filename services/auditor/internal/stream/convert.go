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
	traces     []context.Context  // of Items; nil if not sampled
	checkpoint *events.Checkpoint // the last one in the batch
}

// message is what is needed of a message of the ledger that was read and verified.
type message struct {
	ledger.Record
	refused error // why it cannot be believed
	// checkpoint is there if it is one, refused or not.
	checkpoint *events.Checkpoint
	item       audit.Item // of a decision or an outcome, without its ID
}

// read reads and verifies a batch.
func (w *Writer) read(batch []ledger.Record) []message {
	out := make([]message, len(batch))
	var e events.Event
	for i, r := range batch {
		m := &out[i]
		m.Record = r
		if m.refused = events.Skim(&e, r.Data); m.refused != nil {
			continue
		}
		m.refused = e.Verify(w.Seals, r.Subject)
		switch {
		case e.Type == events.TypeCheckpoint:
			cp := e.Checkpoint
			m.checkpoint = &cp
		case m.refused != nil:
		case e.Type == events.TypeOutcome:
			m.item = audit.Item{DecisionID: e.Outcome.DecisionID, Command: e.Outcome.Sequence, Entry: audit.Entry{Log: audit.Outcomes, Record: e.RawOutcome}}
		default:
			m.item = audit.Item{DecisionID: e.Decision.ID, Entry: audit.Entry{Log: audit.Decisions, Record: e.RawDecision}}
		}
		if m.item.Record != nil {
			m.item.Seal, m.item.Leaf = e.Seal.String(), m.item.LeafHash()
		}
	}
	return out
}

// convert makes the entries of a batch. What cannot be believed becomes a dead
// letter and no entry; unless it is known, from when it was copied before.
func (f *follower) convert(ctx context.Context, batch []message, known bool) (*converted, error) {
	c := &converted{
		Batch:  audit.Batch{Items: make([]audit.Item, 0, len(batch)), Start: batch[0].Sequence, Sequence: batch[len(batch)-1].Sequence},
		taken:  len(batch),
		traces: make([]context.Context, 0, len(batch)),
	}
	ms := max(f.head.Decisions.Last.Ms, f.head.Outcomes.Last.Ms)
	for i := range batch {
		m := &batch[i]
		switch {
		case m.refused != nil:
			if m.checkpoint != nil && f.signedHere(m.checkpoint) {
				c.checkpoint = m.checkpoint
			}
			if !known {
				if err := f.bury(ctx, m.Record, m.refused); err != nil {
					return nil, err
				}
			}
			c.explain(m.Sequence, audit.WhyRefused)
		case m.checkpoint != nil:
			c.checkpoint = m.checkpoint
			c.explain(m.Sequence, audit.WhyCheckpoint)
		default:
			// A clock that stepped back must not break the order of the ids.
			ms = max(ms, uint64(max(m.Time.UnixMilli(), 0)))
			m.item.ID = audit.ID{Ms: ms, Sequence: m.Sequence}
			c.Items = append(c.Items, m.item)
			var traced context.Context
			if telemetry.Sampled(m.Header) { // nobody would see the others, and there are many
				traced = telemetry.Extract(context.Background(), m.Header)
			}
			c.traces = append(c.traces, traced)
		}
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
