package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
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
//
// No more is read than the page, wherever it is and however many rows there
// are, if
//   - all rows of the tenant are listed by created_at or updated_at, or those
//     with is_active = false by created_at, or
//   - the policy compares a column x and there is an index on (tenant, x, the
//     sort column, id); or it joins such comparisons by OR or IN, at most 8.
//
// Whatever else must hold (a filter of the caller's, is_active = true, the rest
// of a policy) is tried on each row, so a page costs the rows that are passed
// over until it is full. A search, a sort or a part of an OR without such an
// index may cost all rows of the tenant.
func (s *Store) List(ctx context.Context, def *kind.Definition, q Query) (Page, error) {
	l, err := s.plan(def, q)
	if err != nil {
		return Page{}, err
	}
	var items []kind.Row
	err = s.reading(ctx, func() error {
		rows, err := s.query(ctx, s.preparedLists, l.sql, s.planned(l.args)...)
		if err != nil {
			return err
		}
		items, err = l.read(rows)
		return err
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

// read reads one row more than the page has, to know whether there is a next
// one. A row that several arms of the list select comes again right away.
func (l *list) read(rows resultSet) (items []kind.Row, err error) {
	defer rows.Close() // Err tells what went wrong
	for len(items) <= l.limit && rows.Next() {
		row := l.def.New()
		if err := rows.Scan(l.def.Dest(row)...); err != nil {
			return nil, err
		}
		if n := len(items); n == 0 || items[n-1].ID != row.ID {
			items = append(items, row)
		}
	}
	return items, rows.Err()
}

// list is a query being built.
type list struct {
	def   *kind.Definition
	sql   string
	args  []any
	by    field
	sort  string
	limit int

	// The conditions beside the policy's, for every arm.
	rest     strings.Builder
	restArgs []any
}

func (l *list) and(condition string, args ...any) {
	l.rest.WriteString(" AND ")
	l.rest.WriteString(condition)
	l.restArgs = append(l.restArgs, args...)
}

func (s *Store) plan(def *kind.Definition, q Query) (*list, error) {
	t := s.table(def)
	l := &list{def: def, limit: q.Limit, sort: q.Sort}
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

	if err := l.equals(t, q.Equals); err != nil {
		return nil, err
	}
	if err := l.search(s.dialect, def, q.Search); err != nil {
		return nil, err
	}
	if err := l.after(q.Cursor, descending); err != nil {
		return nil, err
	}
	all := arms(q.Where, func(column string) bool { return ordered(def.Plural, column, by.name) })
	selects := make([]string, len(all))
	order := orderBy(by.name, descending)
	for i, arm := range all {
		within, args := t.within(def, q.Tenant)
		selects[i] = "SELECT " + t.list() + " FROM " + t.name + " WHERE " + within
		l.args = append(l.args, args...)
		if arm.SQL != "" {
			selects[i] += " AND (" + arm.SQL + ")"
			l.args = append(l.args, sqlArgs(arm.Args)...)
		}
		selects[i] += l.rest.String()
		l.args = append(l.args, l.restArgs...)
		if len(all) > 1 {
			// PostgreSQL merges what is in order already; SQLite finds out by itself.
			selects[i] = "SELECT * FROM (" + selects[i] + order + ") AS arm" + strconv.Itoa(i)
		}
	}
	l.sql = strings.Join(selects, " UNION ALL ") + order + " LIMIT ?"
	l.args = append(l.args, (l.limit+1)*len(all)) // each arm may select every row of the page
	if !allStorable(l.args) {
		return nil, fault.InvalidField("query", "no NUL characters, and UTF-8 only")
	}
	return l, nil
}

func orderBy(column string, descending bool) string {
	direction := ""
	if descending {
		direction = " DESC"
	}
	return " ORDER BY " + quote(column) + direction + `, "id"` + direction
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
		if on, ok := arg.(bool); ok {
			// Spelled out, so that SQLite may use an index on the rows where it is so.
			l.and(quote(name) + " = " + strings.ToUpper(strconv.FormatBool(on)))
			continue
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
	// Most text is ASCII, and lower() is fast: it knows ASCII only, on both databases (on a "C" column). Text that is not,
	// on either side, is compared folded, pattern and column by one function.
	ascii := strings.IndexFunc(text, func(r rune) bool { return r > 127 }) < 0
	pattern := "%" + likeEscaper.Replace(strings.ToLower(text)) + "%"
	var conditions []string
	var args []any
	for _, name := range def.Search {
		column := quote(name)
		if ascii {
			conditions = append(conditions, "lower("+column+`) LIKE ? ESCAPE '\'`)
			args = append(args, pattern)
		}
		conditions = append(conditions, folded(d, column))
		args = append(args, text)
	}
	l.and("("+strings.Join(conditions, " OR ")+")", args...)
	return nil
}

// folded is the condition that a column that is not ASCII alone holds a text, both in Unicode's compatibility composition
// (NFKC) and without case: what is equal under full case folding is found, and Turkish dotless i by any i.
func folded(d Dialect, column string) string {
	if d == SQLite {
		return "(length(CAST(" + column + " AS BLOB)) <> length(" + column + ") AND instr(" + foldFunction + "(" + column + "), " + foldFunction + "(?)) > 0)"
	}
	// ICU has no folding. Lower (of capital sharp s), upper and lower case is that, but for the sigma at a word's end.
	fold := func(text string) string {
		return `replace(lower(upper(lower(normalize(` + text + `, NFKC) COLLATE "und-x-icu"))), 'ς', 'σ')`
	}
	return "(octet_length(" + column + ") <> char_length(" + column + ") AND strpos(" + fold(column) + ", " + fold("CAST(? AS text)") + ") > 0)"
}

// after adds where the page starts. The comparison of rows is one both
// databases look up in an index on (tenant, column, id).
func (l *list) after(page string, descending bool) error {
	if page == "" {
		return nil
	}
	c, err := decodeCursor(page, l.sort, l.by)
	if err != nil {
		return fault.InvalidField("query.cursor", "%v", err)
	}
	than := ">"
	if descending {
		than = "<"
	}
	l.and("("+quote(l.by.name)+`, "id") `+than+" (?, ?)", c.Value, c.ID)
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
