package store

import (
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// The limits on PostgreSQL. A statement or an idle transaction that outlives
// its limit is ended by the server, which also gives back the locks of a worker
// that has stalled (https://www.postgresql.org/docs/current/runtime-config-client.html).
const (
	postgresConns   = 20
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
	db := stdlib.OpenDB(*config)
	db.SetMaxOpenConns(postgresConns)
	db.SetMaxIdleConns(postgresConns)
	db.SetConnMaxLifetime(connLifetime)
	db.SetConnMaxIdleTime(connIdle)
	return &Store{
		dialect:   Postgres,
		writer:    db,
		readers:   db,
		unlimited: func() *sql.DB { return stdlib.OpenDB(*migrations) },
		lock:      lock,
	}, nil
}
