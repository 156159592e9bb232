package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
)

// The limits of a list.
const (
	DefaultLimit = 50
	MaxLimit     = 200
	// MaxSearch is the longest text to search for, in characters.
	MaxSearch = 200
	// DefaultSort is the column a list is sorted by when the caller names none.
	DefaultSort = "created_at"
)

// Where is a condition in SQL, such as a query plan becomes: a boolean
// expression with ? for each argument. An empty SQL means all rows.
type Where struct {
	SQL  string
	Args []any
}

// Query asks for one page of a kind's rows in one tenant.
type Query struct {
	Tenant string
	// Where is what the policy lets the principal see.
	Where Where
	// Equals are the caller's own filters, by column.
	Equals map[string]any
	// Search looks for a text within the kind's search columns, whatever the case.
	Search string
	// Sort is a column, with a leading - for descending; DefaultSort if empty.
	// JSON, columns that may be NULL and texts longer than 1,000 characters
	// cannot be sorted by.
	Sort string
	// Cursor is the NextCursor of the page before; empty for the first.
	Cursor string
	// Limit is from 1 to MaxLimit; 0 means DefaultLimit.
	Limit int
}

// Page is one page of a list. NextCursor is empty on the last one.
type Page struct {
	Items      []kind.Row
	NextCursor string
}

// List reads one page. Pages are cut by the sort column and the id of the last
// row (keyset pagination): rows that come and go meanwhile make no other row
// appear twice or not at all. What the caller got wrong is fault.Invalid and
// names the part of the query: query.sort, query.cursor, query.limit, query.q
// or query.<column>.
func (s *Store) List(ctx context.Context, def *kind.Definition, q Query) (Page, error) {
	l, err := s.plan(def, q)
	if err != nil {
		return Page{}, err
	}
	var items []kind.Row
	err = s.reading(ctx, func() error {
		items = nil
		rows, err := s.query(ctx, s.preparedLists, l.sql.String(), s.planned(l.args)...)
		if err != nil {
			return err
		}
		return each(rows, func() error {
			row := def.New()
			items = append(items, row)
			return rows.Scan(def.Dest(row)...)
		})
	})
	if err != nil {
		return Page{}, fmt.Errorf("list %s: %w", def.Plural, err)
	}
	page := Page{Items: items}
	if len(items) > l.limit { // one more was read to know that there is more
		page.Items = items[:l.limit]
		last := items[l.limit-1]
		page.NextCursor = encodeCursor(cursor{Sort: l.sort, Value: def.Values(last)[l.by.index], ID: last.ID})
	}
	return page, nil
}

// list is a query being built.
type list struct {
	sql   strings.Builder
	args  []any
	by    field
	sort  string
	limit int
}

func (l *list) and(condition string, args ...any) {
	l.sql.WriteString(" AND ")
	l.sql.WriteString(condition)
	l.args = append(l.args, args...)
}

func (s *Store) plan(def *kind.Definition, q Query) (*list, error) {
	t := s.table(def)
	l := &list{limit: q.Limit, sort: q.Sort}
	if l.limit == 0 {
		l.limit = DefaultLimit
	}
	if l.limit < 1 || l.limit > MaxLimit {
		return nil, fault.InvalidField("query.limit", "must be from 1 to %d", MaxLimit)
	}
	if l.sort == "" {
		l.sort = DefaultSort
	}
	name, descending := strings.CutPrefix(l.sort, "-")
	by, ok := t.fields[name]
	if !ok || !by.sortable {
		return nil, fault.InvalidField("query.sort", "%s cannot be sorted by that", def.Plural)
	}
	l.by = by

	l.sql.WriteString("SELECT " + t.list() + " FROM " + t.name + ` WHERE "tenant" = ?`)
	l.args = append(l.args, q.Tenant)
	if q.Where.SQL != "" {
		l.and("("+q.Where.SQL+")", sqlArgs(q.Where.Args)...)
	}
	if err := l.equals(t, q.Equals); err != nil {
		return nil, err
	}
	if err := l.search(s.dialect, def, q.Search); err != nil {
		return nil, err
	}
	if err := l.page(q.Cursor, descending); err != nil {
		return nil, err
	}
	if !allStorable(l.args) {
		return nil, fault.InvalidField("query", "no NUL characters, and UTF-8 only")
	}
	return l, nil
}

func (l *list) equals(t *table, filters map[string]any) error {
	for _, name := range slices.Sorted(maps.Keys(filters)) { // one order, one statement
		f, ok := t.fields[name]
		if !ok || f.class == document {
			return fault.InvalidField("query."+name, "no such filter")
		}
		if filters[name] == nil {
			l.and(quote(name) + " IS NULL")
			continue
		}
		arg, err := f.argument(filters[name])
		if err != nil {
			return fault.InvalidField("query."+name, "%v", err)
		}
		l.and(quote(name)+" = ?", arg)
	}
	return nil
}

var likeEscaper = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

func (l *list) search(d Dialect, def *kind.Definition, text string) error {
	switch {
	case text == "":
		return nil
	case len(def.Search) == 0:
		return fault.InvalidField("query.q", "%s cannot be searched", def.Plural)
	case utf8.RuneCountInString(text) > MaxSearch:
		return fault.InvalidField("query.q", "at most %d characters", MaxSearch)
	case !storable(text):
		return fault.InvalidField("query.q", "no NUL characters, and UTF-8 only")
	}
	lower := lowerFor(d, text)
	conditions := make([]string, len(def.Search))
	pattern := "%" + likeEscaper.Replace(strings.ToLower(text)) + "%"
	args := make([]any, len(def.Search))
	for i, name := range def.Search {
		conditions[i] = lower(quote(name)) + ` LIKE ? ESCAPE '\'`
		args[i] = pattern
	}
	l.and("("+strings.Join(conditions, " OR ")+")", args...)
	return nil
}

// lowerFor gives the expression that turns a column into lower case. Both
// databases' lower() knows ASCII only (on a "C" column), is fast, and enough for a
// text in ASCII; for any other text it takes a function that knows Unicode.
func lowerFor(d Dialect, text string) func(column string) string {
	ascii := strings.IndexFunc(text, func(r rune) bool { return r > 127 }) < 0
	return func(column string) string {
		switch {
		case ascii:
			return "lower(" + column + ")"
		case d == Postgres:
			return "lower(" + column + ` COLLATE "und-x-icu")`
		}
		return foldFunction + "(" + column + ")"
	}
}

// page adds where the page starts, the order and the limit. The comparison of
// rows is one both databases look up in an index on (tenant, column, id).
func (l *list) page(after string, descending bool) error {
	than, direction := ">", ""
	if descending {
		than, direction = "<", " DESC"
	}
	column := quote(l.by.name)
	if after != "" {
		c, err := decodeCursor(after, l.sort, l.by)
		if err != nil {
			return fault.InvalidField("query.cursor", "%v", err)
		}
		l.and("("+column+`, "id") `+than+" (?, ?)", c.Value, c.ID)
	}
	l.sql.WriteString(" ORDER BY " + column + direction + `, "id"` + direction + " LIMIT ?")
	l.args = append(l.args, l.limit+1)
	return nil
}

// sqlArgs gives times the form they have in SQL.
func sqlArgs(args []any) []any {
	out := slices.Clone(args)
	for i, a := range out {
		if at, ok := a.(time.Time); ok {
			out[i] = kind.ToMicros(at)
		}
	}
	return out
}
