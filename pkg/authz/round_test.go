package authz

import (
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
)

// size of one round: each case is decided on every row.
const (
	diffActions      = 240
	diffPrincipals   = 5
	diffCasesOfRound = diffActions * diffPrincipals // less those that are refused
	diffRows         = 20
	diffBatch        = 20 // cases that are asked for in one query
)

// round holds generated policies, principals and rows, and what Cerbos decided about them.
type round struct {
	rows    []kind.Row
	cases   []diffCase
	asked   int            // cases and refused plans
	refused map[string]int // plans, by the reason why there are none
}

// diffCase is one action of one principal, decided row by row and as a plan.
type diffCase struct {
	action    genAction
	principal events.Principal
	plan      Plan
	allowed   []bool // by row
	filter    Filter
}

// differences are the rows that a plan and the checks do not agree on.
type differences struct {
	wider, narrower []string
}

func newRound(t *testing.T, g *generator, actions int) *round {
	t.Helper()
	return newRoundOn(t, g, actions, func(dir string) string { return "embed:" + dir })
}

// newRoundOn decides by what a setting for a folder of policies opens.
func newRoundOn(t *testing.T, g *generator, n int, setting func(dir string) string) *round {
	t.Helper()
	var actions []genAction
	for i := range n {
		actions = append(actions, g.action(fmt.Sprintf("act%d", i)))
	}
	dir := t.TempDir()
	files := map[string]string{"doc.yaml": policyOf(actions), "roles.yaml": genRoles}
	if !g.plain {
		files["sam.yaml"] = g.principalPolicyOf("sam", actions)
	}
	writeFiles(t, dir, files)
	engine, err := Open(t.Context(), setting(dir), WithTimeout(time.Minute))
	if err != nil {
		t.Fatalf("generated policy: %v", err)
	}
	defer func() { _ = engine.Close() }()
	r := &round{asked: n * diffPrincipals, refused: map[string]int{}}
	var principals []events.Principal
	for i := range diffPrincipals {
		principals = append(principals, g.principal(i))
	}
	for i := range diffRows {
		r.rows = append(r.rows, g.row(fmt.Sprintf("doc-%d", i)))
	}
	for _, action := range actions {
		for _, p := range principals {
			r.decide(t, engine, action, p)
		}
	}
	return r
}

// decide asks about an action of a principal, both ways.
func (r *round) decide(t *testing.T, engine Authorizer, action genAction, p events.Principal) {
	t.Helper()
	plan, err := engine.Plan(t.Context(), PlanRequest{Principal: p, Kind: "doc", Action: action.name})
	if err != nil {
		r.refused[cause(err)]++
		return
	}
	batch := Batch{Principal: p}
	for _, row := range r.rows {
		batch.Items = append(batch.Items, Item{Resource: resourceOf(row), Actions: []string{action.name}})
	}
	answers, err := engine.CheckAll(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	c := diffCase{action: action, principal: p, plan: plan, allowed: make([]bool, len(answers))}
	for i, answer := range answers {
		c.allowed[i] = answer.Allowed(action.name)
	}
	r.cases = append(r.cases, c)
}

func cause(err error) string {
	text := err.Error()
	return text[strings.LastIndex(text, ": ")+2:]
}

func resourceOf(row kind.Row) events.Resource {
	return events.Resource{Kind: "doc", ID: row.ID, Attr: docKind.Attrs(row)}
}

// store puts the round's rows into a table of their own.
func (r *round) store(t *testing.T, db *sql.DB) {
	t.Helper()
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), query, args...); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	types := map[string]string{"count": "BIGINT", "score": "BIGINT", "ratio": "DOUBLE PRECISION", "open": "BOOLEAN", "flag": "BOOLEAN",
		"due_at": "BIGINT", "created_at": "BIGINT", "updated_at": "BIGINT", "version": "BIGINT"}
	var columns []string
	for _, c := range docKind.Columns {
		typ := types[c.Name]
		if typ == "" {
			typ = "TEXT"
		}
		columns = append(columns, quote(c.Name)+" "+typ)
	}
	exec("DROP TABLE IF EXISTS docs")
	exec("CREATE TABLE docs (" + strings.Join(columns, ", ") + ")")
	var rows []string
	var args []any
	for _, row := range r.rows {
		var marks []string
		for _, v := range docKind.Values(row) {
			args = append(args, v)
			marks = append(marks, fmt.Sprintf("$%d", len(args)))
		}
		rows = append(rows, "("+strings.Join(marks, ", ")+")")
	}
	exec("INSERT INTO docs VALUES "+strings.Join(rows, ", "), args...)
}

// filter gives the cases whose plans can become SQL, and counts the others.
func (r *round) filter(t *testing.T, dialect string, refused map[string]int) []diffCase {
	t.Helper()
	for why, n := range r.refused {
		refused[why] += n
	}
	var out []diffCase
	for _, c := range r.cases {
		var err error
		if c.filter, err = c.plan.Filter(docKind, dialect); err != nil {
			refused[cause(err)]++
			continue
		}
		out = append(out, c)
	}
	return out
}

// compare compares what the SQL of cases selects with what was decided.
func (r *round) compare(t *testing.T, db *sql.DB, cases []diffCase, found *differences) {
	t.Helper()
	for batch := range slices.Chunk(cases, diffBatch) {
		for i, ids := range selects(t, db, batch) {
			c := batch[i]
			for j, row := range r.rows {
				in := slices.Contains(ids, row.ID)
				if in == c.allowed[j] {
					continue
				}
				what := fmt.Sprintf("%s\nprincipal %+v\nrow %+v\nSQL %s %q\nallowed %v", c.action.yaml, c.principal, docKind.Attrs(row), c.filter.SQL, c.filter.Args, c.allowed[j])
				if in {
					found.wider = append(found.wider, what)
				} else {
					found.narrower = append(found.narrower, what)
				}
			}
		}
	}
}

// selects asks for the rows of many cases in one query.
func selects(t *testing.T, db *sql.DB, cases []diffCase) [][]string {
	t.Helper()
	var query strings.Builder
	var args []any
	for i, c := range cases {
		if i > 0 {
			query.WriteString(" UNION ALL ")
		}
		fmt.Fprintf(&query, "SELECT %d, id FROM docs WHERE ", i)
		for j, part := range strings.Split(c.filter.SQL, "?") {
			if j > 0 {
				fmt.Fprintf(&query, "$%d", len(args)+j)
			}
			query.WriteString(part)
		}
		args = append(args, c.filter.Args...)
	}
	rows, err := db.QueryContext(t.Context(), query.String(), args...)
	if err != nil {
		t.Fatalf("%s: %v", query.String(), err)
	}
	defer func() { _ = rows.Close() }()
	ids := make([][]string, len(cases))
	for rows.Next() {
		var i int
		var id string
		if err := rows.Scan(&i, &id); err != nil {
			t.Fatal(err)
		}
		ids[i] = append(ids[i], id)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return ids
}
