package store

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/kind/expense"
	"github.com/writ-project/writ/pkg/kind/video"
)

// The owners that grow makes in tenant t: few owns fifty rows, spread over all
// of time, big three in ten, none nothing; each of the others about fifty.
const few, big, none = "few", "big", "none"

// growth is what a table is filled with, besides what all have, in terms of the
// row's number i. One in a thousand rows is in region far.
var growth = map[*kind.Definition]struct{ columns, values string }{
	contact.Kind: {
		"first_name, last_name, email, phone, company, notes, marketing_opt_in, is_active",
		`'Ada ' || CAST(i % 1000 AS TEXT), 'Byron', 'ada@example.com', '', '', '', FALSE, i % 97 <> 0`,
	},
	video.Kind: {
		"title, description, is_active, region, status",
		`'Film ' || CAST(i % 1000 AS TEXT), '', i % 97 <> 0,
			CASE WHEN i % 1000 = 1 THEN 'far' WHEN i % 5 = 0 THEN NULL WHEN i % 2 = 0 THEN 'eu' ELSE 'us' END, 'PROCESSED'`,
	},
	expense.Kind: {
		"vendor, amount, department, region, status",
		`'Shop ' || CAST(i % 1000 AS TEXT), i % 1000, CASE WHEN i % 7 = 0 THEN 'it' WHEN i % 7 < 3 THEN 'sales' END,
			CASE WHEN i % 1000 = 1 THEN 'far' WHEN i % 5 = 0 THEN NULL WHEN i % 2 = 0 THEN 'eu' ELSE 'us' END, 'OPEN'`,
	},
}

// grow fills a kind's table with n rows, a tenth of them in nine other tenants.
// It is one statement, the same on both databases. The migration's indexes are
// dropped before and made again afterwards, which takes half the time.
func grow(t testing.TB, s *Store, def *kind.Definition, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	table := def.Plural
	db, before, after := s.writer, []string{"PRAGMA synchronous = OFF"}, []string{}
	list := "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL AND tbl_name = ? ORDER BY rowid"
	if s.Dialect() == Postgres {
		db = s.unlimited()
		defer func() { ok(t, db.Close()) }()
		before = []string{"ALTER TABLE " + table + " SET UNLOGGED", "SET maintenance_work_mem = '256MB'"}
		after = []string{"VACUUM ANALYZE " + table}
		list = `SELECT indexname, indexdef FROM pg_indexes WHERE tablename = $1 AND indexname NOT LIKE '%\_pkey'`
	}
	conn, err := db.Conn(ctx)
	ok(t, err)
	defer func() { ok(t, conn.Close()) }()
	rows, err := conn.QueryContext(ctx, list, table)
	ok(t, err)
	var indexes []string // in the order that they were made in: SQLite prefers the later of two that it thinks alike
	ok(t, each(sqlResult{rows}, func() error {
		var name, text string
		err := rows.Scan(&name, &text)
		before, indexes = append(before, "DROP INDEX "+name), append(indexes, text)
		return err
	}))
	fill := strings.NewReplacer("$N", strconv.Itoa(n), "$FEW", strconv.Itoa(n/50), "$OWNERS", strconv.Itoa(n/80)).Replace(`
		INSERT INTO ` + table + ` (id, tenant, owner_id, version, created_at, updated_at, ` + growth[def].columns + `)
		WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < $N)
		SELECT '01900000-0000-7000-8000-0000' || CAST(10000000 + i AS TEXT),
			CASE WHEN i % 10 = 9 THEN 't' || CAST(i / 10 % 9 AS TEXT) ELSE 't' END,
			CASE WHEN i % $FEW = 0 THEN 'few' WHEN i % 10 IN (1, 4, 7) THEN 'big' ELSE 'o' || CAST(i / 10 % $OWNERS AS TEXT) END,
			1, i / 3, i % 1000 * ($N / 1000) + i / 1000, ` + growth[def].values + ` FROM n`)
	for _, statement := range slices.Concat(before, []string{fill}, indexes, after) {
		if _, err := conn.ExecContext(ctx, statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

// middle is the cursor in the middle of a list so sorted of n rows.
func middle(n int, sort string) string {
	if sort == "" {
		sort = DefaultSort
	}
	at := map[string]int{"created_at": n / 6, "updated_at": n / 2}[strings.TrimPrefix(sort, "-")]
	return encodeCursor(cursor{Sort: sort, Value: at, ID: "01900000-0000-7000-8000-0000"})
}
