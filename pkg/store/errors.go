package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/writ-project/writ/pkg/fault"
)

// dependency is the database's name in /readyz and in problems.
const dependency = "database"

var (
	// ErrPositionMoved says that another worker has moved a shard's
	// position: everything in this transaction has been, or will be, done there.
	ErrPositionMoved = errors.New("the position has moved")
	// ErrCommandKnown says that a command to be added is there already.
	ErrCommandKnown = errors.New("the command is known")
	// ErrCommitUnknown says that the database went away while it was
	// committing: whether it did can only be read from the positions.
	ErrCommitUnknown = errors.New("the commit's result is unknown")

	errText = errors.New("text with a NUL character or invalid UTF-8")
)

// trouble is what an error of a database means to its caller.
type trouble uint8

const (
	defect    trouble = iota // neither of the below: a wrong statement, a wrong schema
	permanent                // the data is to blame
	outage                   // the database is to blame
	passing                  // an outage that is worth another try at once
)

// IsPermanent reports whether the data is to blame for err: a constraint, a
// value that is too long or that SQL cannot hold. Trying again will not help.
func IsPermanent(err error) bool { return diagnose(err) == permanent }

// transient reports whether the database, and not what fn does beside it, had
// trouble that passes.
func transient(err error) bool {
	e, ok := errors.AsType[*fault.Error](err)
	return ok && e.Code == dependency+"-unavailable" && diagnose(e.Err) == passing
}

func diagnose(err error) trouble {
	if err == nil {
		return defect
	}
	if errors.Is(err, errText) {
		return permanent
	}
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return diagnoseSQLite(e.Code())
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return diagnosePostgres(e.Code)
	}
	if pgconn.SafeToRetry(err) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, pgconn.ErrConnClosed) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return passing
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return passing
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return passing
	}
	if _, ok := errors.AsType[syscall.Errno](err); ok {
		return passing
	}
	return defect
}

// diagnoseSQLite knows the primary result codes (https://sqlite.org/rescode.html).
func diagnoseSQLite(code int) trouble {
	switch code & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL:
		return passing
	case sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM,
		sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return outage
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH:
		return permanent
	}
	return defect
}

// diagnosePostgres knows SQLSTATE classes, the first two characters
// (https://www.postgresql.org/docs/current/errcodes-appendix.html).
func diagnosePostgres(code string) trouble {
	switch code {
	case "40001", "40P01", "55P03", // serialization failure, deadlock, lock not available
		"25P03",                   // idle in transaction for too long
		"57P01", "57P02", "57P03": // shutting down, crashed, starting up
		return passing
	case "25006": // read-only: a standby, or a primary that has become one
		return outage
	}
	switch code[:min(2, len(code))] {
	case "08": // connection
		return passing
	case "28", "3D", "53", "57", "58": // may not come in, no such database, no resources, cancelled, system error
		return outage
	case "22", "23", "54": // data, constraints, limits
		return permanent
	}
	return defect
}

// failed classifies err, the result of a query under ctx. A context that its
// owner cancelled is left as it is; one that ran out of time is the database's
// fault.
func (s *Store) failed(ctx context.Context, err error) error {
	if err == nil || fault.Is(err, fault.Unavailable) {
		return err
	}
	if cause := ctx.Err(); cause != nil {
		if !errors.Is(err, cause) {
			err = errors.Join(cause, err)
		}
		if errors.Is(cause, context.DeadlineExceeded) {
			return fault.Unreachable(dependency, err)
		}
		return err
	}
	if d := diagnose(err); d == outage || d == passing {
		return fault.Unreachable(dependency, err)
	}
	return err
}

// How often something is tried, at most. Between the tries lie 20 ms, then
// twice as much each time up to a second, each with a jitter of a half: writes
// go on for about 4 s, which is enough for a PostgreSQL that restarts.
const (
	writeAttempts = 10
	readAttempts  = 3
	firstPause    = 20 * time.Millisecond
	longestPause  = time.Second
	longestRetry  = 15 * time.Second
)

// retry runs try again while its error is one that passes.
func retry(ctx context.Context, attempts int, try func() error) error {
	start := time.Now()
	pause := firstPause
	for n := 1; ; n++ {
		err := try()
		if err == nil || n == attempts || !transient(err) || errors.Is(err, ErrCommitUnknown) ||
			ctx.Err() != nil || time.Since(start) > longestRetry {
			return err
		}
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
		pause = min(2*pause, longestPause)
	}
}
