package stream

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"golang.org/x/mod/sumdb/tlog"

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

// message is a message of the ledger that was read and verified.
type message struct {
	ledger.Record
	event   *events.Event // nil if it cannot be read
	refused error         // why it cannot be believed
	leaf    tlog.Hash     // of a decision or an outcome
}

// read reads and verifies a batch.
func (w *Writer) read(batch []ledger.Record) []message {
	out := make([]message, len(batch))
	for i, r := range batch {
		m := message{Record: r}
		if m.event, m.refused = events.Skim(r.Data); m.refused == nil {
			m.refused = m.event.Verify(w.Seals, r.Subject)
		}
		if m.refused == nil && m.event.Type != events.TypeCheckpoint {
			m.leaf = tlog.RecordHash(record(m.event))
		}
		out[i] = m
	}
	return out
}

// record gives the bytes that are an entry of a log.
func record(e *events.Event) []byte {
	if e.Type == events.TypeOutcome {
		return e.RawOutcome
	}
	return e.RawDecision
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
	for _, m := range batch {
		e := m.event
		if m.refused != nil {
			if e != nil && f.signedHere(e) {
				c.checkpoint = &e.Checkpoint
			}
			if !known {
				if err := f.bury(ctx, m.Record, m.refused); err != nil {
					return nil, err
				}
			}
			c.explain(m.Sequence, audit.WhyRefused)
			continue
		}
		if e.Type == events.TypeCheckpoint {
			c.checkpoint = &e.Checkpoint
			c.explain(m.Sequence, audit.WhyCheckpoint)
			continue
		}
		// A clock that stepped back must not break the order of the ids.
		ms = max(ms, uint64(max(m.Time.UnixMilli(), 0)))
		item := audit.Item{Leaf: m.leaf, DecisionID: e.Decision.ID, Entry: audit.Entry{
			Log: audit.Decisions, ID: audit.ID{Ms: ms, Sequence: m.Sequence}, Record: record(e), Seal: e.Seal.String()}}
		if e.Type == events.TypeOutcome {
			item.Log, item.DecisionID, item.Command = audit.Outcomes, e.Outcome.DecisionID, e.Outcome.Sequence
		}
		c.Items = append(c.Items, item)
		c.traces = append(c.traces, telemetry.Extract(context.Background(), m.Header))
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
