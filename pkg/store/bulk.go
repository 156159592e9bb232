package store

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/writ-project/writ/pkg/kind"
)

// Wanted is what a transaction reads before it does anything.
type Wanted struct {
	Parts    []int
	Commands []string
	Keys     []string
	Rows     map[*kind.Definition][]string
	Departed []string
}

// Loaded is what was read, as Positions, Commands, CommandsByKey, Rows and Departed give it.
type Loaded struct {
	Positions map[int]uint64
	Commands  map[string]Command
	Keys      map[string]Command // by idempotency key
	Rows      map[*kind.Definition]map[string]kind.Row
	Departed  map[string]bool
}

// Load reads everything at once: positions first, so that on PostgreSQL what is
// read after them is read while they are locked.
func (t *Tx) Load(ctx context.Context, w Wanted) (Loaded, error) {
	out := Loaded{
		Positions: make(map[int]uint64, len(w.Parts)), Commands: make(map[string]Command, len(w.Commands)), Keys: map[string]Command{},
		Rows: make(map[*kind.Definition]map[string]kind.Row, len(w.Rows)), Departed: map[string]bool{},
	}
	ops := t.store.positions(w.Parts, out.Positions)
	ops = append(ops, t.store.commands(w.Commands, out.Commands)...)
	ops = append(ops, t.store.commandsByKey(w.Keys, out.Keys)...)
	for def, ids := range w.Rows {
		out.Rows[def] = make(map[string]kind.Row, len(ids))
		ops = append(ops, t.store.rows(def, ids, out.Rows[def])...)
	}
	ops = append(ops, t.store.departed(w.Departed, out.Departed)...)
	return out, t.run(ctx, "load what commands are about", ops)
}

// Changes is what a transaction writes. Departed are users that were deleted at
// At.
type Changes struct {
	Put      map[*kind.Definition][]kind.Row
	Deleted  map[*kind.Definition][]string
	Departed []string
	At       time.Time
	Commands []Command
	Queued   []Queued
	Moves    []Move
}

// Write writes everything at once, as PutRows, DeleteRows, Depart, AddCommands,
// Enqueue and MoveAll do it one by one, with their errors.
func (t *Tx) Write(ctx context.Context, c Changes) error {
	var w writes
	for def, rows := range c.Put {
		w = w.and(t.store.putRows(def, rows))
	}
	for def, ids := range c.Deleted {
		w.ops = append(w.ops, t.store.deleteRows(def, ids)...)
	}
	for _, id := range c.Departed {
		w.ops = append(w.ops, t.store.depart(id, c.At))
	}
	w = w.and(t.store.addCommands(c.Commands)).and(t.store.enqueue(c.Queued))
	w.ops = append(w.ops, t.store.moveAll(c.Moves)...)
	return t.write(ctx, "save what commands did", w)
}

// writes are ops that write, or why they cannot be made.
type writes struct {
	ops []operation
	err error
}

func newWrites(ops []operation, err error) writes { return writes{ops, err} }

func (w writes) and(more writes) writes {
	return writes{append(w.ops, more.ops...), errors.Join(w.err, more.err)}
}

// byID gives the ops for a statement over any number of ids: with read for one
// that reads, nil for one that writes.
func (s *Store) byID(statement func(n int) string, ids []string, read func(resultSet) error) (ops []operation) {
	ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return !storable(id) }) // no row has such an id
	if len(ids) == 0 {
		return nil
	}
	if s.dialect == Postgres {
		return []operation{{query: statement(0), args: []any{ids}, read: read}}
	}
	for chunk := range slices.Chunk(ids, maxRows) {
		args := padded(chunk)
		ops = append(ops, operation{query: statement(len(args)), args: args, read: read})
	}
	return ops
}

// maxArray is how many rows one statement takes on PostgreSQL.
const maxArray = 1024

// inserting gives the ops for a statement that inserts any number of items.
func inserting[T any](s *Store, items []T, values func(T) []any, statement func(n int) string, into *table, wrote func(int64) error) (ops []operation, err error) {
	rows := make([][]any, len(items))
	for i, item := range items {
		if rows[i] = values(item); !allStorable(rows[i]) {
			return nil, errText
		}
	}
	if s.dialect == Postgres {
		for chunk := range slices.Chunk(rows, maxArray) {
			args := make([]any, len(into.columns))
			for i := range args {
				args[i] = column{chunk, i}
			}
			ops = append(ops, operation{query: statement(0), args: args, wrote: wrote})
		}
		return ops, nil
	}
	for _, size := range chunks(len(rows)) {
		args := make([]any, 0, size*len(into.columns))
		for _, row := range rows[:size] {
			args = append(args, row...)
		}
		ops = append(ops, operation{query: statement(size), args: args, wrote: wrote})
		rows = rows[size:]
	}
	return ops, nil
}

// column is one column of rows, as an array for PostgreSQL.
type column struct {
	rows [][]any
	i    int
}

var _ pgtype.ArrayGetter = column{}

// Dimensions implements pgtype.ArrayGetter.
func (c column) Dimensions() []pgtype.ArrayDimension {
	return []pgtype.ArrayDimension{{Length: int32(len(c.rows)), LowerBound: 1}}
}

// Index implements pgtype.ArrayGetter.
func (c column) Index(i int) any { return c.rows[i][c.i] }

// IndexType implements pgtype.ArrayGetter: the elements' own types say it, one may be NULL.
func (c column) IndexType() any { return nil }
