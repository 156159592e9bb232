package store

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
)

// The limits on PostgreSQL. A statement or an idle transaction that outlives
// its limit is ended by the server, which also gives back the locks of a worker
// that has stalled (https://www.postgresql.org/docs/current/runtime-config-client.html).
const (
	rowConns        = 8
	listConns       = 12
	connectTimeout  = 5 * time.Second
	statementMillis = "10000"
	connLifetime    = time.Hour
	connIdle        = 5 * time.Minute
)

func openPostgres(url string) (*Store, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, errors.New("not a PostgreSQL URL" + parseReason(err))
	}
	return newPostgres(config)
}

// parseReason is what pgx says of a URL that it cannot parse, without the URL: pgx hides the password in its user part, and
// shows one in its query.
func parseReason(err error) string {
	text := err.Error() // cannot parse `URL`: what cannot (why, which may repeat a piece)
	_, reason, found := strings.Cut(text[strings.LastIndex(text, "`")+1:], ": ")
	if !found {
		return ""
	}
	reason, _, _ = strings.Cut(reason, " (")
	return ": " + reason
}

func newPostgres(config *pgx.ConnConfig) (*Store, error) {
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	for name, value := range map[string]string{
		"application_name":                    "writ",
		"jit":                                 "off", // for long queries; ours are short and it takes longer than they do
		"random_page_cost":                    "1.1", // the default, 4, is a spinning disk's: 256 ids would be a scan of the table
		"statement_timeout":                   statementMillis,
		"idle_in_transaction_session_timeout": statementMillis,
	} {
		if _, ok := config.RuntimeParams[name]; !ok {
			config.RuntimeParams[name] = value
		}
	}
	migrations := config.Copy()
	migrations.RuntimeParams["statement_timeout"] = "0" // an index on a large table takes its time
	lock, err := advisoryLock()
	if err != nil {
		return nil, err
	}
	lists, err := newPool(config, listConns)
	if err != nil {
		return nil, err
	}
	// Rows by their ids: found by the index, whatever the size of the table was
	// when the statement was planned, which is done once for a connection.
	byID := config.Copy()
	for name, value := range map[string]string{"enable_seqscan": "off", "plan_cache_mode": "force_generic_plan"} {
		if _, ok := byID.RuntimeParams[name]; !ok {
			byID.RuntimeParams[name] = value
		}
	}
	rows, err := newPool(byID, rowConns)
	if err != nil {
		lists.Close()
		return nil, err
	}
	db := stdlib.OpenDBFromPool(lists)
	s := &Store{
		dialect:   Postgres,
		db:        &postgres{rows: rows, lists: lists},
		writer:    db,
		readers:   db,
		unlimited: func() *sql.DB { return stdlib.OpenDB(*migrations) },
		lock:      lock,
	}
	s.finds.run = s.findAll
	return s, nil
}

func newPool(config *pgx.ConnConfig, conns int32) (*pgxpool.Pool, error) {
	c, err := pgxpool.ParseConfig(config.ConnString()) // it takes no other
	if err != nil {
		return nil, err
	}
	c.ConnConfig = config
	c.MaxConns, c.MinConns, c.MinIdleConns = conns, 0, 0
	c.MaxConnLifetime, c.MaxConnLifetimeJitter, c.MaxConnIdleTime = connLifetime, connLifetime/10, connIdle
	return pgxpool.NewWithConfig(context.Background(), c) // connects when it must
}

// postgres is PostgreSQL behind two pools: a list that takes long must not keep
// requests from a row that they need.
type postgres struct {
	rows  *pgxpool.Pool // rows by their ids, and transactions
	lists *pgxpool.Pool
}

func (p *postgres) query(ctx context.Context, query string, args []any) (resultSet, error) {
	rows, err := p.lists.Query(ctx, query, args...)
	if err != nil {
		p.lost(ctx, err)
	}
	return rows, err
}

func (p *postgres) lookUp(ctx context.Context, all []lookup) error {
	conn, err := p.rows.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if len(all) == 1 {
		rows, err := conn.Query(ctx, all[0].table.selectRows(0), all[0].ids)
		if err == nil {
			err = all[0].read(rows)
		}
		p.lost(ctx, err)
		return err
	}
	ops := make([]operation, len(all))
	for i, l := range all {
		ops[i] = operation{query: l.table.selectRows(0), args: []any{l.ids}, read: l.read}
	}
	err = send(ctx, conn.Conn(), false, ops)
	p.lost(ctx, err)
	return err
}

// lost lets the idle connections go after one has failed, unless its user gave
// it up: after a restart of the server all of them are dead.
func (p *postgres) lost(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil || diagnose(err) != passing {
		return
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); !ok || e.SeverityUnlocalized == "FATAL" {
		p.rows.Reset()
		p.lists.Reset()
	}
}

func (p *postgres) close() {
	p.rows.Close()
	p.lists.Close()
}

func (p *postgres) begin(ctx context.Context) (transaction, error) {
	conn, err := p.rows.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	return &postgresTx{db: p, conn: conn}, nil
}

// postgresTx is a transaction that begins with its first statement.
type postgresTx struct {
	db    *postgres
	conn  *pgxpool.Conn
	begun bool
}

func (t *postgresTx) run(ctx context.Context, ops []operation) error {
	if len(ops) == 0 {
		return nil
	}
	err := send(ctx, t.conn.Conn(), !t.begun, ops)
	t.begun = true
	t.db.lost(ctx, err)
	return err
}

func (t *postgresTx) commit(ctx context.Context) error {
	if !t.begun {
		return t.conn.Ping(ctx) // there is nothing to commit, but who asks wants to know
	}
	tag, err := t.conn.Exec(ctx, "commit")
	if err == nil && tag.String() != "COMMIT" {
		err = pgx.ErrTxCommitRollback
	}
	t.begun = t.begun && err != nil
	return err
}

func (t *postgresTx) rollback(ctx context.Context) {
	if t.begun && !t.conn.Conn().IsClosed() {
		_, _ = t.conn.Exec(ctx, "rollback") // where it fails, the pool closes the connection
	}
	t.conn.Release()
}

// send sends statements in one go, of a transaction that is to begin before them
// or not, and reads their results.
func send(ctx context.Context, conn *pgx.Conn, begin bool, ops []operation) (err error) {
	var b pgx.Batch
	if begin {
		b.Queue("begin")
	}
	for _, s := range ops {
		b.Queue(s.query, s.args...)
	}
	results := conn.SendBatch(ctx, &b)
	defer func() {
		if e := results.Close(); err == nil {
			err = e
		}
	}()
	if begin {
		if _, err := results.Exec(); err != nil {
			return err
		}
	}
	for _, s := range ops {
		if err := result(results, s); err != nil {
			return err
		}
	}
	return nil
}

func result(from pgx.BatchResults, s operation) error {
	if s.read != nil {
		rows, err := from.Query()
		if err != nil {
			return err
		}
		return s.read(rows)
	}
	tag, err := from.Exec()
	if err == nil && s.wrote != nil {
		err = s.wrote(tag.RowsAffected())
	}
	return err
}
