package server

import (
	"database/sql"
	"fmt"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // the test asks PostgreSQL itself

	"github.com/writ-project/writ/pkg/testkit"
)

// A request costs one ledger append and two row reads, the resource and the
// principal, and not more; PostgreSQL counts the reads itself.
func TestRequestCost(t *testing.T) {
	t.Parallel()
	url := testkit.Postgres(t)
	r := newRig(t, func(r *rig) { r.open(url) })
	sam, token := r.person("sam", "user")
	_, rim := r.person("rim", "user")
	mine := r.contact(sam)
	db := need(sql.Open("pgx", url))(t)
	defer db.Close()
	db.SetMaxOpenConns(1)

	const n = 50
	for _, c := range []struct {
		name, method, path, token, body string
		status                          int
		contacts                        int // rows read, beside one of users
	}{
		{"create", "POST", "/v1/contacts", token, `{"first_name":"a"}`, 202, 0},
		{"update", "PATCH", "/v1/contacts/" + mine, token, `{"notes":"a"}`, 202, 1},
		{"denied update", "PATCH", "/v1/contacts/" + mine, rim, `{"notes":"a"}`, 403, 1},
		{"read", "GET", "/v1/contacts/" + mine, token, "", 200, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			users, contacts, commands := r.reads(t, db, "users"), r.reads(t, db, "contacts"), r.reads(t, db, "commands")
			before := need(r.ledger.Last(t.Context()))(t)
			r.open(url)
			api := r.api()
			for range n {
				if a := r.do(c.method, api+c.path, c.token, c.body); a.status != c.status {
					t.Fatalf("%d %s", a.status, a.body)
				}
			}
			if got := r.reads(t, db, "users") - users; got != n {
				t.Errorf("%d reads of users for %d requests", got, n)
			}
			if got := r.reads(t, db, "contacts") - contacts; got != n*c.contacts {
				t.Errorf("%d reads of contacts for %d requests", got, n)
			}
			if got := r.reads(t, db, "commands") - commands; got != 0 {
				t.Errorf("%d reads of commands for %d requests", got, n)
			}
			if after := need(r.ledger.Last(t.Context()))(t); after != before+n {
				t.Errorf("%d appends for %d requests", after-before, n)
			}
		})
	}
}

// reads counts the scans of a table, by index or not. PostgreSQL's sessions
// report what they did at the latest when they end, so the store is closed first.
func (r *rig) reads(t *testing.T, db *sql.DB, table string) int {
	t.Helper()
	_ = r.store.Close() // again: harmless
	testkit.Eventually(t, soon, func() error {
		var others int
		err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()").Scan(&others)
		if err == nil && others > 0 {
			err = fmt.Errorf("%d sessions", others)
		}
		return err
	})
	var n int
	must(t, db.QueryRowContext(t.Context(), "SELECT coalesce(idx_scan, 0) + seq_scan FROM pg_stat_user_tables WHERE relname = $1", table).Scan(&n))
	return n
}
