package apply

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/services/worker/internal/command"
)

// batch applies what was gathered. After an error nothing is lost: what is not
// applied is fetched again, what is applied is published again.
func (l *Loop) batch(ctx context.Context, batch []ledger.Delivery) (err error) {
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	items, repeats, err := l.lineUp(ctx, batch)
	if err == nil {
		l.buryRefused(ctx, items)
		l.busy = len(items) > 1
		err = l.republish(ctx, repeats)
	}
	if err == nil {
		err = l.applyItems(ctx, items)
	}
	for _, it := range items {
		endSpan(it, err)
	}
	if loadErr := l.reload(ctx, err); loadErr != nil {
		return errors.Join(err, loadErr)
	}
	for _, d := range batch {
		if d.Sequence > l.positions[d.Partition] {
			l.fallBehind(d.Partition, d.Sequence) // blocked or failed: comes again
			continue
		}
		if err != nil {
			continue // applied, but perhaps not published: its redelivery sees to that
		}
		if ackErr := d.Ack(); ackErr != nil {
			l.log.DebugContext(ctx, "ack lost, it will be delivered again", "sequence", d.Sequence, "error", ackErr)
		}
	}
	for _, it := range items {
		l.fallBehind(it.partition, it.Sequence)
	}
	return err
}

// buryRefused makes dead letters of what must not be applied, before the
// transaction: a position moves past them only when they are stored.
func (l *Loop) buryRefused(ctx context.Context, items []*item) {
	for _, it := range items {
		if it.refused != nil {
			it.unburied = l.ledger.Bury(ctx, command.DeadLetter(it.Record, it.deliveries, it.refused))
		}
	}
}

// reload reads the positions again after an error, when it is not known
// whether they moved.
func (l *Loop) reload(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	return l.load(context.WithoutCancel(ctx))
}

// applyItems applies items in one transaction. When the database refuses their
// data it halves them until the one that it refuses stands alone and fails.
func (l *Loop) applyItems(ctx context.Context, items []*item) error {
	if len(items) == 0 {
		return nil
	}
	err := l.transact(ctx, items)
	if err == nil || !store.IsPermanent(err) {
		return err
	}
	if len(items) == 1 {
		if items[0].poison != nil {
			return err
		}
		items[0].poison = err
		return l.transact(ctx, items)
	}
	half := len(items) / 2
	if err := l.applyItems(ctx, items[:half]); err != nil {
		return err
	}
	return l.applyItems(ctx, items[half:])
}

// transact decides and writes items in one transaction, then publishes what
// became of them.
func (l *Loop) transact(ctx context.Context, items []*item) error {
	started := time.Now()
	var s *state
	err := l.store.Update(ctx, func(ctx context.Context, tx *store.Tx) error {
		var err error
		if s, err = l.loadState(ctx, tx, items); err != nil {
			return err
		}
		s.decideBy = time.Now().Add(decideTimeout)
		for _, it := range items {
			if s.blocked[it.partition] == nil {
				l.process(ctx, s, it)
			}
		}
		for _, d := range s.dead {
			if err := l.ledger.Bury(ctx, d); err != nil { // before the position moves past it
				return err
			}
		}
		err = s.write(ctx, tx)
		l.at(beforeCommit)
		return err
	})
	if err != nil {
		return err
	}
	l.at(afterCommit)
	committed := time.Now()
	maps.Copy(l.positions, s.moved)
	if len(s.queued) > 0 {
		if err := l.ledger.Notify(events.QueuedSubject, nil); err != nil {
			l.log.DebugContext(ctx, "the role worker was not told of its commands, it will look", "error", err)
		}
	}
	l.metrics.applied(ctx, s, len(items), committed.Sub(started))
	l.traceCommit(items, started, committed)
	l.hold(ctx, s)
	err = l.publish(ctx, s.results)
	l.at(afterPublish)
	return err
}

// hold makes the partitions that wait for a dependency wait a little longer
// each time; the others go on.
func (l *Loop) hold(ctx context.Context, s *state) {
	for p := range s.moved {
		delete(l.held, p)
	}
	for p, err := range s.blocked {
		wait := min(max(2*l.held[p].wait, 50*time.Millisecond), maxBackoff)
		l.held[p] = held{until: time.Now().Add(wait), wait: wait}
		l.log.WarnContext(ctx, "partition waits", "partition", p, "wait", wait, "error", err)
	}
}

// state is what one transaction knows and changes. All of it is loaded and
// written in bulk; in between the commands are worked on in memory.
type state struct {
	positions map[int]uint64 // as the transaction read them
	moved     map[int]uint64 // as it will leave them
	commands  map[string]store.Command
	rows      map[*kind.Definition]map[string]*kind.Row
	changed   map[*kind.Definition]map[string]bool // ids whose row is to be written or deleted
	departed  map[string]bool                      // users that were deleted
	counts    counts
	results   []*resultOf
	queued    []store.Queued      // commands for the role worker
	waiting   []store.Command     // and their rows
	refused   []*item             // dead letters without an outcome, stored already
	dead      []ledger.DeadLetter // of commands that failed
	blocked   map[int]error       // partitions that wait for a dependency
	cerbos    error               // why Cerbos is not asked again in this batch
	decideBy  time.Time           // until when it is asked
	revision  string              // of the policy, read once for the batch
}

// resultOf is what became of one command.
type resultOf struct {
	it     *item
	row    store.Command
	second *events.Decision // taken again, nil if the first one held
	raw    []byte           // its bytes
	made   events.Outcome   // row.Outcome are its bytes
}

func (l *Loop) loadState(ctx context.Context, tx *store.Tx, items []*item) (*state, error) {
	s := &state{
		moved: map[int]uint64{}, blocked: map[int]error{},
		rows: map[*kind.Definition]map[string]*kind.Row{}, changed: map[*kind.Definition]map[string]bool{},
		revision: l.authz.Revision(),
	}
	parts := map[int]bool{}
	ids := map[*kind.Definition]map[string]bool{user.Kind: {}}
	commands := make([]string, 0, len(items))
	for _, it := range items {
		parts[it.partition] = true
		if it.refused != nil {
			continue
		}
		c := &it.event.Command
		commands = append(commands, c.ID)
		d := it.handler.Kind
		if ids[d] == nil {
			ids[d] = map[string]bool{}
		}
		ids[d][c.ResourceID] = true
		ids[user.Kind][c.PrincipalID] = true
	}
	var err error
	if s.positions, err = tx.Positions(ctx, slices.Sorted(maps.Keys(parts))); err != nil {
		return nil, err
	}
	for p, seq := range s.positions {
		if seq != l.positions[p] { // another worker was here: line up anew
			return nil, store.ErrPositionMoved
		}
	}
	if s.commands, err = tx.Commands(ctx, commands); err != nil {
		return nil, err
	}
	for d, set := range ids {
		found, err := tx.Rows(ctx, d, slices.Collect(maps.Keys(set)))
		if err != nil {
			return nil, err
		}
		s.rows[d] = make(map[string]*kind.Row, len(found))
		for id, r := range found {
			s.rows[d][id] = &r
		}
		s.changed[d] = map[string]bool{}
	}
	var unseen []string
	for id := range ids[user.Kind] {
		if s.rows[user.Kind][id] == nil {
			unseen = append(unseen, id)
		}
	}
	if s.departed, err = tx.Departed(ctx, unseen); err != nil {
		return nil, err
	}
	s.counts, err = loadCounts(ctx, tx, items)
	return s, err
}

// write writes what changed and moves the positions.
func (s *state) write(ctx context.Context, tx *store.Tx) error {
	for d, ids := range s.changed {
		var put []kind.Row
		var gone []string
		for id := range ids {
			if r := s.rows[d][id]; r != nil {
				put = append(put, *r)
			} else {
				gone = append(gone, id)
			}
		}
		if len(put) > 0 {
			if err := tx.PutRows(ctx, d, put); err != nil {
				return err
			}
		}
		if len(gone) > 0 {
			if err := tx.DeleteRows(ctx, d, gone); err != nil {
				return err
			}
		}
	}
	for id := range s.changed[user.Kind] {
		if s.rows[user.Kind][id] == nil {
			if err := tx.Depart(ctx, id, command.Now()); err != nil { // what was under way must not make them again
				return err
			}
		}
	}
	rows := slices.Clone(s.waiting)
	for _, r := range s.results {
		rows = append(rows, r.row)
	}
	if len(rows) > 0 {
		if err := tx.AddCommands(ctx, rows); err != nil {
			return err
		}
	}
	if err := tx.Enqueue(ctx, s.queued); err != nil {
		return err
	}
	moves := make([]store.Move, 0, len(s.moved))
	for _, p := range slices.Sorted(maps.Keys(s.moved)) {
		moves = append(moves, store.Move{Part: p, From: s.positions[p], To: s.moved[p]})
	}
	return tx.MoveAll(ctx, moves)
}

// encodeRow encodes a row for the commands table, so that a retry of the request
// gets the same answer.
func encodeRow(r *kind.Row) (json.RawMessage, error) {
	if r == nil {
		return nil, nil
	}
	b, err := json.Marshal(*r)
	if err != nil {
		return nil, fault.New(fault.Internal, "encode", "encode the result: %v", err)
	}
	return b, nil
}
