package store

import (
	stdcmp "cmp"
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
)

// thing has a column of every sort that a kind may have.
type thing struct {
	kind.Meta
	Text   string     `json:"text"`
	Order  int        `json:"order"` // an SQL keyword
	Amount float64    `json:"amount"`
	On     bool       `json:"on"`
	Due    time.Time  `json:"due"`
	Maybe  *string    `json:"maybe"`
	Until  *time.Time `json:"until"`
	Tags   []string   `json:"tags"`
}

var things = kind.Define[thing]("thing", kind.Search("text"))

// withThings adds the table that a migration would.
func withThings(t testing.TB, s *Store) {
	t.Helper()
	collate := ""
	if s.Dialect() == Postgres {
		collate = ` COLLATE "C"`
	}
	_, err := s.writer.ExecContext(t.Context(), strings.ReplaceAll(`CREATE TABLE things (id TEXT NOT NULL PRIMARY KEY, tenant TEXT NOT NULL,
		owner_id TEXT NOT NULL, version BIGINT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL,
		text TEXT NOT NULL, "order" BIGINT NOT NULL, amount DOUBLE PRECISION NOT NULL, "on" BOOLEAN NOT NULL, due BIGINT NOT NULL,
		maybe TEXT, until BIGINT, tags TEXT NOT NULL)`, " TEXT", " TEXT"+collate))
	ok(t, err)
}

// newThing has few distinct values in each column, so that there are ties.
func newThing(r *rand.Rand) kind.Row {
	row := things.New()
	v := row.Value.(*thing)
	v.Meta = kind.Meta{ID: fmt.Sprintf("%016x", r.Uint64()), Tenant: "t", Version: int64(r.IntN(3)), CreatedAt: at(r.IntN(4)), UpdatedAt: at(r.IntN(1000))}
	v.Text = []string{"", "a", "B", "b", "Z", "é", "漢", "a b", "🙂"}[r.IntN(9)]
	v.Order, v.Amount, v.On, v.Due = r.IntN(5)-2, float64(r.IntN(5))/3-0.5, r.IntN(2) == 0, at(r.IntN(3))
	v.Tags = []string{"x"}
	return row
}

// TestPagesNeitherRepeatNorSkip walks lists of random rows with many ties, page
// by page, while other rows come and go.
func TestPagesNeitherRepeatNorSkip(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		withThings(t, s)
		r := rand.New(rand.NewPCG(1, 2))
		var stay []kind.Row
		for range 150 {
			stay = append(stay, newThing(r))
		}
		put1(t, s, things, stay...)
		for _, column := range []string{"", "created_at", "updated_at", "id", "text", "order", "amount", "on", "due", "version"} {
			for _, sort := range []string{column, "-" + column} {
				if sort != "-" {
					t.Run("by "+sort, func(t *testing.T) { walk(t, s, r, sort, stay) })
				}
			}
		}
	})
}

func walk(t *testing.T, s *Store, r *rand.Rand, sort string, stay []kind.Row) {
	seen := map[string]int{}
	var values []any
	by := s.table(things).fields[strings.TrimPrefix(stdcmp.Or(sort, DefaultSort), "-")]
	q := Query{Tenant: "t", Sort: sort}
	for {
		q.Limit = 1 + r.IntN(40)
		page, err := s.List(t.Context(), things, q)
		ok(t, err)
		if len(page.Items) > q.Limit || (page.NextCursor != "" && len(page.Items) != q.Limit) {
			t.Fatalf("a page of %d, limit %d, cursor %q", len(page.Items), q.Limit, page.NextCursor)
		}
		for _, row := range page.Items {
			seen[row.ID]++
			values = append(values, things.Values(row)[by.index])
		}
		if q.Cursor = page.NextCursor; q.Cursor == "" {
			break
		}
		guest := newThing(r)
		last := page.Items[len(page.Items)-1].ID // the very row that the cursor names may go
		ok(t, s.Update(t.Context(), func(ctx context.Context, tx *Tx) error {
			if !slices.ContainsFunc(stay, func(row kind.Row) bool { return row.ID == last }) {
				ok(t, tx.DeleteRows(ctx, things, []string{last}))
			}
			return tx.PutRows(ctx, things, []kind.Row{guest})
		}))
	}
	for _, row := range stay {
		if seen[row.ID] != 1 {
			t.Errorf("row %s was listed %d times", row.ID, seen[row.ID])
		}
	}
	if !slices.IsSortedFunc(values, func(a, b any) int {
		if strings.HasPrefix(sort, "-") {
			a, b = b, a
		}
		return compare(a, b)
	}) {
		t.Errorf("not in order: %v", values)
	}
}

// compare orders SQL values as Go does: texts by bytes, false before true.
func compare(a, b any) int {
	number := map[bool]int{true: 1}
	switch x := a.(type) {
	case string:
		return strings.Compare(x, b.(string))
	case int:
		return x - b.(int)
	case int64:
		return int(x - b.(int64))
	case float64:
		return number[x > b.(float64)] - number[x < b.(float64)]
	case bool:
		return number[x] - number[b.(bool)]
	}
	panic(fmt.Sprintf("%T", a))
}

func names(t *testing.T, s *Store, q Query) []string {
	t.Helper()
	if q.Tenant == "" {
		q.Tenant = "t"
	}
	page, err := s.List(t.Context(), contact.Kind, q)
	ok(t, err)
	out := []string{}
	for _, row := range page.Items {
		out = append(out, row.Value.(*contact.Contact).FirstName)
	}
	return out
}

func TestSearchTakesEveryCharacterAsItIs(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		all := []string{"100% sure", "a_b", `back\slash`, "O'Brien", "Émile ÇA", "plain", `say "hi"`, "axb", "?$1"}
		for i, name := range all {
			put1(t, s, contact.Kind, newContact(i, func(c *contact.Contact) { c.FirstName = name }))
		}
		for q, want := range map[string][]string{
			"":                  all,
			"%":                 {"100% sure"},
			"_":                 {"a_b"},
			`\`:                 {`back\slash`},
			"'":                 {"O'Brien"},
			"o'bRIEN":           {"O'Brien"},
			"émile ça":          {"Émile ÇA"},
			"ÉMILE":             {"Émile ÇA"},
			`"`:                 {`say "hi"`},
			"?":                 {"?$1"},
			"$1":                {"?$1"},
			"PLAIN":             {"plain"},
			"' OR '1'='1":       {},
			"%' ESCAPE '%' -- ": {},
			"a%b":               {},
		} {
			if diff := cmp.Diff(want, names(t, s, Query{Search: q})); diff != "" {
				t.Errorf("q=%s (-want +have):\n%s", q, diff)
			}
		}
	})
}

// TestSearchFindsWhatIsStored, in every script, and what is equal under Unicode's case folding; the same on both databases.
func TestSearchFindsWhatIsStored(t *testing.T) {
	stored := []string{
		"İZMİR1", "Işık", "ΟΔΥΣΣΕΥΣ", "Straße", "ЁЛКА Москва", "Ame\u0301lie", "Am\u00e9lie", "ＷＲＩＴ％ｆ", "👩‍👩‍👧 Familie", "ﬁnal", "\u212Aelvin", "東京タワー", "ŉ", "ﬀ_x",
	}
	onBoth(t, func(t *testing.T, s *Store) {
		for i, name := range stored {
			put1(t, s, contact.Kind, newContact(i, func(c *contact.Contact) { c.FirstName = name }))
		}
		find := func(q string, want ...string) {
			t.Helper()
			got := names(t, s, Query{Search: q})
			for _, w := range want {
				if !slices.Contains(got, w) {
					t.Errorf("q=%s finds %q, want %s among them", q, got, w)
				}
			}
			if len(got) > len(want) {
				t.Errorf("q=%s finds %q, want %q alone", q, got, want)
			}
		}
		for _, name := range stored {
			if !strings.HasPrefix(name, "Am") {
				find(name, name)
			}
		}
		find("Ame\u0301lie", "Ame\u0301lie", "Am\u00e9lie")
		find("AM\u00c9LIE", "Ame\u0301lie", "Am\u00e9lie")
		find("i\u0307zmi\u0307r1", "İZMİR1")
		find("ışık", "Işık")
		find("IŞIK", "Işık")
		find("οδυσσευς", "ΟΔΥΣΣΕΥΣ")
		find("οδυσσευσ", "ΟΔΥΣΣΕΥΣ")
		find("υς", "ΟΔΥΣΣΕΥΣ")
		find("STRASSE", "Straße")
		find("straße", "Straße")
		find("STRAẞE", "Straße")
		find("ёлка МОСКВА", "ЁЛКА Москва")
		find("writ%f", "ＷＲＩＴ％ｆ")
		find("ｗｒｉｔ", "ＷＲＩＴ％ｆ")
		find("FINAL", "ﬁnal")
		find("kelvin", "\u212Aelvin")
		find("FF_X", "ﬀ_x")
		find("％", "ＷＲＩＴ％ｆ")
		find("タワ", "東京タワー")
	})
}

func TestFiltersOnlyNarrow(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		for i, owner := range []string{"sam", "rim", "sam", "eve"} {
			put1(t, s, contact.Kind, newContact(i, func(c *contact.Contact) {
				c.FirstName, c.OwnerID, c.IsActive = fmt.Sprint(i), owner, i < 2
				if owner == "eve" {
					c.Tenant = "other"
				}
			}))
		}
		either := Where{SQL: "owner_id = ? OR owner_id = ?", Args: []any{"sam", "eve"}}
		for _, c := range []struct {
			query Query
			want  []string
		}{
			{Query{}, []string{"0", "1", "2"}},
			{Query{Where: either}, []string{"0", "2"}}, // its OR does not reach past the tenant
			{Query{Where: either, Equals: map[string]any{"is_active": true}}, []string{"0"}},
			{Query{Where: Where{SQL: "created_at > ?", Args: []any{at(0)}}}, []string{"1", "2"}},
			{Query{Equals: map[string]any{"owner_id": "sam' OR '1'='1"}}, []string{}},
			{Query{Equals: map[string]any{"created_at": at(1).Format(time.RFC3339Nano), "version": 1.0}}, []string{"1"}},
			{Query{Equals: map[string]any{"version": 1}, Sort: "-first_name", Limit: 2}, []string{"2", "1"}},
			{Query{Tenant: "other"}, []string{"3"}},
			{Query{Tenant: "none"}, []string{}},
		} {
			if diff := cmp.Diff(c.want, names(t, s, c.query)); diff != "" {
				t.Errorf("%+v (-want +have):\n%s", c.query, diff)
			}
		}
		withThings(t, s)
		r := rand.New(rand.NewPCG(3, 4))
		a, b := newThing(r), newThing(r)
		yes := "yes"
		a.Value.(*thing).Maybe = &yes
		put1(t, s, things, a, b)
		for value, want := range map[any]string{nil: b.ID, "yes": a.ID} {
			page, err := s.List(t.Context(), things, Query{Tenant: "t", Equals: map[string]any{"maybe": value}})
			ok(t, err)
			if len(page.Items) != 1 || page.Items[0].ID != want {
				t.Errorf("maybe = %v: %v", value, page.Items)
			}
		}
	})
}

func TestListNamesWhatIsWrongWithTheQuery(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		for i := range 3 {
			put1(t, s, contact.Kind, newContact(i))
		}
		page, err := s.List(t.Context(), contact.Kind, Query{Tenant: "t", Limit: 1})
		ok(t, err)
		made := func(text string) Query { return Query{Cursor: base64.RawURLEncoding.EncodeToString([]byte(text))} }
		for _, c := range []struct {
			query Query
			field string
		}{
			{Query{Limit: -1}, "query.limit"},
			{Query{Limit: 201}, "query.limit"},
			{Query{Sort: "none"}, "query.sort"},
			{Query{Sort: "--id"}, "query.sort"},
			{Query{Sort: `id" DESC --`}, "query.sort"},
			{Query{Sort: "notes"}, "query.sort"},
			{Query{Equals: map[string]any{"none": "x"}}, "query.none"},
			{Query{Equals: map[string]any{`id" = 'x' OR "id`: "x"}}, `query.id" = 'x' OR "id`},
			{Query{Equals: map[string]any{"is_active": "yes"}}, "query.is_active"},
			{Query{Equals: map[string]any{"version": 1.5}}, "query.version"},
			{Query{Equals: map[string]any{"created_at": "yesterday"}}, "query.created_at"},
			{Query{Equals: map[string]any{"email": "nul\x00"}}, "query.email"},
			{Query{Search: "nul\x00"}, "query.q"},
			{Query{Search: "bad\xff"}, "query.q"},
			{Query{Search: strings.Repeat("x", MaxSearch+1)}, "query.q"},
			{Query{Tenant: "nul\x00"}, "query"},
			{Query{Cursor: page.NextCursor, Sort: "-created_at"}, "query.cursor"},
			{Query{Cursor: page.NextCursor, Sort: "updated_at"}, "query.cursor"},
			{Query{Cursor: "!"}, "query.cursor"},
			{Query{Cursor: page.NextCursor + "A"}, "query.cursor"},
			{Query{Cursor: strings.Repeat("A", maxCursor+1)}, "query.cursor"},
			{made(`null`), "query.cursor"},
			{made(`[]`), "query.cursor"},
			{made(`{"sort":"created_at","value":1,"id":""}`), "query.cursor"},
			{made(`{"sort":"created_at","value":null,"id":"x"}`), "query.cursor"},
			{made(`{"sort":"created_at","value":"2025-01-02T03:04:05Z","id":"x"}`), "query.cursor"},
			{made(`{"sort":"created_at","value":1.5,"id":"x"}`), "query.cursor"},
			{made(`{"sort":"created_at","value":99999999999999999999,"id":"x"}`), "query.cursor"},
			{made(`{"sort":"created_at","value":[1],"id":"x"}`), "query.cursor"},
			{made(`{"sort":"created_at","value":1,"id":"\u0000"}`), "query.cursor"},
			{made(`{"sort":"created_at","value":1,"id":"x","more":1}`), "query.cursor"},
			{made(`{"sort":"created_at","value":1,"id":"x"} {}`), "query.cursor"},
		} {
			if c.query.Tenant == "" {
				c.query.Tenant = "t"
			}
			_, err := s.List(t.Context(), contact.Kind, c.query)
			if e, isFault := err.(*fault.Error); !isFault || e.Kind != fault.Invalid || e.Fields[0].Location != c.field {
				t.Errorf("%+v: %v", c.query, err)
			}
		}
		if _, err := s.List(t.Context(), contact.Kind, Query{Tenant: "t", Where: Where{SQL: "nonsense("}}); err == nil || fault.KindOf(err) != fault.Internal {
			t.Errorf("a wrong condition: %v", err)
		}
	})
}

// TestListsAreReadFromAnIndex: in order, without a sort, from where the cursor says.
func TestListsAreReadFromAnIndex(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		conn, err := s.readers.Conn(t.Context())
		ok(t, err)
		defer func() { ok(t, conn.Close()) }()
		explain, bad, good := "EXPLAIN QUERY PLAN ", "TEMP B-TREE", "id)>(?,?)"
		if s.Dialect() == Postgres {
			explain, bad, good = "EXPLAIN ", "Sort", "Index Cond: "
			_, err := conn.ExecContext(t.Context(), "SET enable_seqscan = off; SET enable_bitmapscan = off")
			ok(t, err)
		}
		for index, q := range map[string]Query{
			"contacts_created": {}, "contacts_updated": {Sort: "-updated_at"}, "contacts_owned": {Equals: map[string]any{"owner_id": "sam"}},
		} {
			q.Tenant = "t"
			by := strings.TrimPrefix(stdcmp.Or(q.Sort, DefaultSort), "-")
			q.Cursor = encodeCursor(cursor{Sort: stdcmp.Or(q.Sort, DefaultSort), Value: 1, ID: "x"})
			l, err := s.plan(contact.Kind, q)
			ok(t, err)
			rows, err := conn.QueryContext(t.Context(), explain+s.rebind(l.sql), l.args...)
			ok(t, err)
			columns, err := rows.Columns()
			ok(t, err)
			var plan strings.Builder
			ok(t, each(sqlResult{rows}, func() error {
				var step string
				dest := make([]any, len(columns))
				for i := range dest {
					dest[i] = new(any)
				}
				dest[len(dest)-1] = &step
				err := rows.Scan(dest...)
				plan.WriteString(step + "\n")
				return err
			}))
			have := strings.ReplaceAll(strings.ReplaceAll(plan.String(), "<(?", ">(?"), " ", "")
			if !strings.Contains(have, index) || strings.Contains(plan.String(), bad) ||
				!strings.Contains(have, strings.ReplaceAll(good, " ", "")) || !strings.Contains(have, by) {
				t.Errorf("%s:\n%s", index, plan.String())
			}
		}
	})
}
