package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/writ-project/writ/pkg/kind"
)

// Tx is a transaction of Update, for one goroutine. Its methods work on many
// rows at a time. After one has failed, every later call gives the same error
// and the transaction cannot be committed.
type Tx struct {
	store *Store
	tx    *sql.Tx
	err   error
}

// Move is one step of a partition's position.
type Move struct {
	Part     int
	From, To uint64 // ledger sequences
}

// Positions reads the positions of the partitions. On PostgreSQL their rows are
// locked until the end, in one order, so that a second worker waits; on SQLite
// the whole transaction already excludes it.
func (t *Tx) Positions(ctx context.Context, parts []int) (map[int]uint64, error) {
	out := make(map[int]uint64, len(parts))
	if len(parts) == 0 {
		return out, t.err
	}
	sorted := slices.Compact(slices.Sorted(slices.Values(parts)))
	query := "SELECT part, seq FROM positions WHERE part IN (" + marks(len(sorted)) + ") ORDER BY part"
	if t.store.dialect == Postgres {
		query += " FOR UPDATE"
	}
	args := make([]any, len(sorted))
	for i, p := range sorted {
		args[i] = p
	}
	err := t.query(ctx, query, args, func(rows *sql.Rows) error { return scanPositions(rows, out) })
	if err == nil && len(out) != len(sorted) {
		err = fmt.Errorf("partitions %v: %d have a position", sorted, len(out))
	}
	return out, t.keep(ctx, "load positions", err)
}

// Move moves one position; ErrPositionMoved if it is not at from any more.
func (t *Tx) Move(ctx context.Context, part int, from, to uint64) error {
	return t.MoveAll(ctx, []Move{{part, from, to}})
}

// MoveAll moves the positions of different partitions in one statement;
// ErrPositionMoved if one of them is not at its From any more.
func (t *Tx) MoveAll(ctx context.Context, moves []Move) error {
	if len(moves) == 0 {
		return t.err
	}
	var cases, at strings.Builder
	var to, from []any
	for i, m := range moves {
		if i > 0 {
			at.WriteString(" OR ")
		}
		cases.WriteString(" WHEN ? THEN CAST(? AS BIGINT)")
		at.WriteString("(part = ? AND seq = ?)")
		to = append(to, m.Part, int64(m.To))
		from = append(from, m.Part, int64(m.From))
	}
	query := "UPDATE positions SET seq = CASE part" + cases.String() + " END WHERE " + at.String()
	n, err := t.exec(ctx, query, append(to, from...))
	if err == nil && n != int64(len(moves)) {
		err = fmt.Errorf("%w: %d of %d are where they were", ErrPositionMoved, n, len(moves))
	}
	return t.keep(ctx, "move positions", err)
}

// Rows reads the resources that exist, by id.
func (t *Tx) Rows(ctx context.Context, def *kind.Definition, ids []string) (map[string]kind.Row, error) {
	out := make(map[string]kind.Row, len(ids))
	err := t.byID(ids, func(n int, args []any) error {
		return t.query(ctx, t.store.table(def).selectRows(n), args, func(rows *sql.Rows) error {
			return each(rows, func() error {
				row := def.New()
				err := rows.Scan(def.Dest(row)...)
				out[row.ID] = row
				return err
			})
		})
	})
	return out, t.keep(ctx, "load "+def.Plural, err)
}

// PutRows writes resources, new or not. Of two with one id the later counts.
func (t *Tx) PutRows(ctx context.Context, def *kind.Definition, rows []kind.Row) error {
	rows = latest(rows, func(r kind.Row) string { return r.ID })
	err := put(ctx, t, t.store.table(def), rows, def.Values)
	if err == nil && def.Shared() {
		err = t.putTenants(ctx, def, rows)
	}
	return t.keep(ctx, "save "+def.Plural, err)
}

// DeleteRows deletes the resources that exist.
func (t *Tx) DeleteRows(ctx context.Context, def *kind.Definition, ids []string) error {
	err := t.byID(ids, func(n int, args []any) error {
		_, err := t.exec(ctx, t.store.table(def).deleteRows(n), args)
		if err == nil && def.Shared() {
			_, err = t.exec(ctx, membersOf(def).deleteRows(n), args)
		}
		return err
	})
	return t.keep(ctx, "delete "+def.Plural, err)
}

// Commands reads the commands that have been seen, by id.
func (t *Tx) Commands(ctx context.Context, ids []string) (map[string]Command, error) {
	out := make(map[string]Command, len(ids))
	err := t.byID(ids, func(n int, args []any) error {
		return t.query(ctx, commands.selectRows(n), args, func(rows *sql.Rows) error {
			return each(rows, func() error {
				var r commandRow
				err := rows.Scan(r.dest()...)
				out[r.ID] = r.command()
				return err
			})
		})
	})
	return out, t.keep(ctx, "load commands", err)
}

// AddCommands writes commands that are new. ErrCommandKnown says that one of
// them was written meanwhile, by a worker that holds another partition: two
// commands of one id need not be in the same one.
func (t *Tx) AddCommands(ctx context.Context, all []Command) error {
	added := int64(0)
	err := inChunks(all, func(c Command) []any { return c.values() }, func(n int, args []any) error {
		affected, err := t.exec(ctx, commands.addRows(n), args)
		added += affected
		return err
	})
	if err == nil && added != int64(len(all)) {
		err = ErrCommandKnown
	}
	return t.keep(ctx, "save commands", err)
}

// put writes items in few statements of few sizes.
func put[T any](ctx context.Context, t *Tx, into *table, items []T, values func(T) []any) error {
	return inChunks(items, values, func(n int, args []any) error {
		_, err := t.exec(ctx, into.putRows(n), args)
		return err
	})
}

// inChunks calls write with the values of n items at a time.
func inChunks[T any](items []T, values func(T) []any, write func(n int, args []any) error) error {
	for _, size := range chunks(len(items)) {
		var args []any
		for _, item := range items[:size] {
			args = append(args, values(item)...)
		}
		if !allStorable(args) {
			return errText
		}
		if err := write(size, args); err != nil {
			return err
		}
		items = items[size:]
	}
	return nil
}

// byID runs a statement over lists of ids.
func (t *Tx) byID(ids []string, run func(n int, args []any) error) error {
	ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return !storable(id) }) // no row has such an id
	for chunk := range slices.Chunk(ids, maxRows) {
		args := padded(chunk)
		if err := run(len(args), t.store.planned(args)); err != nil {
			return err
		}
	}
	return t.err
}

// keep classifies err, says what was being done, and remembers the first one.
func (t *Tx) keep(ctx context.Context, doing string, err error) error {
	if t.err == nil && err != nil {
		t.err = fmt.Errorf("%s: %w", doing, t.store.failed(ctx, err))
	}
	return t.err
}

func (t *Tx) query(ctx context.Context, query string, args []any, scan func(*sql.Rows) error) error {
	if t.err != nil {
		return t.err
	}
	var rows *sql.Rows
	var err error
	if stmt := t.statement(ctx, query); stmt != nil {
		rows, err = stmt.QueryContext(ctx, args...)
	} else {
		rows, err = t.tx.QueryContext(ctx, t.store.rebind(query), args...)
	}
	if err != nil {
		return err
	}
	return scan(rows)
}

func (t *Tx) exec(ctx context.Context, query string, args []any) (affected int64, err error) {
	if t.err != nil {
		return 0, t.err
	}
	var result sql.Result
	if stmt := t.statement(ctx, query); stmt != nil {
		result, err = stmt.ExecContext(ctx, args...)
	} else {
		result, err = t.tx.ExecContext(ctx, t.store.rebind(query), args...)
	}
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// statement finds a prepared statement on SQLite; the next transaction will
// have the ones that are missing.
func (t *Tx) statement(ctx context.Context, query string) *sql.Stmt {
	c := t.store.preparedWrites
	if c == nil {
		return nil
	}
	stmt := c.find(query)
	if stmt == nil {
		c.want(query)
		return nil
	}
	return t.tx.StmtContext(ctx, stmt)
}
