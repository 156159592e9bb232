package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/writ-project/writ/pkg/fault"
)

// endTimeout is how long a commit or a rollback may take.
const endTimeout = 10 * time.Second

// Update runs fn in one transaction and commits it when fn returns nil; with
// any error of fn, or of a Tx method that fn overlooked, nothing of it remains.
//
// It is run again as a whole, up to ten times within about four seconds, when the
// database is busy, found a conflict or deadlock, or went away before the
// commit. So fn must do nothing but use tx, and start afresh each time.
//
// Errors: fault.Unavailable where the database does not answer; that and
// ErrCommitUnknown, never repeated here, where it went away during the commit;
// ErrPositionMoved from Tx.Move; else what fn returned.
func (s *Store) Update(ctx context.Context, fn func(ctx context.Context, tx *Tx) error) error {
	return retry(ctx, writeAttempts, func() error { return s.transact(ctx, fn) })
}

func (s *Store) transact(ctx context.Context, fn func(context.Context, *Tx) error) error {
	begun, err := s.db.begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", s.failed(ctx, err))
	}
	// The end is not the caller's any more: an interrupted commit would have an unknown result.
	ending := func(end func(context.Context)) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		end(ctx)
	}
	defer ending(begun.rollback) // after a commit it does nothing; else the connection is given up
	tx := &Tx{store: s, tx: begun}
	err = fn(ctx, tx)
	if tx.err != nil && !errors.Is(err, tx.err) {
		err = errors.Join(tx.err, err) // fn overlooked it
	}
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("commit: %w", s.failed(ctx, err))
	}
	ending(func(ctx context.Context) { err = s.committed(begun.commit(ctx)) })
	if errors.Is(err, sql.ErrTxDone) { // ctx ended first
		return s.failed(ctx, err)
	}
	return err
}

// committed classifies the result of a commit.
func (s *Store) committed(err error) error {
	switch {
	case err == nil:
		return nil
	case refused(err):
		return fmt.Errorf("commit: %w", s.failed(context.Background(), err))
	}
	return fault.Unreachable(dependency, fmt.Errorf("%w: %w", ErrCommitUnknown, err))
}

// refused reports whether a failed commit has certainly left nothing behind.
func refused(err error) bool {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		// A sync that failed may have reached the disk all the same.
		return e.Code()&0xff != sqlite3.SQLITE_IOERR
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		// FATAL ends the session, perhaps after the commit; 40003 says it does not know.
		return e.SeverityUnlocalized != "FATAL" && e.SeverityUnlocalized != "PANIC" && e.Code != "40003"
	}
	// Not pgconn.SafeToRetry: pgx 5.12 answers "conn closed", safe to retry, also
	// where the connection was lost after COMMIT had been sent.
	return errors.Is(err, sql.ErrTxDone) || errors.Is(err, pgx.ErrTxCommitRollback)
}
