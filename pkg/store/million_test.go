package store

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"modernc.org/sqlite"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/kind/expense"
	"github.com/writ-project/writ/pkg/kind/video"
	"github.com/writ-project/writ/pkg/testkit"
)

// bulk is how many contacts there are: a million in continuous integration or
// with WRIT_BIG=1, else a tenth of it. Of other kinds there is a tenth of that.
func bulk() int {
	if os.Getenv("CI") == "true" || os.Getenv("WRIT_BIG") == "1" {
		return 1_000_000
	}
	return 100_000
}

// TestAPageIsAllThatIsRead asks for pages of lists among very many rows, with
// the filters of query plans, and has the database tell what it read: a page's
// worth of an index, for whoever asks, wherever the page is.
func TestAPageIsAllThatIsRead(t *testing.T) {
	if testkit.Race { // SQLite is C turned into Go here: fifty times as slow
		testkit.WithoutRace(t)
		return
	}
	bySchema, byShape := engine(t, "../../policies"), shaped(t)
	onBoth(t, func(t *testing.T, s *Store) {
		start := time.Now()
		sizes := map[*kind.Definition]int{contact.Kind: bulk(), video.Kind: bulk() / 10, expense.Kind: bulk() / 10}
		for def, n := range sizes {
			grow(t, s, def, n)
		}
		t.Logf("%d contacts after %s", bulk(), time.Since(start).Round(time.Millisecond))
		m := newMeter(t, s)

		check := func(def *kind.Definition, what string, where Where, sorts []string, equals ...map[string]any) {
			t.Helper()
			for _, sort := range sorts {
				for _, by := range append(equals, nil) {
					for _, cursor := range []string{"", middle(sizes[def], sort)} {
						l, err := s.plan(def, Query{Tenant: "t", Where: where, Equals: by, Sort: sort, Cursor: cursor})
						ok(t, err)
						for _, problem := range m.problems(l) {
							t.Errorf("%s of %s by %q %v, page %q:\n%s\n%s\n%q", def.Plural, what, sort, by, cursor, problem, l.sql, l.args)
						}
					}
				}
			}
		}
		plan := func(def *kind.Definition, who, action string, attr map[string]any, roles ...string) Where {
			t.Helper()
			a := byShape
			if len(roles) > 0 { // the project's own policies
				a, attr = bySchema, with(attr, "tenant", "t")
			} else {
				roles = []string{"user"}
			}
			f := filter(t, a, s.Dialect(), def, events.Principal{ID: who, Roles: roles, Attr: attr}, action)
			return Where{SQL: f.SQL, Args: f.Args}
		}
		created, updated := []string{"", "-created_at"}, []string{"updated_at", "-updated_at"}
		every := append(created, updated...)
		active, inactive := map[string]any{"is_active": true}, map[string]any{"is_active": false}

		check(contact.Kind, "an admin", plan(contact.Kind, "ada", kind.ActionList, nil, "admin"), every, active)
		check(contact.Kind, "an admin", plan(contact.Kind, "ada", kind.ActionList, nil, "admin"), created, inactive)
		check(contact.Kind, "nobody in particular", Where{}, every, active, map[string]any{"owner_id": few}, map[string]any{"owner_id": none})
		for _, owner := range []string{few, none} {
			check(contact.Kind, "owner "+owner, plan(contact.Kind, owner, "owner", nil), every, active, inactive)
			check(contact.Kind, "who changes as "+owner, plan(contact.Kind, owner, kind.ActionUpdate, nil, "user"), every, active, inactive)
		}
		check(contact.Kind, "owner big", plan(contact.Kind, big, "owner", nil), every, active)
		for _, owner := range []string{few, big, none} {
			for _, region := range []string{"eu", "far", "nowhere"} {
				attr := map[string]any{"region": region, "department": "it"}
				what := owner + " in " + region
				check(video.Kind, what, plan(video.Kind, owner, "either", attr), created, active)
				check(video.Kind, what, plan(video.Kind, owner, kind.ActionUpdate, attr, "manager"), created, active)
				check(expense.Kind, what, plan(expense.Kind, owner, "any", attr), created)
				check(expense.Kind, what, plan(expense.Kind, owner, kind.ActionList, attr, "manager"), created)
				check(expense.Kind, what, plan(expense.Kind, owner, kind.ActionList, attr, "user", "manager"), created)
				check(expense.Kind, what, plan(expense.Kind, owner, "lists", map[string]any{"regions": []string{region, "us"}}), created)
			}
			check(expense.Kind, owner+" of nowhere", plan(expense.Kind, owner, "any", nil), every)
		}
		t.Logf("%d pages of %d: at most %d blocks read for one; %s", m.pages, DefaultLimit, m.maxBlocks, time.Since(start).Round(time.Millisecond))

		// And what is not bounded is noticed.
		for _, q := range []Query{
			{Sort: "first_name"},
			{Where: Where{SQL: "first_name = ?", Args: []any{"none"}}},
			{Where: Where{SQL: "owner_id = ? OR first_name = ?", Args: []any{none, "none"}}},
		} {
			q.Tenant = "t"
			l, err := s.plan(contact.Kind, q)
			ok(t, err)
			if len(m.problems(l)) == 0 {
				t.Errorf("%s: reads the whole tenant unseen", l.sql)
			}
		}
	})
}

func with(attr map[string]any, name string, value any) map[string]any {
	out := map[string]any{name: value}
	for k, v := range attr {
		out[k] = v
	}
	return out
}

// meter runs lists and judges what was read for them.
type meter struct {
	t    testing.TB
	s    *Store
	conn *sql.Conn

	pages, maxBlocks int
}

func newMeter(t testing.TB, s *Store) *meter {
	conn, err := s.readers.Conn(t.Context())
	ok(t, err)
	t.Cleanup(func() { ok(t, conn.Close()) })
	return &meter{t: t, s: s, conn: conn}
}

// What a page may cost. A row is found over an index's leaf and the three or
// four levels of the table; each arm of a list first goes down its index.
const (
	blocksPerRow = 6
	blocksPerArm = 12
	rowsPassed   = 20 // more rows looked at than asked for: those that an is_active passes over
)

func (m *meter) problems(l *list) []string {
	m.t.Helper()
	m.pages++
	arms := strings.Count(l.sql, " UNION ALL ") + 1
	rows := (l.limit+1)*arms + rowsPassed
	if m.s.Dialect() == Postgres {
		return m.postgres(l, rows, rows*blocksPerRow+arms*blocksPerArm)
	}
	return m.sqlite(l, rows*blocksPerRow+arms*blocksPerArm)
}

// step is a step of SQLite's plan that reads an index in its order; what joins
// the arms of a list reads nothing.
var step = regexp.MustCompile(`^(SEARCH \w+ USING INDEX \w+ \(tenant=\?.*\)|MERGE \(UNION ALL\)|LEFT|RIGHT)$`)

// sqlite looks at the plan, and at how many blocks of the file were asked for.
func (m *meter) sqlite(l *list, maxBlocks int) (problems []string) {
	m.t.Helper()
	rows, err := m.conn.QueryContext(m.t.Context(), "EXPLAIN QUERY PLAN "+l.sql, l.args...)
	ok(m.t, err)
	ok(m.t, each(sqlResult{rows}, func() error {
		var id, parent, unused int
		var text string
		err := rows.Scan(&id, &parent, &unused, &text)
		if !step.MatchString(text) {
			problems = append(problems, text)
		}
		return err
	}))
	m.blocks() // starts anew
	m.read(l)
	blocks := m.blocks()
	if blocks > maxBlocks {
		problems = append(problems, fmt.Sprintf("%d blocks read, at most %d expected", blocks, maxBlocks))
	} else {
		m.maxBlocks = max(m.maxBlocks, blocks)
	}
	return problems
}

// blocks is how many blocks SQLite has asked its cache for since the last time.
func (m *meter) blocks() (n int) {
	m.t.Helper()
	ok(m.t, m.conn.Raw(func(c any) error {
		for _, op := range []sqlite.DBStatusOp{sqlite.DBStatusCacheHit, sqlite.DBStatusCacheMiss} {
			have, _, err := c.(sqlite.DBStatus).Status(op, true)
			if err != nil {
				return err
			}
			n += have
		}
		return nil
	}))
	return n
}

// read reads the page as List does: no further than its end.
func (m *meter) read(l *list) {
	m.t.Helper()
	rows, err := m.conn.QueryContext(m.t.Context(), l.sql, l.args...)
	ok(m.t, err)
	_, err = l.read(sqlResult{rows})
	ok(m.t, err)
}

// node is a node of PostgreSQL's plan
// (https://www.postgresql.org/docs/current/sql-explain.html).
type node struct {
	Type    string  `json:"Node Type"`
	Index   string  `json:"Index Name"`
	Rows    float64 `json:"Actual Rows"`
	Loops   float64 `json:"Actual Loops"`
	Removed float64 `json:"Rows Removed by Filter"`
	Hit     int     `json:"Shared Hit Blocks"`
	Read    int     `json:"Shared Read Blocks"`
	Plans   []node  `json:"Plans"`
}

// postgres looks at what EXPLAIN says was done: the nodes, the rows that came
// out of indexes, kept or not, and the blocks.
func (m *meter) postgres(l *list, maxRows, maxBlocks int) (problems []string) {
	m.t.Helper()
	var text []byte
	ok(m.t, m.conn.QueryRowContext(m.t.Context(), "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "+m.s.rebind(l.sql), m.s.planned(l.args)...).Scan(&text))
	var out []struct{ Plan node }
	ok(m.t, json.Unmarshal(text, &out))
	rows := 0
	var walk func(n node)
	walk = func(n node) {
		switch n.Type {
		case "Index Scan", "Index Only Scan":
			rows += int((n.Rows + n.Removed) * n.Loops)
		case "Limit", "Append", "Merge Append", "Result", "Subquery Scan":
		default:
			problems = append(problems, n.Type)
		}
		for _, child := range n.Plans {
			walk(child)
		}
	}
	walk(out[0].Plan)
	blocks := out[0].Plan.Hit + out[0].Plan.Read
	if rows > maxRows || blocks > maxBlocks {
		problems = append(problems, fmt.Sprintf("%d rows and %d blocks read, at most %d and %d expected", rows, blocks, maxRows, maxBlocks))
	}
	if problems != nil {
		return append(problems, string(text))
	}
	m.maxBlocks = max(m.maxBlocks, blocks)
	return nil
}
