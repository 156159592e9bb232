package apply

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/telemetry"
	"github.com/writ-project/writ/services/worker/internal/command"
)

// shard is the commands of one shard as this process applies them.
type shard struct {
	*Loop
	number   int
	position events.Address  // as last read or written; SQL has the truth
	outcomes ledger.Outcomes // as last read or written; the ledger has the truth
	// settled is up to where commands had their outcomes when this process took
	// the shard. A position before it means that the database was restored from
	// an older state: what happened then happens again, undecided.
	settled  events.Address
	progress bool // something was applied since run began
}

// item is one command on its way through a batch.
type item struct {
	ledger.Record
	event    *events.Event // nil when it cannot be read
	handler  Handler
	refused  error // why it must not be applied: a dead letter without an outcome
	unburied error // why its dead letter could not be stored
	poison   error // why it cannot be stored, found by trying it alone
	// recorded is the outcome that the command had before the database was
	// restored; nil for a command that is new to every database.
	recorded    *events.Outcome
	recordedRaw []byte
	// copied says that the command's outcome is that of another copy of it.
	copied bool
	ctx    context.Context // of the span
	span   trace.Span      // nil where nobody sees the trace
}

// trace is the traceparent of what is said of the command.
func (it *item) trace() string {
	if it.span == nil {
		return it.event.Trace
	}
	return telemetry.TraceParent(it.ctx)
}

// external reports whether the command is queued instead of applied.
func (it *item) external() bool {
	return it.handler.External != nil && it.handler.External(it.event.Command.Action)
}

// run applies what comes until ctx ends or something fails: then it begins anew
// from what SQL and the ledger say.
func (s *shard) run(ctx context.Context) error {
	s.progress = false
	if err := s.begin(ctx); err != nil {
		return err
	}
	return s.ledger.FollowShard(ctx, s.number, s.position+1, s.batch)
}

// begin finds out where the shard stands, and tells what was committed by a
// process that died before it told.
func (s *shard) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	// The outcomes are read before the position: the other way round, what another
	// worker applies in between would be taken for the state of an older database.
	outcomes, err := s.ledger.LastOutcomes(ctx, events.OutcomeSubject(s.number))
	if err != nil {
		return err
	}
	positions, err := s.store.Positions(ctx)
	if err != nil {
		return err
	}
	last, err := s.ledger.Last(ctx)
	if err != nil {
		return err
	}
	s.position, s.outcomes, s.settled = positions[s.number], outcomes, outcomes.Answered
	if events.SequenceOf(s.position) > last {
		return ErrAhead
	}
	return s.republish(ctx)
}

// batch applies the commands that came, some at a time.
func (s *shard) batch(ctx context.Context, records []ledger.Record) error {
	wait, began, several := time.Duration(0), time.Now(), len(records) > 1 && len(records) < maxBatch
	for len(records) > 0 && ctx.Err() == nil {
		n := min(len(records), maxBatch)
		err := s.apply(context.WithoutCancel(ctx), records[:n])
		if err != nil && !errors.Is(err, errWaits) {
			return err
		}
		s.report(s.number, nil)
		before := len(records)
		for len(records) > 0 && records[0].Address <= s.position {
			records = records[1:]
		}
		if len(records) < before {
			s.progress, wait = true, 0
		}
		if err != nil { // the next one waits for a dependency
			s.report(s.number, err)
			wait = min(max(2*wait, 50*time.Millisecond), maxBackoff)
			s.log.WarnContext(ctx, "shard waits", "shard", s.number, "wait", wait, "error", err)
			sleep(ctx, wait)
		}
	}
	if several {
		sleep(ctx, gatherEvery-time.Since(began))
	}
	return ctx.Err()
}

// errWaits is a batch that was applied up to a command that cannot be decided now.
var errWaits = errors.New("a command waits")

// apply applies commands. After an error nothing is lost: the shard begins anew.
func (s *shard) apply(ctx context.Context, records []ledger.Record) (err error) {
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	items := make([]*item, len(records))
	for i, r := range records {
		items[i] = &item{Record: r}
		s.verify(items[i])
	}
	defer func() {
		for _, it := range items {
			endSpan(it, err)
		}
	}()
	if err := s.recall(ctx, items); err != nil {
		return err
	}
	s.buryRefused(ctx, items)
	return s.applyItems(ctx, items)
}

// verify reads a command and checks that it may be believed.
func (s *shard) verify(it *item) {
	it.event, it.refused = command.Read(s.keys, it.Record, s.ledger.Shards())
	if it.refused == nil {
		var ok bool
		if it.handler, ok = s.handlers[it.event.Command.Kind]; !ok {
			it.refused = fmt.Errorf("%w: kind %q is not known here", events.ErrVersion, it.event.Command.Kind)
		}
	}
	if it.event != nil && telemetry.SampledParent(it.event.Trace) {
		it.ctx, it.span = s.startSpan(telemetry.FromTraceParent(context.Background(), it.event.Trace), it)
	}
}

// buryRefused makes dead letters of what must not be applied, before the
// transaction: a position moves past them only when they are stored.
func (s *shard) buryRefused(ctx context.Context, items []*item) {
	for _, it := range items {
		if it.refused != nil {
			it.unburied = s.ledger.Bury(ctx, command.DeadLetter(it.Record, 1, it.refused))
		}
	}
}

// recall finds the outcomes that commands had before the database was restored
// from an older state.
func (s *shard) recall(ctx context.Context, items []*item) error {
	if items[0].Address > s.settled {
		return nil
	}
	var old []*item
	ids := map[string]bool{}
	for _, it := range items {
		if it.Address <= s.settled && it.refused == nil {
			old = append(old, it)
			ids[events.OutcomeID(it.event.Command.ID)] = true
		}
	}
	// What is not said after these commands was said before them, of a copy that
	// came first.
	for _, from := range []events.Address{items[0].Address, 1} {
		found, err := s.ledger.Find(ctx, from, []string{events.AllOutcomes}, ids)
		if err != nil {
			return fmt.Errorf("recall %d outcomes: %w", len(ids), err)
		}
		for _, it := range old {
			id := events.OutcomeID(it.event.Command.ID)
			r, ok := found[id]
			if !ok {
				continue
			}
			delete(ids, id)
			if e, err := events.Parse(r.Data); err == nil && e.Verify(s.keys, r.Subject) == nil {
				it.copied = e.Outcome.Sequence != it.Address
				if !it.copied && !(it.external() && r.Subject == events.SubjectStytchOutcomes) { // which the role worker recalls
					it.recorded, it.recordedRaw = &e.Outcome, e.RawOutcome
				}
			}
		}
	}
	return nil
}
