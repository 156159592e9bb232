package kind

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"reflect"
	"time"
)

// Times are kept in SQL as whole microseconds since the Unix epoch (BIGINT):
// the same type, order and precision in SQLite and PostgreSQL. Lists, maps and
// structs are kept as JSON text, pointers as NULL or their value.

// ToMicros is how a time is kept in SQL.
func ToMicros(t time.Time) int64 { return t.UnixMicro() }

// FromMicros reads a time as it is kept in SQL.
func FromMicros(us int64) time.Time { return time.UnixMicro(us).UTC() }

// Values gives the row's columns as SQL values, in the order of Columns.
func (d *Definition) Values(r Row) []any {
	v := reflect.ValueOf(r.Value).Elem()
	out := make([]any, len(d.Columns))
	for i, c := range d.Columns {
		out[i] = value(v.FieldByIndex(c.index))
	}
	return out
}

func value(f reflect.Value) any {
	if f.Kind() == reflect.Pointer {
		if f.IsNil() {
			return nil
		}
		f = f.Elem()
	}
	if t, ok := f.Interface().(time.Time); ok {
		return ToMicros(t)
	}
	switch f.Kind() {
	case reflect.Map, reflect.Slice, reflect.Struct:
		b, err := json.Marshal(f.Interface())
		if err != nil {
			panic(fmt.Sprintf("kind: encode %s: %v", f.Type(), err)) // a defect of the kind's struct
		}
		return string(b)
	default:
		return f.Interface()
	}
}

// Dest gives what Rows.Scan writes the columns into, in the order of Columns.
func (d *Definition) Dest(r Row) []any {
	v := reflect.ValueOf(r.Value).Elem()
	out := make([]any, len(d.Columns))
	for i, c := range d.Columns {
		f := v.FieldByIndex(c.index)
		switch p := f.Addr().Interface().(type) {
		case *time.Time:
			out[i] = timeDest{p}
		case **time.Time:
			out[i] = nullTimeDest{p}
		default:
			switch f.Kind() {
			case reflect.Map, reflect.Slice, reflect.Struct:
				out[i] = jsonDest{f}
			default:
				out[i] = p
			}
		}
	}
	return out
}

type jsonDest struct{ into reflect.Value }

// Scan implements sql.Scanner.
func (s jsonDest) Scan(src any) error {
	s.into.SetZero() // json.Unmarshal would add to a default that is a map
	switch x := src.(type) {
	case string:
		return json.Unmarshal([]byte(x), s.into.Addr().Interface())
	case []byte:
		return json.Unmarshal(x, s.into.Addr().Interface())
	}
	return fmt.Errorf("scan JSON from %T", src)
}

type timeDest struct{ t *time.Time }

// Scan implements sql.Scanner.
func (s timeDest) Scan(src any) error {
	us, ok := src.(int64)
	if !ok {
		return fmt.Errorf("scan a time from %T", src)
	}
	*s.t = FromMicros(us)
	return nil
}

type nullTimeDest struct{ t **time.Time }

// Scan implements sql.Scanner.
func (s nullTimeDest) Scan(src any) error {
	if src == nil {
		*s.t = nil
		return nil
	}
	var t time.Time
	if err := (timeDest{&t}).Scan(src); err != nil {
		return err
	}
	*s.t = &t
	return nil
}

var (
	_ sql.Scanner = timeDest{}
	_ sql.Scanner = nullTimeDest{}
	_ sql.Scanner = jsonDest{}
)
