package store

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestArms(t *testing.T) {
	const owner, region, status = `("owner_id" = ?)`, `("region" = ?)`, `("status" = ?)`
	ordered := func(column string) bool { return column == "owner_id" || column == "region" }
	for text, want := range map[string][]string{
		// Split, in the forms that query plans have. Each argument is told by its number.
		owner + " OR " + region:                                                     {`("owner_id" = 1)`, `("region" = 2)`},
		"(" + owner + " OR (" + owner + " OR " + region + "))":                      {`("owner_id" = 1)`, `("owner_id" = 2)`, `("region" = 3)`},
		`(("tenant" = ?) AND (` + owner + " OR " + region + `))`:                    {`("tenant" = 1) AND ("owner_id" = 2)`, `("tenant" = 1) AND ("region" = 3)`},
		"(" + owner + " OR CAST(NULL AS BOOLEAN))":                                  {`("owner_id" = 1)`},
		"(CAST(NULL AS BOOLEAN) OR FALSE OR " + region + " OR " + owner + ")":       {`("region" = 1)`, `("owner_id" = 2)`},
		`("region" IN (?, ?))`:                                                      {`("region" = 1)`, `("region" = 2)`},
		"((" + owner + " AND " + status + ") OR " + region + ") AND (NOT " + status: nil,
		"((" + owner + " AND " + status + ") OR " + region + ") AND " + status:      {`("owner_id" = 1) AND ("status" = 2) AND ("status" = 4)`, `("region" = 3) AND ("status" = 4)`},
		"(CASE WHEN a = ? OR b = ? THEN ? END = ?) AND (" + owner + " OR " + region + ")": {
			`(CASE WHEN a = 1 OR b = 2 THEN 3 END = 4) AND ("owner_id" = 5)`, `(CASE WHEN a = 1 OR b = 2 THEN 3 END = 4) AND ("region" = 6)`},

		// Whole: no OR, an index for the whole already, no index for a part, too many parts.
		"":                       nil,
		"TRUE":                   nil,
		owner:                    nil,
		owner + " AND " + region: nil,
		owner + " AND (" + owner + " OR " + region + ")": nil,
		owner + " OR " + status:                          nil,
		"NOT (" + owner + " OR " + region + ")":          nil,
		"(NOT " + owner + ") OR " + region:               nil,
		"FALSE OR CAST(NULL AS BOOLEAN)":                 nil,
		owner + strings.Repeat(" OR "+region, maxArms):   nil,
		`"owner_id" > ? OR ` + region:                    nil,
		`"owner_id" = ? || ? OR ` + region:               nil,
		`"owner_id" = ? COLLATE x OR ` + region:          nil,

		// Whole: what is not understood.
		owner + " OR " + region + " -- AND":       nil,
		owner + " OR " + region + " /* */":        nil,
		owner + " OR $1 = " + region:              nil,
		`"it's" = 'a"b' AND ` + owner + ` OR x='`: nil,
		owner + ") OR (" + region:                 nil,
		"(" + owner + " OR " + region:             nil,
		"nonsense(":                               nil,
		" OR ":                                    nil,
		"x BETWEEN ? AND ? OR " + region:          nil,
		owner + " OR y BETWEEN ? AND ?":           nil,
	} {
		where := Where{SQL: text}
		for i := range strings.Count(text, "?") {
			where.Args = append(where.Args, i+1)
		}
		var have []string
		for _, arm := range arms(where, ordered) {
			have = append(have, filled(arm))
		}
		if want == nil {
			want = []string{filled(where)}
		}
		if diff := cmp.Diff(plainly(want), plainly(have)); diff != "" {
			t.Errorf("%s (-want +have):\n%s", text, diff)
		}
	}
	// One value twice is one part.
	same := Where{SQL: owner + " OR (" + owner + " OR " + region + ")", Args: []any{"sam", "sam", "eu"}}
	if have := arms(same, ordered); len(have) != 2 {
		t.Errorf("%v", have)
	}
	// Arguments that do not fit the text are the database's to refuse.
	for _, args := range [][]any{nil, {"sam"}, {"sam", "eu", "x"}} {
		if have := arms(Where{SQL: owner + " OR " + region, Args: args}, ordered); len(have) != 1 || len(have[0].Args) != len(args) {
			t.Errorf("%v: %v", args, have)
		}
	}
}

// filled writes the arguments where they stand.
func filled(w Where) string {
	for _, arg := range w.Args {
		w.SQL = strings.Replace(w.SQL, "?", fmt.Sprint(arg), 1)
	}
	return w.SQL
}

// plainly takes the parentheses off: how many there are does not matter.
func plainly(all []string) []string {
	out := slices.Clone(all)
	for i, s := range out {
		out[i] = strings.NewReplacer("(", "", ")", "").Replace(s)
	}
	return out
}

// TestIndexesAreTheDatabases: what is read from the migrations is what they make.
func TestIndexesAreTheDatabases(t *testing.T) {
	s := migrated(t, databases[SQLite](t))
	for table, want := range indexes() {
		rows, err := s.readers.QueryContext(t.Context(), `SELECT group_concat(c.name, ', ') FROM pragma_index_list(?) AS i, pragma_index_info(i.name) AS c
			WHERE i.origin = 'c' AND NOT i.partial AND c.name IS NOT NULL GROUP BY i.name`, table)
		ok(t, err)
		var have, wanted []string
		ok(t, each(sqlResult{rows}, func() error {
			have = append(have, "")
			return rows.Scan(&have[len(have)-1])
		}))
		for _, columns := range want {
			wanted = append(wanted, strings.Join(columns, ", "))
		}
		slices.Sort(have)
		slices.Sort(wanted)
		if diff := cmp.Diff(wanted, have); diff != "" {
			t.Errorf("%s (-migrations +database):\n%s", table, diff)
		}
	}
	if !ordered("contacts", "owner_id", "updated_at") || ordered("contacts", "is_active", "created_at") || ordered("none", "owner_id", "created_at") {
		t.Errorf("%v", indexes())
	}
}
