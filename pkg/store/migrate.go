package store

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrations embed.FS

const versionTable = "goose_db_version"

// migrationLock makes a goose provider wait for whoever else migrates.
type migrationLock interface{ option() goose.ProviderOption }

// Migrate brings the schema up to date. Several processes may call it at the
// same moment: one migrates, the others wait and find the work done. Each
// migration is one transaction, so a failed one leaves nothing behind.
func (s *Store) Migrate(ctx context.Context) error {
	db := s.writer
	if s.unlimited != nil {
		db = s.unlimited()
		defer func() { _ = db.Close() }() // nothing is pending on it
	}
	p, err := s.provider(db)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", s.failed(ctx, err))
	}
	return nil
}

// Version is the schema version of the database: 0 before the first migration.
func (s *Store) Version(ctx context.Context) (int64, error) {
	exists := "SELECT to_regclass('" + versionTable + "') IS NOT NULL"
	if s.dialect == SQLite {
		exists = "SELECT count(*) > 0 FROM sqlite_schema WHERE name = '" + versionTable + "'"
	}
	var found bool
	if err := s.readers.QueryRowContext(ctx, exists).Scan(&found); err != nil {
		return 0, fmt.Errorf("read the schema version: %w", s.failed(ctx, err))
	}
	if !found {
		return 0, nil
	}
	var version int64
	if err := s.readers.QueryRowContext(ctx, "SELECT max(version_id) FROM "+versionTable).Scan(&version); err != nil {
		return 0, fmt.Errorf("read the schema version: %w", s.failed(ctx, err))
	}
	return version, nil
}

// Pending reports whether this program has migrations that the database has
// not. It reads only, unlike goose's own HasPending.
func (s *Store) Pending(ctx context.Context) (bool, error) {
	p, err := s.provider(s.readers)
	if err != nil {
		return false, err
	}
	version, err := s.Version(ctx)
	if err != nil {
		return false, err
	}
	sources := p.ListSources()
	return version < sources[len(sources)-1].Version, nil
}

func (s *Store) provider(db *sql.DB) (*goose.Provider, error) {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	dialect := goose.DialectSQLite3
	if s.dialect == Postgres {
		dialect = goose.DialectPostgres
		sub = bytewise{sub}
	}
	return goose.NewProvider(dialect, db, sub, goose.WithDisableGlobalRegistry(true), s.lock.option())
}

// bytewise gives every TEXT column the collation "C". PostgreSQL would compare
// by the database's locale: another order than SQLite's and than the one keyset
// pages rely on. In one place, so that no table of a new kind can forget it.
type bytewise struct{ fs.FS }

var textColumn = regexp.MustCompile(`(?m)^(\s+\w+\s+TEXT)\b`)

// jsonEach is the function of that name, which both databases have; PostgreSQL's
// does not take JSON that is text.
var jsonEach = regexp.MustCompile(`json_each\(([\w.]+)\)`)

// Open implements fs.FS.
func (b bytewise) Open(name string) (fs.File, error) {
	f, err := b.FS.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil || info.IsDir() {
		return f, err
	}
	text, err := fs.ReadFile(b.FS, name)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	text = textColumn.ReplaceAll(text, []byte(`${1} COLLATE "C"`))
	return &rendered{File: f, Reader: bytes.NewReader(jsonEach.ReplaceAll(text, []byte("json_each(CAST($1 AS json))")))}, nil
}

type rendered struct {
	fs.File
	*bytes.Reader
}

// Read implements fs.File.
func (r *rendered) Read(p []byte) (int, error) { return r.Reader.Read(p) }

// sessionLock is PostgreSQL's: an advisory lock, given back when the session
// ends, however it ends.
type sessionLock struct{ lock.SessionLocker }

func (l sessionLock) option() goose.ProviderOption { return goose.WithSessionLocker(l.SessionLocker) }

func advisoryLock() (migrationLock, error) {
	const everySecond, fiveMinutes = 1, 300
	l, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(everySecond, fiveMinutes))
	return sessionLock{l}, err
}

// fileLock is SQLite's: an exclusive transaction on an empty database beside
// the real one, because a migration takes and gives back the lock of the real
// one with each step. The operating system gives it back when the process ends.
type fileLock struct {
	open func() *sql.DB
	db   *sql.DB
	tx   *sql.Tx
}

func (l *fileLock) option() goose.ProviderOption { return goose.WithLocker(&fileLock{open: l.open}) }

// Lock implements lock.Locker.
func (l *fileLock) Lock(ctx context.Context, _ *sql.DB) error {
	l.db = l.open()
	for {
		tx, err := l.db.BeginTx(context.WithoutCancel(ctx), nil)
		if err == nil {
			l.tx = tx
			return nil
		}
		// Each attempt waits for the busy timeout.
		if diagnose(err) != passing || ctx.Err() != nil {
			return errors.Join(fmt.Errorf("lock the schema: %w", err), ctx.Err(), l.db.Close())
		}
	}
}

// Unlock implements lock.Locker.
func (l *fileLock) Unlock(context.Context, *sql.DB) error {
	return errors.Join(l.tx.Rollback(), l.db.Close())
}
