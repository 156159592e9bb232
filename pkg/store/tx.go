package store

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/writ-project/writ/pkg/kind"
)

// Tx is a transaction of Update, for one goroutine. Its methods work on many
// rows at a time. After one has failed, every later call gives the same error
// and the transaction cannot be committed.
//
// On PostgreSQL each call is one round trip; Load and Write do at once what the
// others do one by one.
type Tx struct {
	store *Store
	tx    transaction
	err   error
}

// Move is one step of a shard's position.
type Move struct {
	Part     int
	From, To uint64 // addresses on the ledger (events.Address)
}

// Positions reads the positions of the shards. On PostgreSQL their rows are
// locked until the end, in one order, so that a second worker waits; on SQLite
// the whole transaction already excludes it.
func (t *Tx) Positions(ctx context.Context, parts []int) (map[int]uint64, error) {
	out := make(map[int]uint64, len(parts))
	return out, t.run(ctx, "load positions", t.store.positions(parts, out))
}

func (s *Store) positions(parts []int, into map[int]uint64) []operation {
	if len(parts) == 0 {
		return nil
	}
	sorted := slices.Compact(slices.Sorted(slices.Values(parts)))
	st := operation{query: "SELECT part, seq FROM positions WHERE part = ANY($1) ORDER BY part FOR UPDATE", args: []any{sorted}}
	if s.dialect == SQLite {
		st.query, st.args = "SELECT part, seq FROM positions WHERE part IN ("+marks(len(sorted))+") ORDER BY part", make([]any, len(sorted))
		for i, p := range sorted {
			st.args[i] = p
		}
	}
	st.read = func(rows resultSet) error {
		err := scanPositions(rows, into)
		if err == nil && len(into) != len(sorted) {
			err = fmt.Errorf("shards %v: %d have a position", sorted, len(into))
		}
		return err
	}
	return []operation{st}
}

// Move moves one position; ErrPositionMoved if it is not at from any more.
func (t *Tx) Move(ctx context.Context, part int, from, to uint64) error {
	return t.MoveAll(ctx, []Move{{part, from, to}})
}

// MoveAll moves the positions of different shards in one statement;
// ErrPositionMoved if one of them is not at its From any more.
func (t *Tx) MoveAll(ctx context.Context, moves []Move) error {
	return t.run(ctx, "move positions", t.store.moveAll(moves))
}

func (s *Store) moveAll(moves []Move) []operation {
	if len(moves) == 0 {
		return nil
	}
	st := operation{wrote: func(n int64) error {
		if n != int64(len(moves)) {
			return fmt.Errorf("%w: %d of %d are where they were", ErrPositionMoved, n, len(moves))
		}
		return nil
	}}
	if s.dialect == SQLite {
		st.query, st.args = moveSQLite(moves)
		return []operation{st}
	}
	parts, from, to := make([]int, len(moves)), make([]int64, len(moves)), make([]int64, len(moves))
	for i, m := range moves {
		parts[i], from[i], to[i] = m.Part, int64(m.From), int64(m.To)
	}
	st.query = "UPDATE positions SET seq = m.dest FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS m (part, was, dest)" +
		" WHERE positions.part = m.part AND positions.seq = m.was"
	st.args = []any{parts, from, to}
	return []operation{st}
}

func moveSQLite(moves []Move) (string, []any) {
	var cases, at strings.Builder
	var to, from []any
	for i, m := range moves {
		if i > 0 {
			at.WriteString(" OR ")
		}
		cases.WriteString(" WHEN ? THEN ?")
		at.WriteString("(part = ? AND seq = ?)")
		to = append(to, m.Part, int64(m.To))
		from = append(from, m.Part, int64(m.From))
	}
	return "UPDATE positions SET seq = CASE part" + cases.String() + " END WHERE " + at.String(), append(to, from...)
}

// Rows reads the resources that exist, by id.
func (t *Tx) Rows(ctx context.Context, def *kind.Definition, ids []string) (map[string]kind.Row, error) {
	out := make(map[string]kind.Row, len(ids))
	return out, t.run(ctx, "load "+def.Plural, t.store.rows(def, ids, out))
}

func (s *Store) rows(def *kind.Definition, ids []string, into map[string]kind.Row) []operation {
	table := s.table(def)
	return s.byID(table.selectRows, ids, func(rows resultSet) error {
		return each(rows, func() error {
			row, id, dest := table.fresh()
			err := rows.Scan(dest...)
			into[*id] = row.(kind.Row)
			return err
		})
	})
}

// PutRows writes resources, new or not. Of two with one id the later counts.
func (t *Tx) PutRows(ctx context.Context, def *kind.Definition, rows []kind.Row) error {
	return t.write(ctx, "save "+def.Plural, t.store.putRows(def, rows))
}

func (s *Store) putRows(def *kind.Definition, rows []kind.Row) writes {
	rows = latest(rows, func(r kind.Row) string { return r.ID })
	table := s.table(def)
	w := newWrites(inserting(s, rows, def.Values, table.putRows, table, nil))
	if def.Shared() {
		w = w.and(newWrites(s.putTenants(def, rows)))
	}
	return w
}

// DeleteRows deletes the resources that exist.
func (t *Tx) DeleteRows(ctx context.Context, def *kind.Definition, ids []string) error {
	return t.run(ctx, "delete "+def.Plural, t.store.deleteRows(def, ids))
}

func (s *Store) deleteRows(def *kind.Definition, ids []string) []operation {
	table := s.table(def)
	ops := s.byID(table.deleteRows, ids, nil)
	if def.Shared() {
		ops = append(ops, s.byID(table.members.deleteRows, ids, nil)...)
	}
	return ops
}

// Commands reads the commands that have been seen, by id.
func (t *Tx) Commands(ctx context.Context, ids []string) (map[string]Command, error) {
	out := make(map[string]Command, len(ids))
	return out, t.run(ctx, "load commands", t.store.commands(ids, out))
}

func (s *Store) commands(ids []string, into map[string]Command) []operation {
	return s.byID(commands.selectRows, ids, func(rows resultSet) error {
		return each(rows, func() error {
			var r commandRow
			err := rows.Scan(r.dest()...)
			into[r.ID] = r.command()
			return err
		})
	})
}

// AddCommands writes commands that are new. ErrCommandKnown says that one of
// them was written meanwhile, by a worker that holds another shard: two
// commands of one id need not be in the same one.
func (t *Tx) AddCommands(ctx context.Context, all []Command) error {
	return t.write(ctx, "save commands", t.store.addCommands(all))
}

func (s *Store) addCommands(all []Command) writes {
	missing := int64(len(all))
	wrote := func(n int64) error { missing -= n; return nil }
	w := newWrites(inserting(s, all, commandValues, commands.addRows, commands, wrote))
	if len(w.ops) > 0 {
		w.ops[len(w.ops)-1].wrote = func(n int64) error {
			if missing -= n; missing != 0 {
				return ErrCommandKnown
			}
			return nil
		}
	}
	return w
}

func commandValues(c Command) []any { return c.values() }

// keep classifies err, says what was being done, and remembers the first one.
func (t *Tx) keep(ctx context.Context, doing string, err error) error {
	if t.err == nil && err != nil {
		t.err = fmt.Errorf("%s: %w", doing, t.store.failed(ctx, err))
	}
	return t.err
}

// run runs ops unless the transaction has failed, and remembers if it does.
func (t *Tx) run(ctx context.Context, doing string, ops []operation) error {
	if t.err != nil || len(ops) == 0 {
		return t.err
	}
	return t.keep(ctx, doing, t.tx.run(ctx, ops))
}

// write is run for ops that may not be possible.
func (t *Tx) write(ctx context.Context, doing string, w writes) error {
	if w.err != nil {
		return t.keep(ctx, doing, w.err)
	}
	return t.run(ctx, doing, w.ops)
}

func (t *Tx) query(ctx context.Context, query string, args []any, scan func(resultSet) error) error {
	if t.err != nil {
		return t.err
	}
	return t.tx.run(ctx, []operation{{query: t.store.rebind(query), args: args, read: scan}})
}

func (t *Tx) exec(ctx context.Context, query string, args []any) (affected int64, err error) {
	if t.err != nil {
		return 0, t.err
	}
	err = t.tx.run(ctx, []operation{{query: t.store.rebind(query), args: args, wrote: func(n int64) error { affected = n; return nil }}})
	return affected, err
}
