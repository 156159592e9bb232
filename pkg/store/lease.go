package store

import (
	"context"
	"errors"
	"fmt"
)

// ErrLeaseLost says that somebody else holds the lease.
var ErrLeaseLost = errors.New("the lease is somebody else's")

// Lease is the right of one process to do a job alone. It has no time in it,
// because clocks differ: who wants it watches whether Beat moves, by their own.
type Lease struct {
	Name   string
	Holder string // "" when it was given back
	Epoch  int64  // counts the holders
	Beat   int64  // counts the signs of life of this one
}

// Lease reads a lease as it stands.
func (s *Store) Lease(ctx context.Context, name string) (Lease, error) {
	l := Lease{Name: name}
	found := false
	err := s.reading(ctx, func() error {
		found = false
		rows, err := s.query(ctx, s.prepared, "SELECT holder, epoch, beat FROM leases WHERE name = ?", name)
		if err != nil {
			return err
		}
		return each(rows, func() error { found = true; return rows.Scan(&l.Holder, &l.Epoch, &l.Beat) })
	})
	if err == nil && !found {
		err = errors.New("there is no such lease")
	}
	if err != nil {
		return Lease{}, fmt.Errorf("load lease %s: %w", name, err)
	}
	return l, nil
}

// TakeLease takes a lease over from who was seen holding it; ErrLeaseLost if it
// has moved since.
func (s *Store) TakeLease(ctx context.Context, seen Lease, holder string) (Lease, error) {
	taken := Lease{Name: seen.Name, Holder: holder, Epoch: seen.Epoch + 1}
	err := s.moveLease(ctx, "UPDATE leases SET holder = ?, epoch = epoch + 1, beat = 0 WHERE name = ? AND epoch = ? AND beat = ?",
		holder, seen.Name, seen.Epoch, seen.Beat)
	return taken, err
}

// BeatLease gives a sign of life; ErrLeaseLost if the lease is lost.
func (s *Store) BeatLease(ctx context.Context, l Lease) error {
	return s.moveLease(ctx, "UPDATE leases SET beat = beat + 1 WHERE name = ? AND epoch = ?", l.Name, l.Epoch)
}

// GiveLease gives a lease back, so that nobody has to wait for it.
func (s *Store) GiveLease(ctx context.Context, l Lease) error {
	return s.moveLease(ctx, "UPDATE leases SET holder = '' WHERE name = ? AND epoch = ?", l.Name, l.Epoch)
}

func (s *Store) moveLease(ctx context.Context, query string, args ...any) error {
	return s.Update(ctx, func(ctx context.Context, tx *Tx) error {
		n, err := tx.exec(ctx, query, args)
		if err == nil && n != 1 {
			err = ErrLeaseLost
		}
		return tx.keep(ctx, "move a lease", err)
	})
}

// Holds makes sure that the lease is held, until the end of the transaction, in
// which it is the only one of the job's; ErrLeaseLost if it is lost.
func (t *Tx) Holds(ctx context.Context, l Lease) error {
	query := "SELECT epoch FROM leases WHERE name = ?"
	if t.store.dialect == Postgres {
		query += " FOR UPDATE"
	}
	held := false
	err := t.query(ctx, query, []any{l.Name}, func(rows resultSet) error {
		return each(rows, func() error {
			var epoch int64
			if err := rows.Scan(&epoch); err != nil {
				return err
			}
			held = epoch == l.Epoch
			return nil
		})
	})
	if err == nil && !held {
		err = ErrLeaseLost
	}
	return t.keep(ctx, "check a lease", err)
}
