package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
)

// Get reads one resource; fault.NotFound if there is none. Reads that wait at
// the same moment, of whatever kinds, share a round trip to the database; what
// was committed before the call is seen.
func (s *Store) Get(ctx context.Context, def *kind.Definition, id string) (kind.Row, error) {
	row, found, err := s.find(ctx, s.table(def), id)
	if err != nil {
		return kind.Row{}, fmt.Errorf("load %s %s: %w", def.Name, id, err)
	}
	if !found {
		return kind.Row{}, fault.Missing(def.Name, id)
	}
	return row.(kind.Row), nil
}

// Command reads what became of a command, as Get does; fault.NotFound if the
// worker has not seen it yet.
func (s *Store) Command(ctx context.Context, id string) (Command, error) {
	row, found, err := s.find(ctx, commands, id)
	if err != nil {
		return Command{}, fmt.Errorf("load command %s: %w", id, err)
	}
	if !found {
		return Command{}, fault.Missing("command", id)
	}
	return row.(*commandRow).command(), nil
}

// wanted is a row that somebody wants, by its id, and what was found.
type wanted struct {
	table *table
	id    string
	row   any // as table.fresh made it
	found bool
	err   error // what is wrong with this row alone

	same *wanted // somebody else who wants the row
}

// find reads a row of a table by its id, together with others.
func (s *Store) find(ctx context.Context, t *table, id string) (row any, found bool, err error) {
	if !storable(id) {
		return nil, false, nil // no row has such an id, and PostgreSQL would not take the question
	}
	w := &wanted{table: t, id: id}
	if err := s.finds.do(ctx, w); err != nil {
		return nil, false, s.failed(ctx, err)
	}
	return w.row, w.found, s.failed(ctx, w.err)
}

// findAll finds what is wanted. A row that cannot be read fails nobody but those
// who want it.
func (s *Store) findAll(ctx context.Context, all []*wanted) error {
	err := s.findTogether(ctx, all)
	if err == nil || len(all) == 1 || ctx.Err() != nil || fault.Is(err, fault.Unavailable) {
		return err
	}
	for _, w := range all {
		w.err = s.findTogether(ctx, []*wanted{w})
	}
	return nil
}

// findTogether finds what is wanted, with one statement for each table.
func (s *Store) findTogether(ctx context.Context, all []*wanted) error {
	return s.reading(ctx, func() error {
		var lookups []lookup
		for i, w := range all {
			if !slices.ContainsFunc(all[:i], func(earlier *wanted) bool { return earlier.table == w.table }) {
				lookups = append(lookups, lookUp(w.table, all[i:]))
			}
		}
		return s.db.lookUp(ctx, lookups)
	})
}

// lookUp is the statement for those who want rows of one table. Each of them
// gets a row of their own, to do with as they like.
func lookUp(t *table, all []*wanted) lookup {
	l := lookup{table: t}
	var first []*wanted // in the order of l.ids; w.same leads to the others
	for _, w := range all {
		if w.table != t {
			continue
		}
		w.found, w.same = false, nil
		if i := slices.Index(l.ids, w.id); i >= 0 { // they are few
			w.same, first[i] = first[i], w
			continue
		}
		l.ids, first = append(l.ids, w.id), append(first, w)
	}
	l.read = func(rows resultSet) error {
		return each(rows, func() error {
			row, id, dest := t.fresh()
			if err := rows.Scan(dest...); err != nil {
				return err
			}
			i := slices.Index(l.ids, *id)
			if i < 0 {
				return nil // not what was asked for
			}
			for w := first[i]; ; w = w.same {
				if w.row, w.found = row, true; w.same == nil {
					return nil
				}
				row, _, dest = t.fresh()
				if err := rows.Scan(dest...); err != nil {
					return err
				}
			}
		})
	}
	return l
}

// CommandByKey gives the command that an idempotency key stands for;
// fault.NotFound where none has been applied.
func (s *Store) CommandByKey(ctx context.Context, key string) (Command, error) {
	row, found, err := s.find(ctx, commandsByKey, key)
	if err != nil {
		return Command{}, fmt.Errorf("load the command of an idempotency key: %w", err)
	}
	if !found {
		return Command{}, fault.Missing("command", key)
	}
	return row.(*commandRow).command(), nil
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

func scanPositions(rows resultSet, into map[int]uint64) error {
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
