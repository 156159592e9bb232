package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
)

// Get reads one resource; fault.NotFound if there is none.
func (s *Store) Get(ctx context.Context, def *kind.Definition, id string) (kind.Row, error) {
	t := s.table(def)
	row := def.New()
	found, err := s.one(ctx, t.get, id, func() []any { return def.Dest(row) })
	if err != nil {
		return kind.Row{}, fmt.Errorf("load %s %s: %w", def.Name, id, err)
	}
	if !found {
		return kind.Row{}, fault.Missing(def.Name, id)
	}
	return row, nil
}

// Command reads what became of a command; fault.NotFound if the worker has not
// seen it yet.
func (s *Store) Command(ctx context.Context, id string) (Command, error) {
	var r commandRow
	found, err := s.one(ctx, commands.selectRows(1), id, func() []any { r = commandRow{}; return r.dest() })
	if err != nil {
		return Command{}, fmt.Errorf("load command %s: %w", id, err)
	}
	if !found {
		return Command{}, fault.Missing("command", id)
	}
	return r.command(), nil
}

// CommandByKey gives the command that an idempotency key stands for;
// fault.NotFound where none has been applied.
func (s *Store) CommandByKey(ctx context.Context, key string) (Command, error) {
	var r commandRow
	found, err := s.one(ctx, commands.selectBy(`"key"`, 1), key, func() []any { r = commandRow{}; return r.dest() })
	if err != nil {
		return Command{}, fmt.Errorf("load the command of an idempotency key: %w", err)
	}
	if !found {
		return Command{}, fault.Missing("command", key)
	}
	return r.command(), nil
}

// Positions reads the address on the ledger up to which each shard has been applied.
func (s *Store) Positions(ctx context.Context) (map[int]uint64, error) {
	var out map[int]uint64
	err := s.reading(ctx, func() error {
		out = map[int]uint64{}
		rows, err := s.query(ctx, s.prepared, "SELECT part, seq FROM positions")
		if err != nil {
			return err
		}
		return scanPositions(rows, out)
	})
	if err != nil {
		return nil, fmt.Errorf("load positions: %w", err)
	}
	return out, nil
}

// reading runs a read again where the trouble passes: a lost connection, a
// standby's conflict, a file that is locked while it is recovered.
func (s *Store) reading(ctx context.Context, read func() error) error {
	return retry(ctx, readAttempts, func() error {
		if s.room == nil {
			return s.failed(ctx, read())
		}
		select {
		case s.room <- struct{}{}:
			defer func() { <-s.room }()
			return s.failed(ctx, read())
		case <-ctx.Done():
			return s.failed(ctx, ctx.Err())
		}
	})
}

// brief is the context for a query by id. For one that can end, database/sql
// and SQLite's driver start a goroutine each, to interrupt the query: together
// they cost more than the query, which is over before they could. There is no
// wait either: reading gives a connection to each of its callers. PostgreSQL is
// asked over a network, with the deadline.
func (s *Store) brief(ctx context.Context) (context.Context, error) {
	if s.dialect != SQLite {
		return ctx, nil
	}
	return context.WithoutCancel(ctx), ctx.Err()
}

// one reads at most one row by its id.
func (s *Store) one(ctx context.Context, query, id string, dest func() []any) (found bool, err error) {
	if !storable(id) {
		return false, nil // no row has such an id, and PostgreSQL would not take the question
	}
	err = s.reading(ctx, func() error {
		found = false
		ctx, err := s.brief(ctx)
		if err != nil {
			return err
		}
		rows, err := s.query(ctx, s.prepared, query, id)
		if err != nil {
			return err
		}
		return each(rows, func() error { found = true; return rows.Scan(dest()...) })
	})
	return found, err
}

// each calls scan for every row and closes rows.
func each(rows *sql.Rows, scan func() error) error {
	defer func() { _ = rows.Close() }() // Err tells what went wrong
	for rows.Next() {
		if err := scan(); err != nil {
			return err
		}
	}
	return rows.Err()
}

func scanPositions(rows *sql.Rows, into map[int]uint64) error {
	return each(rows, func() error {
		var part int
		var seq int64
		if err := rows.Scan(&part, &seq); err != nil {
			return err
		}
		into[part] = uint64(seq)
		return nil
	})
}
