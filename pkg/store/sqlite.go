package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"modernc.org/sqlite"
)

// readConns is how many SQLite queries may run side by side. Each connection
// has a page cache of its own (2 MiB) and compiled statements of its own.
const readConns = 8

// foldFunction is the name under which SQLite knows [fold].
const foldFunction = "writ_fold"

// sqliteDriver is a private driver, so that the function reaches our
// connections and no others in the process.
var sqliteDriver = sync.OnceValues(func() (*sqlite.Driver, error) {
	d := &sqlite.Driver{}
	err := d.RegisterDeterministicScalarFunction(foldFunction, 1,
		func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
			if text, ok := args[0].(string); ok {
				return fold(text), nil
			}
			return args[0], nil
		})
	return d, err
})

// fold makes texts equal that Unicode's full case folding and compatibility composition (NFKC) make equal, and those with
// the Turkish dotless i; PostgreSQL does the same in SQL ([folded]).
func fold(text string) string {
	return strings.ReplaceAll(cases.Fold().String(norm.NFKC.String(text)), "ı", "i")
}

// connector opens connections of one driver to one DSN.
type connector struct {
	driver driver.Driver
	dsn    string
}

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return c.driver.Open(c.dsn)
}

func (c connector) Driver() driver.Driver { return c.driver }

// openSQLite opens the one connection that writes and the pool that reads. In
// WAL mode readers never wait for the writer, nor it for them.
//
// synchronous=FULL syncs the log at every commit: an acknowledged commit
// survives a power failure (https://sqlite.org/pragma.html#pragma_synchronous).
func openSQLite(ctx context.Context, path string) (*Store, error) {
	d, err := sqliteDriver()
	if err != nil {
		return nil, err
	}
	// SQLite would create it for everybody to read; -wal and -shm take over its mode.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	common := url.Values{
		"_busy_timeout": {"5000"},
		"_foreign_keys": {"1"},
		"_dqs":          {"0"}, // "x" is a column, never a string
		"_error_rc":     {"1"},
	}
	open := func(file string, extra url.Values) *sql.DB {
		values := url.Values{}
		for _, from := range []url.Values{common, extra} {
			for k, v := range from {
				values[k] = v
			}
		}
		name := (&url.URL{Path: filepath.ToSlash(file)}).EscapedPath()
		return sql.OpenDB(connector{d, "file:" + name + "?" + values.Encode()})
	}
	writes := url.Values{
		"_journal_mode": {"WAL"}, "_synchronous": {"FULL"}, "_txlock": {"immediate"},
		// A page cache of 32 MiB, and the log copied back every 16 MiB: fewer, larger writes than SQLite's 2 and 4.
		"_pragma": {"cache_size(-32768)", "wal_autocheckpoint(4096)"},
	}
	s := &Store{
		dialect: SQLite,
		writer:  open(path, writes),
		readers: open(path, url.Values{"_query_only": {"1"}}),
		room:    make(chan struct{}, readConns),
		lock:    &fileLock{open: func() *sql.DB { return open(path+"-migrate", url.Values{"_txlock": {"exclusive"}}) }},
	}
	s.writer.SetMaxOpenConns(1)
	s.readers.SetMaxOpenConns(readConns)
	s.readers.SetMaxIdleConns(readConns)
	s.prepared = newStatements(s.readers, 64)
	s.preparedLists = newStatements(s.readers, 256)
	s.preparedWrites = newStatements(s.writer, 256)
	s.finds.run = s.findAll
	s.db = &sqliteDB{writer: s.writer, readers: s.readers, reads: s.prepared, writes: s.preparedWrites}
	// Sets WAL mode, which is kept in the file, before the first reader comes.
	if err := retry(ctx, readAttempts, func() error { return s.failed(ctx, s.writer.PingContext(ctx)) }); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, joinClose(err, s))
	}
	return s, nil
}

// joinClose closes what cannot be used and keeps the reason first.
func joinClose(err error, s *Store) error {
	_ = s.Close() // the reason why it is closed says more
	return err
}
