package store

import (
	"context"
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/kind/user"
)

// batch is what a worker does: all of it, or nothing.
func batch(ctx context.Context, tx *Tx, part int, from, to uint64, rows ...kind.Row) error {
	commands := make([]Command, len(rows))
	for i, row := range rows {
		commands[i] = Command{ID: row.ID, Status: events.StatusApplied, IssuedAt: at(0), At: at(0)}
	}
	return errors.Join(
		tx.PutRows(ctx, contact.Kind, rows),
		tx.AddCommands(ctx, commands),
		tx.Move(ctx, part, from, to),
	)
}

// applied checks whether the batch has, or has not, been applied as a whole.
func applied(t testing.TB, s *Store, whole bool, part int, position uint64, rows ...kind.Row) {
	t.Helper()
	positions, err := s.Positions(t.Context())
	ok(t, err)
	if positions[part] != position {
		t.Errorf("partition %d is at %d, want %d", part, positions[part], position)
	}
	for _, row := range rows {
		_, err := s.Get(t.Context(), contact.Kind, row.ID)
		_, commandErr := s.Command(t.Context(), row.ID)
		for what, err := range map[string]error{"row": err, "command": commandErr} {
			if (err == nil) != whole || (err != nil && !fault.Is(err, fault.NotFound)) {
				t.Errorf("%s %s: %v", what, row.ID, err)
			}
		}
	}
}

func TestLoserOfAPositionRaceRollsBackItsWholeBatch(t *testing.T) {
	for dialect, database := range databases {
		t.Run(string(dialect), func(t *testing.T) {
			url := database(t)
			winner, loser := migrated(t, url), opened(t, url)
			won, lost := newContact(1), newContact(2)
			ok(t, winner.Update(t.Context(), func(ctx context.Context, tx *Tx) error { return batch(ctx, tx, 3, 0, 7, won) }))
			for _, overlooked := range []bool{false, true} {
				calls := 0
				err := loser.Update(t.Context(), func(ctx context.Context, tx *Tx) error {
					calls++
					if err := batch(ctx, tx, 3, 0, 8, lost); !overlooked {
						return err
					}
					return nil
				})
				if !errors.Is(err, ErrPositionMoved) || calls != 1 || IsPermanent(err) || fault.Is(err, fault.Unavailable) {
					t.Errorf("after %d calls: %v", calls, err)
				}
				applied(t, loser, true, 3, 7, won)
				applied(t, loser, false, 3, 7, lost)
			}
			// One moved position out of three is enough.
			err := loser.Update(t.Context(), func(ctx context.Context, tx *Tx) error {
				return tx.MoveAll(ctx, []Move{{1, 0, 5}, {2, 0, 5}, {3, 0, 5}})
			})
			if !errors.Is(err, ErrPositionMoved) {
				t.Error(err)
			}
			applied(t, winner, true, 1, 0)
			ok(t, loser.Update(t.Context(), func(ctx context.Context, tx *Tx) error {
				return tx.MoveAll(ctx, []Move{{1, 0, 5}, {2, 0, 6}, {3, 7, 1 << 62}})
			}))
			applied(t, winner, true, 2, 6)
			applied(t, winner, true, 3, 1<<62)
		})
	}
}

func TestTwoWorkersTakeTurnsOnOnePosition(t *testing.T) {
	for dialect, database := range databases {
		t.Run(string(dialect), func(t *testing.T) {
			url := database(t)
			stores := []*Store{migrated(t, url), opened(t, url)}
			const each = 25
			var all sync.WaitGroup
			for _, s := range stores {
				all.Go(func() {
					for range each {
						if err := s.Update(t.Context(), func(ctx context.Context, tx *Tx) error {
							at, err := tx.Positions(ctx, []int{4, 2, 4})
							if err != nil {
								return err
							}
							return tx.MoveAll(ctx, []Move{{2, at[2], at[2] + 1}, {4, at[4], at[4] + 2}})
						}); err != nil {
							t.Error(err)
						}
					}
				})
			}
			all.Wait()
			applied(t, stores[0], true, 2, 2*each)
			applied(t, stores[0], true, 4, 4*each)
		})
	}
}

func TestDataThatDoesNotFitIsPermanent(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		named := func(id, email string) kind.Row {
			row := user.Kind.New()
			*row.Value.(*user.User) = user.User{Meta: kind.Meta{ID: id, Tenant: "t", CreatedAt: at(0), UpdatedAt: at(0)}, Email: email}
			return row
		}
		nul := newContact(1, func(c *contact.Contact) { c.Notes = "a\x00b" })
		bad := newContact(2, func(c *contact.Contact) { c.Notes = "a\xff" })
		put1(t, s, user.Kind, named("1", "sam@example.com"), named("2", ""), named("3", ""))
		for what, fn := range map[string]func(context.Context, *Tx) error{
			"constraint": func(ctx context.Context, tx *Tx) error {
				return tx.PutRows(ctx, user.Kind, []kind.Row{named("4", "Sam@Example.com")})
			},
			"NUL":       func(ctx context.Context, tx *Tx) error { return tx.PutRows(ctx, contact.Kind, []kind.Row{nul}) },
			"not UTF-8": func(ctx context.Context, tx *Tx) error { return tx.PutRows(ctx, contact.Kind, []kind.Row{bad}) },
			"overlooked": func(ctx context.Context, tx *Tx) error {
				if tx.PutRows(ctx, user.Kind, []kind.Row{named("4", "sam@example.com")}) == nil {
					t.Error("the address is taken twice")
				}
				if tx.PutRows(ctx, contact.Kind, []kind.Row{newContact(9)}) == nil {
					t.Error("it went on after an error")
				}
				return nil
			},
		} {
			calls := 0
			err := s.Update(t.Context(), func(ctx context.Context, tx *Tx) error { calls++; return fn(ctx, tx) })
			if !IsPermanent(err) || fault.Is(err, fault.Unavailable) || calls != 1 {
				t.Errorf("%s, after %d calls: %v", what, calls, err)
			}
			if strings.Contains(err.Error(), "@") {
				t.Errorf("%s: the message tells the data: %v", what, err)
			}
		}
	})
}

func TestTroubleBesideTheDatabaseIsNotRetried(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		row := newContact(1)
		for _, trouble := range []error{errors.New("x"), fault.Unreachable("cerbos", syscall.ECONNREFUSED), syscall.ECONNRESET, context.Canceled} {
			calls := 0
			err := s.Update(t.Context(), func(ctx context.Context, tx *Tx) error {
				calls++
				return errors.Join(batch(ctx, tx, 0, 0, 1, row), trouble)
			})
			if !errors.Is(err, trouble) || calls != 1 {
				t.Errorf("after %d calls: %v", calls, err)
			}
		}
		func() {
			defer func() { _ = recover() }()
			_ = s.Update(t.Context(), func(ctx context.Context, tx *Tx) error {
				ok(t, batch(ctx, tx, 0, 0, 1, row))
				panic("a handler's defect")
			})
		}()
		cancelled, cancel := context.WithCancel(t.Context())
		err := s.Update(cancelled, func(ctx context.Context, tx *Tx) error {
			defer cancel()
			return batch(ctx, tx, 0, 0, 1, row)
		})
		if !errors.Is(err, context.Canceled) || errors.Is(err, ErrCommitUnknown) || fault.Is(err, fault.Unavailable) {
			t.Errorf("cancelled before the commit: %v", err)
		}
		applied(t, s, false, 0, 0, row)
		ok(t, s.Update(t.Context(), func(ctx context.Context, tx *Tx) error { return batch(ctx, tx, 0, 0, 1, row) }))
		applied(t, s, true, 0, 1, row)
	})
}

func TestALockedFileIsRetried(t *testing.T) {
	url := databases[SQLite](t)
	holder, s := migrated(t, url), opened(t, url)
	_, err := s.writer.ExecContext(t.Context(), "PRAGMA busy_timeout = 1")
	ok(t, err)
	var busy error
	ok(t, holder.Update(t.Context(), func(ctx context.Context, tx *Tx) error {
		ok(t, tx.PutRows(ctx, contact.Kind, []kind.Row{newContact(1)}))
		busy = s.transact(t.Context(), func(context.Context, *Tx) error { return errors.New("began") })
		_, err := s.Positions(t.Context()) // readers do not mind
		return err
	}))
	if !fault.Is(busy, fault.Unavailable) || !transient(busy) {
		t.Fatalf("a locked file: %v", busy)
	}
	tries := 0
	ok(t, retry(t.Context(), writeAttempts, func() error {
		if tries++; tries < 4 {
			return busy
		}
		return nil
	}))
	tries = 0
	if err := retry(t.Context(), 3, func() error { tries++; return busy }); err != busy || tries != 3 {
		t.Errorf("%d tries: %v", tries, err)
	}
}

func TestAFullDiskIsAnOutageAndLeavesNothingHalfApplied(t *testing.T) {
	s := migrated(t, databases[SQLite](t))
	limit := func(pages string) {
		_, err := s.writer.ExecContext(t.Context(), "PRAGMA max_page_count = "+pages)
		ok(t, err)
	}
	first := newContact(0)
	ok(t, s.Update(t.Context(), func(ctx context.Context, tx *Tx) error { return batch(ctx, tx, 0, 0, 1, first) }))
	limit("1") // SQLite makes it the present size
	var rows []kind.Row
	for i := range 300 {
		rows = append(rows, newContact(i, func(c *contact.Contact) { c.Notes = strings.Repeat("x", 1000) }))
	}
	for range 2 {
		err := s.Update(t.Context(), func(ctx context.Context, tx *Tx) error { return batch(ctx, tx, 0, 1, 2, rows...) })
		if !fault.Is(err, fault.Unavailable) || IsPermanent(err) || errors.Is(err, ErrCommitUnknown) {
			t.Fatalf("disk full: %v", err)
		}
		applied(t, s, true, 0, 1, first)
		applied(t, s, false, 0, 1, rows...)
	}
	limit("1000000")
	ok(t, s.Update(t.Context(), func(ctx context.Context, tx *Tx) error { return batch(ctx, tx, 0, 1, 2, rows...) }))
	applied(t, s, true, 0, 2, append(rows, first)...)
}

func TestDiagnosis(t *testing.T) {
	for code, want := range map[string]trouble{
		"40001": passing, "40P01": passing, "57P01": passing, "57P03": passing, "08006": passing,
		"53100": outage, "53300": outage, "57014": outage, "58030": outage, "25006": outage, "28P01": outage, "3D000": outage,
		"22021": permanent, "22001": permanent, "23505": permanent, "54000": permanent,
		"42601": defect, "42P01": defect, "": defect,
	} {
		if have := diagnose(&pgconn.PgError{Code: code}); have != want {
			t.Errorf("SQLSTATE %s: %d, want %d", code, have, want)
		}
	}
	for code, want := range map[int]trouble{5: passing, 6: passing, 5 | 2<<8: passing, 13: outage, 10 | 4<<8: outage, 14: outage, 19 | 8<<8: permanent, 18: permanent, 1: defect} {
		if have := diagnoseSQLite(code); have != want {
			t.Errorf("result code %d: %d, want %d", code, have, want)
		}
	}
	for err, want := range map[error]bool{
		&pgconn.PgError{Code: "40001", SeverityUnlocalized: "ERROR"}: true,
		&pgconn.PgError{Code: "57P01", SeverityUnlocalized: "FATAL"}: false,
		&pgconn.PgError{Code: "40003", SeverityUnlocalized: "ERROR"}: false,
		syscall.ECONNRESET: false,
	} {
		if have := refused(err); have != want {
			t.Errorf("%v: refused %t", err, have)
		}
	}
}
