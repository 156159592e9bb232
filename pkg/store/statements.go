package store

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
)

// statements are prepared statements by their text. SQLite compiles a statement
// each time it is not found here, which takes longer than running it.
// What does not fit is compiled each time.
type statements struct {
	db    *sql.DB
	limit int

	mu     sync.RWMutex
	byText map[string]*sql.Stmt
	wanted []string
}

func newStatements(db *sql.DB, limit int) *statements {
	return &statements{db: db, limit: limit, byText: map[string]*sql.Stmt{}}
}

func (c *statements) find(query string) *sql.Stmt {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.byText[query]
}

// prepare adds a statement; nil without an error when there is no more room.
func (c *statements) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	if stmt := c.find(query); stmt != nil || c.full() {
		return stmt, nil
	}
	stmt, err := c.db.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if first := c.byText[query]; first != nil || len(c.byText) >= c.limit {
		return first, stmt.Close() // somebody was faster
	}
	c.byText[query] = stmt
	return stmt, nil
}

func (c *statements) full() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.byText) >= c.limit
}

// want remembers a statement to be prepared later: inside a transaction the one
// connection that could do it is taken.
func (c *statements) want(query string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.byText)+len(c.wanted) < c.limit {
		c.wanted = append(c.wanted, query)
	}
}

// prepareWanted prepares what was wanted.
func (c *statements) prepareWanted(ctx context.Context) error {
	c.mu.Lock()
	wanted := c.wanted
	c.wanted = nil
	c.mu.Unlock()
	for _, query := range wanted {
		if _, err := c.prepare(ctx, query); err != nil {
			return err
		}
	}
	return nil
}

// query runs a read outside a transaction, on SQLite prepared if there is room in c.
func (s *Store) query(ctx context.Context, c *statements, query string, args ...any) (resultSet, error) {
	if c == nil {
		return s.db.query(ctx, s.rebind(query), args)
	}
	stmt, err := c.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	if stmt == nil {
		return s.db.query(ctx, query, args)
	}
	return newSQLResult(stmt.QueryContext(ctx, args...))
}

// planned makes PostgreSQL plan the query for these very arguments each time
// (https://pkg.go.dev/github.com/jackc/pgx/v5#QueryExecMode). A plan kept from
// when the table was small reads all of it, until the next ANALYZE: 90 ms
// instead of 1 for 256 ids among 12,000; and tenants differ in size.
func (s *Store) planned(args []any) []any {
	if s.dialect != Postgres {
		return args
	}
	return append([]any{pgx.QueryExecModeCacheDescribe}, args...)
}

// rebounds keeps PostgreSQL's form of each query.
type rebounds struct {
	mu     sync.RWMutex
	byText map[string]string
}

const maxRebounds = 1024

// rebind gives the query in the dialect's form: PostgreSQL numbers its
// placeholders.
func (s *Store) rebind(query string) string {
	if s.dialect == SQLite {
		return query
	}
	s.rebounds.mu.RLock()
	out, ok := s.rebounds.byText[query]
	s.rebounds.mu.RUnlock()
	if ok {
		return out
	}
	out = numbered(query)
	s.rebounds.mu.Lock()
	defer s.rebounds.mu.Unlock()
	if s.rebounds.byText == nil || len(s.rebounds.byText) >= maxRebounds {
		s.rebounds.byText = map[string]string{} // list filters may be of any shape: start afresh
	}
	s.rebounds.byText[query] = out
	return out
}

// numbered turns each ? outside quotes into $1, $2, …
func numbered(query string) string {
	var b strings.Builder
	b.Grow(len(query) + 64)
	n := 0
	var quote byte
	for i := range len(query) {
		c := query[i]
		switch {
		case quote != 0:
			if c == quote {
				quote = 0 // a doubled quote opens again at once
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '?':
			n++
			b.WriteByte('$')
			b.WriteString(strconv.Itoa(n))
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}
