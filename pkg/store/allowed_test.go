package store

import (
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/expense"
	"github.com/writ-project/writ/pkg/kinds"
)

// shapes are policies of one rule for list, by name, that allow what their
// condition says. Their query plans have the shapes that a list can be split at,
// and some that it cannot.
var shapes = map[string]string{
	"owner":    `R.attr.owner_id == P.id`,
	"either":   `R.attr.owner_id == P.id || R.attr.region == P.attr.region`,
	"any":      `R.attr.owner_id == P.id || R.attr.department == P.attr.department || R.attr.region == P.attr.region`,
	"lists":    `R.attr.owner_id == P.id || R.attr.region in P.attr.regions`,
	"nested":   `R.attr.status != "REJECTED" && (R.attr.owner_id == P.id || (R.attr.region == P.attr.region && R.attr.status == "OPEN"))`,
	"mixed":    `R.attr.owner_id == P.id || R.attr.status == "APPROVED"`,
	"negative": `!(R.attr.owner_id == P.id || R.attr.region == P.attr.region)`,
}

// shaped opens an engine on the policies of shapes: an action per name.
func shaped(t testing.TB) authz.Authorizer {
	t.Helper()
	dir := t.TempDir()
	for _, def := range kinds.All {
		var b strings.Builder
		fmt.Fprintf(&b, "apiVersion: api.cerbos.dev/v1\nresourcePolicy:\n  resource: %s\n  version: default\n  rules:\n", def.Name)
		for name, condition := range shapes {
			fmt.Fprintf(&b, "    - {actions: [%s], effect: EFFECT_ALLOW, roles: [user], condition: {match: {expr: %q}}}\n", name, condition)
		}
		ok(t, os.WriteFile(filepath.Join(dir, def.Name+".yaml"), []byte(b.String()), 0o600))
	}
	return engine(t, dir)
}

func engine(t testing.TB, dir string) authz.Authorizer {
	t.Helper()
	a, err := authz.Open(t.Context(), "embed:"+dir, authz.WithLogger(slog.New(slog.DiscardHandler)))
	ok(t, err)
	t.Cleanup(func() { ok(t, a.Close()) })
	return a
}

// filter is the condition that a query plan becomes, as the api asks for it.
func filter(t testing.TB, a authz.Authorizer, d Dialect, def *kind.Definition, p events.Principal, action string) authz.Filter {
	t.Helper()
	request := authz.PlanRequest{Principal: p, Kind: def.Name, Action: action, Tenant: "t"}
	if action == kind.ActionUpdate {
		request.Attr = map[string]any{"changes": []string{}}
	}
	plan, err := a.Plan(t.Context(), request)
	ok(t, err)
	f, err := plan.Filter(def, string(d))
	ok(t, err)
	return f
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func newExpense(r *rand.Rand) kind.Row {
	row := expense.Kind.New()
	e := row.Value.(*expense.Expense)
	e.Meta = kind.Meta{ID: fmt.Sprintf("%016x", r.Uint64()), Tenant: pick(r, "t", "t", "t", "other"), OwnerID: pick(r, "sam", "eve", "rim"), CreatedAt: at(r.IntN(20)), UpdatedAt: at(r.IntN(20))}
	e.Vendor, e.Status = "v", pick(r, expense.Open, expense.Approved, expense.Rejected)
	e.Region, e.Department = pick(r, nil, new("eu"), new("us"), new("EU")), pick(r, nil, new("it"), new("finance"))
	return row
}

// TestListsHoldExactlyWhatIsAllowed walks lists with the filters of query plans,
// whole ones and ones that are split: they hold the rows that a check of each
// allows, once, in order, and none of another tenant's.
func TestListsHoldExactlyWhatIsAllowed(t *testing.T) {
	a := shaped(t)
	onBoth(t, func(t *testing.T, s *Store) {
		r := rand.New(rand.NewPCG(5, 6))
		var rows []kind.Row
		for range 300 {
			rows = append(rows, newExpense(r))
		}
		put1(t, s, expense.Kind, rows...)
		split, lists := 0, 0
		for _, action := range slices.Sorted(maps.Keys(shapes)) {
			for _, attr := range []map[string]any{
				{"region": "eu", "department": "it", "regions": []string{"eu", "us", "eu"}},
				{"region": "none", "regions": []string{"none"}}, // of an empty list a filter promises less
				{"department": "finance"},
				nil,
			} {
				if _, has := attr["regions"]; action == "lists" && !has {
					continue // an `in` without a list: no plan
				}
				p := events.Principal{ID: pick(r, "sam", "nobody"), Roles: []string{"user"}, Attr: attr}
				f := filter(t, a, s.Dialect(), expense.Kind, p, action)
				where := Where{SQL: f.SQL, Args: f.Args}
				allowed := allowedRows(t, a, p, action, rows)
				for _, sort := range []string{"", "-created_at", "updated_at", "vendor"} {
					for _, equals := range []map[string]any{nil, {"status": expense.Open}} {
						q := Query{Tenant: "t", Where: where, Sort: sort, Equals: equals}
						l, err := s.plan(expense.Kind, q)
						ok(t, err)
						lists++
						if strings.Contains(l.sql, "UNION ALL") {
							split++
						}
						var want []string
						for _, row := range allowed {
							if equals == nil || row.Value.(*expense.Expense).Status == expense.Open {
								want = append(want, row.ID)
							}
						}
						if diff := cmp.Diff(want, ids(t, s, r, q)); diff != "" {
							t.Errorf("%s %+v sort %q %v: %s (-allowed +listed):\n%s", action, p, sort, equals, l.sql, diff)
						}
					}
				}
			}
		}
		if t.Logf("%d lists, %d of them split", lists, split); split < lists/10 {
			t.Error("too few to mean anything")
		}
	})
}

// allowedRows asks about each row of the tenant.
func allowedRows(t *testing.T, a authz.Authorizer, p events.Principal, action string, rows []kind.Row) (out []kind.Row) {
	t.Helper()
	for _, row := range rows {
		if row.Tenant != "t" {
			continue
		}
		answer, err := a.Check(t.Context(), authz.Request{Principal: p, Actions: []string{action}, Tenant: "t",
			Resource: events.Resource{Kind: expense.Kind.Name, ID: row.ID, Attr: expense.Kind.Attrs(row)}})
		ok(t, err)
		if answer.Allowed(action) {
			out = append(out, row)
		}
	}
	slices.SortFunc(out, func(a, b kind.Row) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// ids walks a list in pages of random sizes, checks its order and gives the ids, sorted.
func ids(t *testing.T, s *Store, r *rand.Rand, q Query) (out []string) {
	t.Helper()
	name, descending := strings.CutPrefix(q.Sort, "-")
	if name == "" {
		name = DefaultSort
	}
	by := s.table(expense.Kind).fields[name]
	var last kind.Row
	for {
		q.Limit = 1 + r.IntN(60)
		page, err := s.List(t.Context(), expense.Kind, q)
		ok(t, err)
		for _, row := range page.Items {
			if last.Value != nil {
				order := compare(expense.Kind.Values(last)[by.index], expense.Kind.Values(row)[by.index])
				if order == 0 {
					order = strings.Compare(last.ID, row.ID)
				}
				if order == 0 || (order > 0) != descending {
					t.Errorf("%s by %q: %s after %s", q.Where.SQL, q.Sort, row.ID, last.ID)
				}
			}
			last, out = row, append(out, row.ID)
		}
		if len(page.Items) > q.Limit || (page.NextCursor != "" && len(page.Items) < q.Limit) {
			t.Errorf("a page of %d, limit %d, cursor %q", len(page.Items), q.Limit, page.NextCursor)
		}
		if q.Cursor = page.NextCursor; q.Cursor == "" {
			slices.Sort(out)
			return out
		}
	}
}
