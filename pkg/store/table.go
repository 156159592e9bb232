package store

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/writ-project/writ/pkg/kind"
)

// class is how a column's values look in SQL.
type class uint8

const (
	text class = iota
	integer
	float
	boolean
	instant
	document // JSON: neither sorted nor compared
)

// field is a column as lists use it.
type field struct {
	name     string
	index    int // in Definition.Columns
	class    class
	nullable bool
	sortable bool
}

// longText is from which declared maximum length on a text is not sorted by:
// the value of a page's last row travels in the cursor.
const longText = 1000

// table is what the store works out once per kind.
type table struct {
	name    string   // quoted
	columns []string // quoted, in Definition.Columns' order; "id" is among them
	by      string   // the unique column, quoted, by which rows are found; "" for "id"
	types   []string // PostgreSQL's, of the columns
	fields  map[string]field
	members *table // which tenants a row is in, for rows that may be in several

	// fresh makes a new row, says where its id will be, and what Scan fills.
	fresh func() (row any, id *string, dest []any)

	shapes sync.Map // shape → SQL
}

// shape is one of the few sizes in which a statement over n rows exists. The one
// for 0 is PostgreSQL's: it takes an array of any length for each parameter, so
// that there is one statement, planned once.
type shape struct {
	verb string
	n    int
}

func (s *Store) table(def *kind.Definition) *table {
	if t, ok := s.tables.Load(def); ok {
		return t.(*table)
	}
	t := newTable(def)
	s.tables.Store(def, t)
	return t
}

func newTable(def *kind.Definition) *table {
	byName := map[string]reflect.StructField{}
	for _, f := range reflect.VisibleFields(def.Type()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		byName[name] = f
	}
	t := &table{name: quote(def.Plural), fields: map[string]field{}}
	for i, c := range def.Columns {
		f := newField(c.Name, i, byName[c.Name])
		t.columns = append(t.columns, quote(c.Name))
		t.types = append(t.types, postgresTypes[f.class])
		t.fields[c.Name] = f
	}
	t.fresh = func() (any, *string, []any) {
		row := def.New()
		return row, &row.ID, def.Dest(row)
	}
	if def.Shared() {
		t.members = &table{name: quote(def.Plural + "_tenants"), columns: []string{`"tenant"`, `"id"`}, types: []string{"text", "text"}}
	}
	return t
}

var postgresTypes = map[class]string{text: "text", integer: "bigint", float: "double precision", boolean: "boolean", instant: "bigint", document: "text"}

func newField(name string, index int, sf reflect.StructField) field {
	f := field{name: name, index: index}
	typ := sf.Type
	if typ.Kind() == reflect.Pointer {
		f.nullable, typ = true, typ.Elem()
	}
	switch k := typ.Kind(); {
	case typ == reflect.TypeFor[time.Time]():
		f.class = instant
	case k == reflect.String:
		f.class = text
	case k == reflect.Bool:
		f.class = boolean
	case k == reflect.Float32 || k == reflect.Float64:
		f.class = float
	case k >= reflect.Int && k <= reflect.Uint64:
		f.class = integer
	default:
		f.class = document
	}
	limit, err := strconv.Atoi(sf.Tag.Get("maxLength"))
	long := err == nil && limit > longText
	f.sortable = !f.nullable && f.class != document && !long
	return f
}

func (t *table) list() string { return strings.Join(t.columns, ", ") }

// sql gives the statement for n rows, made once.
func (t *table) sql(verb string, n int, make func() string) string {
	key := shape{verb, n}
	if q, ok := t.shapes.Load(key); ok {
		return q.(string)
	}
	q, _ := t.shapes.LoadOrStore(key, make())
	return q.(string)
}

func (t *table) selectRows(n int) string {
	return t.sql("select", n, func() string {
		return "SELECT " + t.list() + " FROM " + t.name + " WHERE " + cmp.Or(t.by, `"id"`) + " " + in(n)
	})
}

func (t *table) deleteRows(n int) string {
	return t.sql("delete", n, func() string { return "DELETE FROM " + t.name + ` WHERE "id" ` + in(n) })
}

// insertRows is an INSERT of n rows that are not there.
func (t *table) insertRows(n int) string {
	return t.sql("insert", n, func() string {
		into := "INSERT INTO " + t.name + " (" + t.list() + ") "
		if n > 0 {
			row := "(" + marks(len(t.columns)) + ")"
			return into + "VALUES " + row + strings.Repeat(", "+row, n-1)
		}
		arrays := make([]string, len(t.columns))
		for i, typ := range t.types {
			arrays[i] = "$" + strconv.Itoa(i+1) + "::" + typ + "[]"
		}
		return into + "SELECT * FROM unnest(" + strings.Join(arrays, ", ") + ")"
	})
}

// addRows is an INSERT of n rows that leaves the ones whose "id" exists alone.
func (t *table) addRows(n int) string {
	return t.sql("add", n, func() string { return t.insertRows(n) + " ON CONFLICT DO NOTHING" })
}

// putRows is an INSERT of n rows that replaces the ones whose "id" exists.
func (t *table) putRows(n int) string {
	return t.sql("put", n, func() string {
		var set []string
		for _, c := range t.columns {
			if c != `"id"` {
				set = append(set, c+" = excluded."+c)
			}
		}
		return t.insertRows(n) + ` ON CONFLICT ("id") DO UPDATE SET ` + strings.Join(set, ", ")
	})
}

func in(n int) string {
	if n == 0 {
		return "= ANY($1)"
	}
	return "IN (" + marks(n) + ")"
}

// argument turns a filter's value into what the column is compared with. Go's
// own types and what encoding/json makes of JSON are taken.
func (f field) argument(v any) (any, error) {
	switch x := v.(type) {
	case string:
		if f.class == text && storable(x) {
			return x, nil
		}
		if f.class == instant {
			at, err := time.Parse(time.RFC3339Nano, x)
			if err != nil {
				return nil, fmt.Errorf("must be a time as in RFC 3339")
			}
			return kind.ToMicros(at), nil
		}
	case bool:
		if f.class == boolean {
			return x, nil
		}
	case time.Time:
		if f.class == instant {
			return kind.ToMicros(x), nil
		}
	case json.Number:
		if n, err := x.Int64(); err == nil && (f.class == integer || f.class == instant) {
			return n, nil
		}
		if n, err := x.Float64(); err == nil && f.class == float {
			return n, nil
		}
	case float64:
		if f.class == float {
			return x, nil
		}
		if f.class == integer && x == math.Trunc(x) && math.Abs(x) < 1<<53 {
			return int64(x), nil
		}
	default:
		if n := reflect.ValueOf(v); n.IsValid() && n.CanInt() && f.class == integer {
			return n.Int(), nil
		}
	}
	return nil, fmt.Errorf("does not fit the field")
}

// maxRows is how many rows one statement takes on SQLite. With SQLite's 32,766
// parameters (https://sqlite.org/limits.html) that leaves room for 127 columns.
const maxRows = 256

// chunks cuts n rows into few sizes, powers of two, so that the statements are
// few and can stay prepared: 300 is 256, 32, 8 and 4.
func chunks(n int) []int {
	var out []int
	for size := maxRows; n > 0; {
		for size > n {
			size /= 2
		}
		out = append(out, size)
		n -= size
	}
	return out
}

// padded gives the arguments for a list of ids, filled up to a power of two by
// repeating the last one: IN does not mind.
func padded(ids []string) []any {
	size := 1
	for size < len(ids) {
		size *= 2
	}
	out := make([]any, size)
	for i := range out {
		out[i] = ids[min(i, len(ids)-1)]
	}
	return out
}

// latest drops all but the last of the items with one id, and keeps the order:
// PostgreSQL refuses to touch a row twice in one statement.
func latest[T any](items []T, id func(T) string) []T {
	last := make(map[string]int, len(items))
	for i, item := range items {
		last[id(item)] = i
	}
	if len(last) == len(items) {
		return items
	}
	out := make([]T, 0, len(last))
	for i, item := range items {
		if last[id(item)] == i {
			out = append(out, item)
		}
	}
	return out
}

func marks(n int) string { return "?" + strings.Repeat(", ?", n-1) }

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// storable reports whether both databases can hold the text. PostgreSQL cannot
// hold NUL or invalid UTF-8; what one refuses, both do.
func storable(s string) bool { return strings.IndexByte(s, 0) < 0 && utf8.ValidString(s) }

func allStorable(args []any) bool {
	return !slices.ContainsFunc(args, func(a any) bool {
		s, ok := a.(string)
		return ok && !storable(s)
	})
}
