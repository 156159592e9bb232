// Package store keeps writ's state in SQL: the rows of every kind, what became
// of each command, and how far each shard of the ledger has been applied.
// SQLite (modernc.org/sqlite, WAL) is the embedded default, PostgreSQL serves
// production; both run the same queries and the same conformance suite.
//
// The api reads (Get, List, Command, Positions). The worker writes, and only
// through Update: one transaction that is run again as a whole when the
// database asks for it.
//
//	api ──Get, List, Command──▶ readers ─┐
//	                                     ├─▶ SQLite file  or  PostgreSQL
//	worker ──Update(func(tx))──▶ writer ─┘
//
// Everything about a kind comes from its kind.Definition: no code here knows a
// kind by name. Adding one is a table in migrations/ with the Definition's
// column names.
//
// # Errors
//
// An error of kind fault.Unavailable means that the database did not answer
// (connection lost, locked, full, timed out): the same call may succeed later.
// IsPermanent picks out what the data itself is to blame for: the same call
// never will. What is neither is a defect, or the caller's own context that was
// cancelled.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/writ-project/writ/pkg/fault"
)

// Dialect is which database it is.
type Dialect string

// The two databases.
const (
	SQLite   Dialect = "sqlite"
	Postgres Dialect = "postgres"
)

// Store is a database, safe for concurrent use.
type Store struct {
	dialect Dialect
	db      database
	finds   shared[*wanted]
	// The connections as database/sql knows them, for migrations and what is rare.
	// SQLite: writer is one connection; PostgreSQL: the same pool as readers.
	writer  *sql.DB
	readers *sql.DB
	// room holds one for each read that is under way, so that none waits for a
	// connection without its context; nil on PostgreSQL.
	room chan struct{}
	// unlimited opens a pool for migrations, without the statement timeout.
	unlimited func() *sql.DB
	// lock guards migrations against another process that migrates.
	lock migrationLock

	// Prepared statements; nil on PostgreSQL, whose driver keeps its own.
	prepared, preparedLists, preparedWrites *statements

	tables   sync.Map // *kind.Definition → *table
	rebounds rebounds
}

// Open opens the database that url names, as WRIT_DATABASE_URL gives it:
//
//	sqlite:PATH      a file, created (for its owner alone) if it is new
//	postgres://…     a libpq URL; its parameters win over the ones set here
//
// A PostgreSQL that does not answer is no error yet: see Ping. The schema is
// left alone: see Migrate.
func Open(ctx context.Context, url string) (*Store, error) {
	var s *Store
	var err error
	switch scheme, rest, _ := strings.Cut(url, ":"); {
	case scheme == "sqlite" && rest != "" && !strings.Contains(rest, ":memory:"):
		s, err = openSQLite(ctx, rest)
	case scheme == "postgres" || scheme == "postgresql":
		s, err = openPostgres(url)
	default:
		// The value is not repeated: it may hold a password.
		return nil, errors.New("WRIT_DATABASE_URL: neither sqlite:PATH nor postgres://USER@HOST/DATABASE")
	}
	if err != nil {
		return nil, fmt.Errorf("WRIT_DATABASE_URL: %w", err)
	}
	return s, nil
}

// Dialect tells which database it is.
func (s *Store) Dialect() Dialect { return s.dialect }

// Close waits for running queries and closes every connection. The Store is of
// no use afterwards.
func (s *Store) Close() error {
	err := s.readers.Close()
	if s.writer != s.readers {
		err = errors.Join(err, s.writer.Close())
	}
	s.db.close()
	return err
}

// Ping reads something from the database; fault.Unavailable if it cannot.
func (s *Store) Ping(ctx context.Context) error {
	table := "pg_catalog.pg_class"
	if s.dialect == SQLite {
		table = "sqlite_schema" // a bare SELECT 1 would not touch the file
	}
	rows, err := s.db.query(ctx, "SELECT count(*) FROM (SELECT 1 FROM "+table+" LIMIT 1) AS t", nil)
	if err == nil {
		err = each(rows, func() error { return nil })
	}
	if err != nil && ctx.Err() == nil {
		return fault.Unreachable(dependency, err)
	}
	return s.failed(ctx, err)
}
