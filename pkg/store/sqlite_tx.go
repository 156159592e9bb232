package store

import (
	"context"
	"database/sql"
	"slices"
)

// sqliteDB is SQLite behind database/sql.
type sqliteDB struct {
	writer, readers *sql.DB
	reads, writes   *statements
}

// sqlResult is the rows of database/sql as the store reads them.
type sqlResult struct{ *sql.Rows }

// Close implements resultSet.
func (r sqlResult) Close() { _ = r.Rows.Close() } // Err tells what went wrong

func newSQLResult(rows *sql.Rows, err error) (resultSet, error) {
	if err != nil {
		return nil, err
	}
	return sqlResult{rows}, nil
}

func (d *sqliteDB) query(ctx context.Context, query string, args []any) (resultSet, error) {
	return newSQLResult(d.readers.QueryContext(ctx, query, args...))
}

// lookUp asks for the rows of each table. It pays no attention to ctx: for one
// that can end, database/sql and the driver start a goroutine each, to interrupt
// the query, and together they cost more than it does.
func (d *sqliteDB) lookUp(ctx context.Context, all []lookup) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	for _, l := range all {
		for ids := range slices.Chunk(l.ids, maxRows) {
			args := padded(ids)
			query := l.table.selectRows(len(args))
			stmt, err := d.reads.prepare(ctx, query)
			if err != nil {
				return err
			}
			var rows resultSet
			if stmt != nil {
				rows, err = newSQLResult(stmt.QueryContext(ctx, args...))
			} else {
				rows, err = d.query(ctx, query, args)
			}
			if err != nil {
				return err
			}
			if err := l.read(rows); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *sqliteDB) close() {} // its connections are the Store's

func (d *sqliteDB) begin(ctx context.Context) (transaction, error) {
	if err := d.writes.prepareWanted(ctx); err != nil {
		return nil, err
	}
	// database/sql ends the transaction with its context, which is the caller's
	// until the end itself is under way.
	held, cancel := context.WithCancel(context.WithoutCancel(ctx))
	release := context.AfterFunc(ctx, cancel)
	tx, err := d.writer.BeginTx(held, nil)
	if err != nil {
		release()
		cancel()
		return nil, err
	}
	return &sqliteTx{db: d, tx: tx, release: release, cancel: cancel}, nil
}

type sqliteTx struct {
	db      *sqliteDB
	tx      *sql.Tx
	release func() bool
	cancel  context.CancelFunc
}

func (t *sqliteTx) run(ctx context.Context, ops []operation) error {
	for _, s := range ops {
		if err := t.one(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (t *sqliteTx) one(ctx context.Context, s operation) error {
	stmt := t.statement(ctx, s.query)
	if s.read != nil {
		var rows *sql.Rows
		var err error
		if stmt != nil {
			rows, err = stmt.QueryContext(ctx, s.args...)
		} else {
			rows, err = t.tx.QueryContext(ctx, s.query, s.args...)
		}
		if err != nil {
			return err
		}
		return s.read(sqlResult{rows})
	}
	var result sql.Result
	var err error
	if stmt != nil {
		result, err = stmt.ExecContext(ctx, s.args...)
	} else {
		result, err = t.tx.ExecContext(ctx, s.query, s.args...)
	}
	if err != nil || s.wrote == nil {
		return err
	}
	n, err := result.RowsAffected()
	if err != nil {
		return err
	}
	return s.wrote(n)
}

// statement finds a prepared statement; the next transaction will have the ones
// that are missing.
func (t *sqliteTx) statement(ctx context.Context, query string) *sql.Stmt {
	stmt := t.db.writes.find(query)
	if stmt == nil {
		t.db.writes.want(query)
		return nil
	}
	return t.tx.StmtContext(ctx, stmt)
}

func (t *sqliteTx) commit(context.Context) error {
	if !t.release() {
		return sql.ErrTxDone // it ended with its context, and was rolled back
	}
	return t.tx.Commit()
}

func (t *sqliteTx) rollback(context.Context) {
	t.release()
	_ = t.tx.Rollback() // after a commit it does nothing; else the connection is given up
	t.cancel()
}
