package store

import "context"

// database is what the store asks of SQLite (database/sql) and PostgreSQL (pgx).
type database interface {
	// query runs a read outside a transaction.
	query(ctx context.Context, query string, args []any) (resultSet, error)
	// lookUp reads rows by their ids, all of them in one round trip.
	lookUp(ctx context.Context, all []lookup) error
	begin(ctx context.Context) (transaction, error)
	close()
}

// transaction is one of Update's. It has ended after commit or rollback.
type transaction interface {
	// run runs ops one after the other, on PostgreSQL in one round trip: what
	// one of them finds out is not known to those after it. None is run after one
	// that fails.
	run(ctx context.Context, ops []operation) error
	commit(ctx context.Context) error
	rollback(ctx context.Context)
}

// resultSet is the rows of a query.
type resultSet interface {
	Next() bool
	Scan(dest ...any) error
	Err() error
	Close()
}

// operation is one statement of a transaction.
type operation struct {
	query string
	args  []any
	// read is called with the rows of a SELECT; nil for one that writes.
	read func(resultSet) error
	// wrote is called with how many rows one that writes has written; may be nil.
	wrote func(n int64) error
}

// lookup is a statement over ids and what to do with the rows.
type lookup struct {
	table *table
	ids   []string
	read  func(resultSet) error
}

// each calls scan for every row and closes rows.
func each(rows resultSet, scan func() error) error {
	defer rows.Close() // Err tells what went wrong
	for rows.Next() {
		if err := scan(); err != nil {
			return err
		}
	}
	return rows.Err()
}
