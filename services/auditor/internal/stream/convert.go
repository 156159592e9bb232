package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

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
	taken      int                // events
	traces     []string           // of Items; nil if none is sampled
	notices    []notice           // of Items that are new
	checkpoint *events.Checkpoint // the last one in the batch
	refused    events.Address     // of the last one that was refused and is not this key's checkpoint, 0 for none
}

// message is what is needed of an event of the ledger that was read and verified.
type message struct {
	ledger.Record
	refused error // why it cannot be believed
	// checkpoint is there if it is one, refused or not.
	checkpoint *events.Checkpoint
	item       audit.Item // of a decision or an outcome, without its ID
	trace      string     // its traceparent, if somebody will see the trace
	feed       string     // the subject of the feed on which it is told of, if it is young
}

// through is the address up to which all is taken when this event is: a message
// holds nothing behind its last one.
func (m *message) through() events.Address {
	if m.Last {
		return events.End(events.SequenceOf(m.Address))
	}
	return m.Address
}

// read reads and verifies a batch.
func (w *Writer) read(batch []ledger.Record) []message {
	out := make([]message, len(batch))
	young := time.Now().Add(-feedAge)
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
		if m.item.Record == nil {
			continue
		}
		m.item.Seal, m.item.Leaf = e.Seal.String(), m.item.LeafHash()
		if telemetry.SampledParent(e.Trace) { // nobody would see the others, and there are many
			m.trace = e.Trace
		}
		if r.Time.After(young) {
			m.feed = e.FeedSubject()
		}
	}
	return out
}

// convert makes the entries of a batch. What cannot be believed becomes no entry
// and, when it is met for the first time, a dead letter.
func (f *follower) convert(ctx context.Context, batch []message) (*converted, error) {
	c := &converted{
		Batch: audit.Batch{Items: make([]audit.Item, 0, len(batch)), Start: batch[0].Address, Sequence: batch[len(batch)-1].through()},
		taken: len(batch),
	}
	ms := max(f.head.Decisions.Last.Ms, f.head.Outcomes.Last.Ms)
	for i := range batch {
		m := &batch[i]
		switch {
		case m.refused != nil:
			if m.checkpoint != nil && f.signedHere(m.checkpoint) {
				c.checkpoint = m.checkpoint
			} else {
				c.refused = m.Address
			}
			if err := f.bury(ctx, m.Record, m.refused); err != nil {
				return nil, err
			}
			c.explain(m.Address, m.Address, audit.WhyRefused)
		case m.checkpoint != nil:
			c.checkpoint = m.checkpoint
			c.explain(m.Address, m.Address, audit.WhyCheckpoint)
		default:
			// A clock that stepped back must not break the order of the ids.
			ms = max(ms, uint64(max(m.Time.UnixMilli(), 0)))
			m.item.ID = audit.ID{Ms: ms, Sequence: m.Address}
			c.Items = append(c.Items, m.item)
			c.traced(m.trace, len(batch))
			if m.feed != "" && m.Address > f.told {
				c.notices = append(c.notices, notice{m.feed, m.Data})
			}
		}
		if through := m.through(); through > m.Address {
			c.explain(m.Address+1, through, audit.WhyEnd)
		}
	}
	return c, nil
}

// traced keeps the trace of the last item.
func (c *converted) traced(trace string, most int) {
	if trace != "" && c.traces == nil {
		c.traces = make([]string, len(c.Items)-1, most)
	}
	if c.traces != nil {
		c.traces = append(c.traces, trace)
	}
}

// explain adds addresses that are no entries.
func (c *converted) explain(first, last events.Address, why audit.Why) {
	if n := len(c.Explained); n > 0 {
		if before := &c.Explained[n-1]; before.Last+1 == first && before.Why == why {
			before.Last = last
			return
		}
	}
	c.Explained = append(c.Explained, audit.Range{First: first, Last: last, Why: why})
}

// bury makes a dead letter of an event, once: what stands at or before w.buried
// was met before, and whoever looked at its letter may have discarded it.
func (w *Writer) bury(ctx context.Context, r ledger.Record, cause error) error {
	if r.Address <= w.buried {
		return nil
	}
	code := "malformed"
	for e, c := range map[error]string{events.ErrSeal: "bad-seal", events.ErrMismatch: "mismatch", events.ErrVersion: "unknown-version"} {
		if errors.Is(cause, e) {
			code = c
		}
	}
	if err := w.Ledger.Bury(ctx, ledger.DeadLetter{Service: "auditor", Code: code, Reason: cause.Error(), Deliveries: 1, Record: r}); err != nil {
		return fmt.Errorf("bury event %d: %w", r.Address, err)
	}
	w.buried = r.Address
	w.refused.Add(ctx, 1, metric.WithAttributes(attribute.String("code", code)))
	w.Log.WarnContext(ctx, "refused an event of the ledger", "address", r.Address, "message", events.SequenceOf(r.Address), "index", events.IndexOf(r.Address),
		"subject", r.Subject, "error", cause)
	return nil
}
