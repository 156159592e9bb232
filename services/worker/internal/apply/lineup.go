package apply

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/telemetry"
	"github.com/writ-project/writ/services/worker/internal/command"
)

// item is one command on its way through a batch.
type item struct {
	ledger.Record
	partition  int
	deliveries int
	event      *events.Event // nil when it cannot be read
	handler    Handler
	refused    error // why it must not be applied: a dead letter without an outcome
	unburied   error // why its dead letter could not be stored
	poison     error // why it cannot be stored, found by trying it alone
	// recorded is the outcome that the command had before the database was
	// restored; nil for a command that is new to every database.
	recorded    *events.Outcome
	recordedRaw []byte
	ctx         context.Context
	span        trace.Span
}

// external reports whether the command is queued instead of applied.
func (it *item) external() bool {
	return it.handler.External != nil && it.handler.External(it.event.Command.Action)
}

// lineUp puts the commands of a batch in their partitions' order without a
// gap, fetching from the ledger what was not delivered in order. What is at or
// before the positions is repeats.
func (l *Loop) lineUp(ctx context.Context, batch []ledger.Delivery) (items []*item, repeats []ledger.Delivery, err error) {
	cursor := maps.Clone(l.positions)
	deliveries := make(map[uint64]int, len(batch))
	for _, d := range batch {
		deliveries[d.Sequence] = d.Deliveries
		p := d.Partition
		switch {
		case d.Sequence <= l.positions[p]:
			repeats = append(repeats, d)
		case d.Sequence <= cursor[p]: // delivered twice within this batch
		case l.behind[p] == 0 && d.Previous != 0 && d.Previous <= cursor[p]:
			cursor[p] = d.Sequence
			items = append(items, &item{Record: d.Record, partition: p, deliveries: d.Deliveries})
		default:
			l.fallBehind(p, d.Sequence)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(l.behind)) {
		if l.held[p].until.After(time.Now()) {
			continue
		}
		room := maxBatch - len(items)
		if room <= 0 {
			break
		}
		if l.behind[p] <= cursor[p] {
			delete(l.behind, p)
			continue
		}
		records, more, err := l.ledger.Range(ctx, p, cursor[p]+1, l.behind[p], room)
		if err != nil {
			return nil, nil, fmt.Errorf("fetch partition %d from %d: %w", p, cursor[p]+1, err)
		}
		for _, r := range records {
			items = append(items, &item{Record: r, partition: p, deliveries: max(deliveries[r.Sequence], 1)})
		}
		if !more {
			delete(l.behind, p)
		}
	}
	for _, it := range items {
		l.verify(it)
	}
	return items, repeats, l.recall(ctx, items)
}

// recall finds the outcomes that commands had before the database was restored
// from an older state.
func (l *Loop) recall(ctx context.Context, items []*item) error {
	ids, byID := map[string]bool{}, map[string]*item{}
	from := uint64(0)
	for _, it := range items {
		if it.refused != nil || it.external() || it.Sequence > l.settled[it.partition] {
			continue
		}
		id := events.OutcomeID(it.event.Command.ID)
		ids[id], byID[id] = true, it
		if from == 0 || it.Sequence < from {
			from = it.Sequence
		}
	}
	if len(ids) == 0 {
		return nil
	}
	found, err := l.ledger.Recorded(ctx, from, []string{events.AllOutcomes}, ids)
	if err != nil {
		return fmt.Errorf("recall %d outcomes: %w", len(ids), err)
	}
	for id, r := range found {
		if e, err := events.Parse(r.Data); err == nil && e.Verify(l.keys, r.Subject) == nil {
			byID[id].recorded, byID[id].recordedRaw = &e.Outcome, e.RawOutcome
		}
	}
	return nil
}

// verify reads a command and checks that it may be believed.
func (l *Loop) verify(it *item) {
	it.ctx = telemetry.Extract(context.Background(), it.Header)
	it.event, it.refused = command.Read(l.keys, it.Record)
	if it.refused == nil {
		var ok bool
		if it.handler, ok = l.handlers[it.event.Command.Kind]; !ok {
			it.refused = fmt.Errorf("%w: kind %q is not known here", events.ErrVersion, it.event.Command.Kind)
		}
	}
	it.ctx, it.span = l.startSpan(it)
}
