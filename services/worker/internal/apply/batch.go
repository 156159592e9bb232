package apply

import (
	"context"
	"encoding/json"
	"fmt"
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

// applyItems applies items in one transaction. When the database refuses their
// data it halves them until the one that it refuses stands alone and fails.
func (s *shard) applyItems(ctx context.Context, items []*item) error {
	if len(items) == 0 {
		return nil
	}
	err := s.transact(ctx, items)
	if err == nil || !store.IsPermanent(err) {
		return err
	}
	if len(items) == 1 {
		if items[0].poison != nil {
			return err
		}
		items[0].poison = err
		return s.transact(ctx, items)
	}
	half := len(items) / 2
	if err := s.applyItems(ctx, items[:half]); err != nil {
		return err
	}
	return s.applyItems(ctx, items[half:])
}

// transact decides and writes items in one transaction, then publishes what
// became of them. errWaits tells that it went no further than to one of them.
func (s *shard) transact(ctx context.Context, items []*item) error {
	started := time.Now()
	var st *state
	err := s.store.Update(ctx, func(ctx context.Context, tx *store.Tx) error {
		var err error
		if st, err = s.loadState(ctx, tx, items); err != nil {
			return err
		}
		st.decideBy = time.Now().Add(decideTimeout)
		for _, it := range items {
			if st.blocked == nil {
				s.process(ctx, st, it)
			}
		}
		for _, d := range st.dead {
			if err := s.ledger.Bury(ctx, d); err != nil { // before the position moves past it
				return err
			}
		}
		err = st.write(ctx, tx)
		s.at(beforeCommit)
		return err
	})
	if err != nil {
		return err
	}
	s.at(afterCommit)
	committed := time.Now()
	s.position = st.moved
	if len(st.queued) > 0 {
		if err := s.ledger.Notify(events.QueuedSubject, nil); err != nil {
			s.log.DebugContext(ctx, "the role worker was not told of its commands, it will look", "error", err)
		}
	}
	s.metrics.applied(ctx, st, len(items), committed.Sub(started))
	s.traceCommit(items, started, committed)
	if err := s.publish(ctx, st.results); err != nil {
		return err
	}
	for _, r := range st.repeated {
		command.Notify(ctx, s.ledger, s.log, r.it.event.Command.ReplyTo, r.row)
	}
	s.at(afterPublish)
	if st.blocked != nil {
		return fmt.Errorf("%w: %w", errWaits, st.blocked)
	}
	return nil
}

// state is what one transaction knows and changes. All of it is loaded and
// written in bulk; in between the commands are worked on in memory.
type state struct {
	shard    int
	position events.Address // as the transaction read it
	moved    events.Address // as it will leave it
	commands map[string]store.Command
	keys     map[string]store.Command // by idempotency key
	rows     map[*kind.Definition]map[string]*kind.Row
	changed  map[*kind.Definition]map[string]bool // ids whose row is to be written or deleted
	departed map[string]bool                      // users that were deleted
	counts   counts
	results  []*resultOf
	repeated []*resultOf         // of commands that have come again: who waits is told
	queued   []store.Queued      // commands for the role worker
	waiting  []store.Command     // and their rows
	refused  []*item             // dead letters without an outcome, stored already
	dead     []ledger.DeadLetter // of commands that failed
	blocked  error               // why the next command waits for a dependency
	cerbos   error               // why Cerbos is not asked again in this batch
	decideBy time.Time           // until when it is asked
	revision string              // of the policy, read once for the batch
}

// resultOf is what became of one command.
type resultOf struct {
	it     *item
	other  bool // its idempotency key stands for another command
	row    store.Command
	second *events.Decision // taken again, nil if the first one held
	raw    []byte           // its bytes
	made   events.Outcome   // row.Outcome are its bytes
}

func (s *shard) loadState(ctx context.Context, tx *store.Tx, items []*item) (*state, error) {
	st := &state{
		shard: s.number, moved: s.position,
		rows: map[*kind.Definition]map[string]*kind.Row{}, changed: map[*kind.Definition]map[string]bool{},
		revision: s.authz.Revision(),
	}
	ids := map[*kind.Definition]map[string]bool{user.Kind: {}}
	want := store.Wanted{Parts: []int{s.number}, Commands: make([]string, 0, len(items)), Rows: map[*kind.Definition][]string{}}
	for _, it := range items {
		if it.refused != nil {
			continue
		}
		c, d := &it.event.Command, it.handler.Kind
		want.Commands = append(want.Commands, c.ID)
		if c.Key != "" {
			want.Keys = append(want.Keys, c.Key)
		}
		if ids[d] == nil {
			ids[d] = map[string]bool{}
		}
		ids[d][c.ResourceID] = true
		ids[user.Kind][c.PrincipalID] = true
		if d == user.Kind {
			want.Departed = append(want.Departed, c.ResourceID)
		}
	}
	for d, set := range ids {
		want.Rows[d] = slices.Collect(maps.Keys(set))
	}
	got, err := tx.Load(ctx, want)
	if err != nil {
		return nil, err
	}
	if st.position = got.Positions[s.number]; st.position != s.position { // another worker was here: begin anew
		return nil, store.ErrPositionMoved
	}
	st.commands, st.keys, st.departed = got.Commands, got.Keys, got.Departed
	for d, found := range got.Rows {
		st.rows[d] = make(map[string]*kind.Row, len(found))
		for id, r := range found {
			st.rows[d][id] = &r
		}
		st.changed[d] = map[string]bool{}
	}
	st.counts, err = loadCounts(ctx, tx, items)
	return st, err
}

// write writes what changed and moves the position.
func (s *state) write(ctx context.Context, tx *store.Tx) error {
	c := store.Changes{
		Put: map[*kind.Definition][]kind.Row{}, Deleted: map[*kind.Definition][]string{}, At: command.Now(),
		Commands: slices.Clone(s.waiting), Queued: s.queued, Moves: []store.Move{{Part: s.shard, From: s.position, To: s.moved}},
	}
	for d, ids := range s.changed {
		for id := range ids {
			if r := s.rows[d][id]; r != nil {
				c.Put[d] = append(c.Put[d], *r)
				continue
			}
			c.Deleted[d] = append(c.Deleted[d], id)
			if d == user.Kind { // what was under way must not make them again
				c.Departed = append(c.Departed, id)
			}
		}
	}
	for _, r := range s.results {
		c.Commands = append(c.Commands, r.row)
	}
	return tx.Write(ctx, c)
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
