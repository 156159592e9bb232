package authz

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/testkit"
)

// doc is a kind with a column of every type, each also as one that may be NULL.
type doc struct {
	kind.Meta
	Title  string     `json:"title"`
	Region *string    `json:"region"`
	Nick   *string    `json:"nick"`
	Count  int64      `json:"count"`
	Score  *int64     `json:"score"`
	Ratio  *float64   `json:"ratio"`
	Open   bool       `json:"open"`
	Flag   *bool      `json:"flag"`
	DueAt  *time.Time `json:"due_at"`
	Tags   []string   `json:"tags"`
}

var docKind = kind.Define[doc]("doc", kind.Attr("title", "region", "nick", "count", "score", "ratio", "open", "flag", "due_at", "created_at", "tags"))

// size of one run: about 1,100 cases, each on every row.
const (
	diffActions    = 240
	diffPrincipals = 5
	diffRows       = 20
)

// diffSeed is new on every run and can be set, to repeat one that failed.
func diffSeed(t *testing.T) uint64 {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("WRIT_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("WRIT_TEST_SEED: %v", err)
		}
	}
	t.Logf("WRIT_TEST_SEED=%d", seed)
	return seed
}

func TestPlanSelectsWhatCheckAllows(t *testing.T) {
	seed := diffSeed(t)
	t.Run("sqlite", func(t *testing.T) {
		d := newDifferential(t, seed, SQLite, openSQLite(t))
		d.run(t, nil)
		d.judge(t)
	})
	t.Run("postgres", func(t *testing.T) {
		db, err := sql.Open("pgx", testkit.Postgres(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		d := newDifferential(t, seed, Postgres, db)
		d.run(t, nil)
		d.judge(t)
	})
}

func TestWrongMappingsAreNoticed(t *testing.T) {
	// Always the same cases: it is the comparison that is tested.
	d := newDifferential(t, 1, SQLite, openSQLite(t))
	for name, mutate := range wrongMappings {
		if d.run(t, mutate); len(d.wider) == 0 {
			t.Errorf("%s: not noticed in %d cases", name, len(d.cases))
		}
	}
}

// wrongMappings test the test: SQL that is wrong in one place must be noticed.
var wrongMappings = map[string]func(string) string{
	"or for and":             replace(") AND (", ") OR ("),
	"no not":                 replace("(NOT ", "("),
	"le for lt":              replace(" < ", " <= "),
	"eq for ne":              replace(" <> ", " = "),
	"NULL taken for false":   replace("(NOT ", "(TRUE IS NOT "),
	"present for absent":     replace("IS NOT NULL", "IS NULL"),
	"everything contained":   replace(") > 0", ") >= 0"),
	"comparing without case": replace(` = ?`, ` = ? COLLATE NOCASE`),
	"patterns": func(s string) string {
		return replace(" AS BLOB", " AS TEXT")(replace("= CAST(? AS BLOB)", "LIKE ?")(s))
	},
	"an error that is true": replace(unknown, "TRUE"),
}

func replace(old, new string) func(string) string {
	return func(s string) string { return strings.ReplaceAll(s, old, new) }
}

func writeFiles(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func openSQLite(t *testing.T) *sql.DB {
	db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "rows.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// differential holds generated policies, principals and rows, and what became of them.
type differential struct {
	engine     Authorizer
	db         *sql.DB
	dialect    string
	actions    []genAction
	principals []events.Principal
	rows       []kind.Row

	cases           []diffCase
	refused         map[string]int // by reason
	wider, narrower []string
}

// diffCase is one action of one principal, decided row by row and as a filter.
type diffCase struct {
	action    genAction
	principal events.Principal
	filter    Filter
	answers   []Answer
}

func newDifferential(t *testing.T, seed uint64, dialect string, db *sql.DB) *differential {
	t.Helper()
	g := generator{Rand: rand.New(rand.NewPCG(seed, 1)), zero: dialect == SQLite}
	d := &differential{db: db, dialect: dialect}
	for i := range diffActions {
		d.actions = append(d.actions, g.action(fmt.Sprintf("act%d", i)))
	}
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"doc.yaml": policyOf(d.actions), "roles.yaml": genRoles})
	var err error
	if d.engine, err = Open(t.Context(), "embed:"+dir); err != nil {
		t.Fatalf("generated policy: %v", err)
	}
	t.Cleanup(func() { _ = d.engine.Close() })
	for i := range diffPrincipals {
		d.principals = append(d.principals, g.principal(i))
	}
	types := map[string]string{"count": "BIGINT", "score": "BIGINT", "ratio": "DOUBLE PRECISION", "open": "BOOLEAN", "flag": "BOOLEAN",
		"due_at": "BIGINT", "created_at": "BIGINT", "updated_at": "BIGINT", "version": "BIGINT"}
	var columns, marks []string
	for i, c := range docKind.Columns {
		typ := types[c.Name]
		if typ == "" {
			typ = "TEXT"
		}
		columns = append(columns, quote(c.Name)+" "+typ)
		marks = append(marks, fmt.Sprintf("$%d", i+1))
	}
	d.exec(t, "CREATE TABLE docs ("+strings.Join(columns, ", ")+")")
	for i := range diffRows {
		row := g.row(fmt.Sprintf("doc-%d", i))
		d.rows = append(d.rows, row)
		d.exec(t, "INSERT INTO docs VALUES ("+strings.Join(marks, ", ")+")", docKind.Values(row)...)
	}
	d.decide(t)
	return d
}

func (d *differential) exec(t *testing.T, query string, args ...any) {
	t.Helper()
	if _, err := d.db.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// decide asks about every action of every principal, both ways.
func (d *differential) decide(t *testing.T) {
	t.Helper()
	d.refused = map[string]int{}
	for _, action := range d.actions {
		for _, p := range d.principals {
			plan, err := d.engine.Plan(t.Context(), PlanRequest{Principal: p, Kind: "doc", Action: action.name})
			var filter Filter
			if err == nil {
				filter, err = plan.Filter(docKind, d.dialect)
			}
			if err != nil {
				d.refused[err.Error()[strings.LastIndex(err.Error(), ": ")+2:]]++
				continue
			}
			batch := Batch{Principal: p}
			for _, row := range d.rows {
				batch.Items = append(batch.Items, Item{Resource: resourceOf(row), Actions: []string{action.name}})
			}
			answers, err := d.engine.CheckAll(t.Context(), batch)
			if err != nil {
				t.Fatal(err)
			}
			d.cases = append(d.cases, diffCase{action, p, filter, answers})
		}
	}
}

// run compares what the SQL selects with what was decided. mutate, if given,
// spoils the SQL; then the first row too many ends it.
func (d *differential) run(t *testing.T, mutate func(string) string) {
	t.Helper()
	d.wider, d.narrower = nil, nil
	for _, c := range d.cases {
		if mutate != nil {
			if len(d.wider) > 0 {
				return
			}
			sound := c.filter.SQL
			if c.filter.SQL = mutate(sound); c.filter.SQL == sound {
				continue
			}
		}
		d.compare(t, c)
	}
}

func (d *differential) compare(t *testing.T, c diffCase) {
	t.Helper()
	selected := d.selected(t, c.filter)
	for i, row := range d.rows {
		allowed, in := c.answers[i].Allowed(c.action.name), slices.Contains(selected, row.ID)
		if allowed == in {
			continue
		}
		what := fmt.Sprintf("%s\nprincipal %+v\nrow %+v\nSQL %s %q\ncheck %+v", c.action.yaml, c.principal, docKind.Attrs(row), c.filter.SQL, c.filter.Args, c.answers[i].Results)
		switch {
		case in:
			d.wider = append(d.wider, what)
		case !c.action.mayBeNarrower(c.principal, row):
			d.narrower = append(d.narrower, what)
		}
	}
}

func resourceOf(row kind.Row) events.Resource {
	return events.Resource{Kind: "doc", ID: row.ID, Attr: docKind.Attrs(row)}
}

func (d *differential) selected(t *testing.T, filter Filter) (ids []string) {
	t.Helper()
	query := filter.SQL
	for i := 1; strings.Contains(query, "?"); i++ {
		query = strings.Replace(query, "?", fmt.Sprintf("$%d", i), 1)
	}
	rows, err := d.db.QueryContext(t.Context(), "SELECT id FROM docs WHERE "+query, filter.Args...)
	if err != nil {
		t.Fatalf("%s: %v", filter.SQL, err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return ids
}

func (d *differential) judge(t *testing.T) {
	t.Helper()
	where := 0
	for _, c := range d.cases {
		if c.filter.Kind == Where {
			where++
		}
	}
	t.Logf("%d cases on %d rows, %d of them conditional; refused: %v", len(d.cases), len(d.rows), where, d.refused)
	if len(d.cases) < 1000 || where < 300 {
		t.Errorf("too few cases to mean anything")
	}
	if len(d.wider) > 0 {
		t.Errorf("%d rows selected that a check denies; the first:\n%s", len(d.wider), d.wider[0])
	}
	if len(d.narrower) > 0 {
		t.Errorf("%d rows not selected that a check allows; the first:\n%s", len(d.narrower), d.narrower[0])
	}
}

// Every column type that a kind can have is known.
func TestColumnsOfEveryType(t *testing.T) {
	got := map[string]valueType{}
	for name, c := range columnsOf(docKind) {
		got[name] = c.typ
		if f, _ := reflect.TypeFor[doc]().FieldByName(strings.ToUpper(name[:1]) + name[1:]); f.Type != nil && c.nullable != (f.Type.Kind() == reflect.Pointer) {
			t.Errorf("%s: nullable %v", name, c.nullable)
		}
	}
	want := map[string]valueType{"owner_id": typeString, "tenant": typeString, "title": typeString, "region": typeString, "nick": typeString,
		"count": typeNumber, "score": typeNumber, "ratio": typeNumber, "open": typeBool, "flag": typeBool, "due_at": typeTime, "created_at": typeTime, "tags": typeOther}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("have %v, want %v", got, want)
	}
}
