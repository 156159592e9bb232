// Package kind describes resource kinds. A kind is a Go struct and a
// Definition made from it by Define; the api, the worker and the store work
// from the Definition alone, so none of them knows a kind by name.
package kind

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Meta is what every resource has. Embed it first.
type Meta struct {
	ID        string    `json:"id" readOnly:"true" doc:"A UUIDv7; a user's is Stytch's, a tenant's its key"`
	Tenant    string    `json:"tenant" readOnly:"true"`
	OwnerID   string    `json:"owner_id" minLength:"1" maxLength:"200" doc:"The principal that owns it: the one that created it unless an admin names another"`
	Version   int64     `json:"version" readOnly:"true" doc:"Counts the changes; the ETag"`
	CreatedAt time.Time `json:"created_at" readOnly:"true"`
	UpdatedAt time.Time `json:"updated_at" readOnly:"true"`
}

// Definition is a resource kind.
type Definition struct {
	Name   string // contact: in subjects, policies and decisions
	Plural string // contacts: in paths, and the table's name
	// Columns are the fields in the struct's order, Meta's first.
	Columns []Column
	// Search names the columns that ?q= looks into.
	Search []string

	// Inherited names the fields that a new row takes from the attributes of its
	// owner, unless the body names them.
	Inherited []string
	// Hidden are the fields that are left out of answers to those who may not see them.
	Hidden []Hidden

	meta     int      // the index of the struct's Meta
	defaults []Column // the ones that are not the zero value
	actions  []transition
	attrs    []string
	shared   string // the map whose keys are a row's tenants
	seenFrom string // the tenant that every row is in, too
	typ      reflect.Type
}

// Hidden is a field that takes an action of its own to see.
type Hidden struct{ Field, Action string }

// Column is one field of a kind: a JSON member and an SQL column of one name.
type Column struct {
	Name  string
	index []int
	typ   reflect.Type
	// def is the JSON of the field's default, nil for the zero value.
	def json.RawMessage
}

// Row is one resource: Value points to the kind's struct, Meta into it.
type Row struct {
	*Meta
	Value any
}

// MarshalJSON encodes the resource itself.
func (r Row) MarshalJSON() ([]byte, error) { return json.Marshal(r.Value) }

// Option adjusts a Definition.
type Option func(*Definition)

// Attr names the fields that policies see and that query plans may refer to,
// beside owner_id and tenant, which every kind has.
func Attr(names ...string) Option {
	return func(d *Definition) { d.attrs = append(d.attrs, names...) }
}

// Search names the string fields that ?q= looks into.
func Search(names ...string) Option {
	return func(d *Definition) { d.Search = append(d.Search, names...) }
}

// Plural sets the plural where it is not name + "s".
func Plural(name string) Option { return func(d *Definition) { d.Plural = name } }

// Inherit names string fields that a new row takes from its owner's attributes
// of the same names.
func Inherit(names ...string) Option {
	return func(d *Definition) { d.Inherited = append(d.Inherited, names...) }
}

// Hide leaves a nullable field out of answers where the policy denies action.
func Hide(field, action string) Option {
	return func(d *Definition) { d.Hidden = append(d.Hidden, Hidden{field, action}) }
}

// Define makes the Definition of T, a struct that embeds Meta. A field is
// described by its tags: json (the name), default, and the ones that the
// OpenAPI schema is made from (format, minLength, maxLength, enum, doc …).
// It panics when T or an option does not fit: kinds are defined at start.
func Define[T any](name string, opts ...Option) *Definition {
	d := &Definition{Name: name, Plural: name + "s", typ: reflect.TypeFor[T](), attrs: []string{"owner_id", "tenant"}}
	if f, ok := d.typ.FieldByName("Meta"); !ok || !f.Anonymous || f.Type != reflect.TypeFor[Meta]() {
		panic("kind " + name + ": the struct does not embed kind.Meta")
	} else {
		d.meta = f.Index[0]
	}
	for _, f := range reflect.VisibleFields(d.typ) {
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || tag == "" || tag == "-" {
			continue
		}
		if _, twice := d.Column(tag); twice {
			panic("kind " + name + ": two fields are called " + tag)
		}
		c := Column{Name: tag, index: f.Index, typ: f.Type}
		if def := f.Tag.Get("default"); def != "" {
			c.def = json.RawMessage(def)
			if f.Type.Kind() == reflect.String {
				c.def, _ = json.Marshal(def) // never fails: a string
			}
		}
		d.Columns = append(d.Columns, c)
		if c.def != nil {
			d.defaults = append(d.defaults, c)
		}
	}
	for _, o := range opts {
		o(d)
	}
	for _, n := range slices.Concat(d.attrs, d.Search) {
		if _, ok := d.Column(n); !ok {
			panic("kind " + name + ": no field " + n)
		}
	}
	for _, n := range d.Inherited {
		if c, ok := d.Column(n); !ok || c.elem().Kind() != reflect.String {
			panic("kind " + name + ": " + n + " is no text to inherit")
		}
	}
	for _, h := range d.Hidden {
		if c, ok := d.Column(h.Field); !ok || c.typ.Kind() != reflect.Pointer {
			panic("kind " + name + ": " + h.Field + " cannot be left out")
		}
	}
	for _, n := range d.Search {
		if c, _ := d.Column(n); c.typ.Kind() != reflect.String {
			panic("kind " + name + ": search in " + n + ", which is no string")
		}
	}
	d.checkTenancy()
	d.New() // panics when a default does not fit its field
	return d
}

// Type is the kind's struct.
func (d *Definition) Type() reflect.Type { return d.typ }

// AttrNames are the fields that policies see.
func (d *Definition) AttrNames() []string { return slices.Clone(d.attrs) }

// Column finds a column by name.
func (d *Definition) Column(name string) (Column, bool) {
	i := slices.IndexFunc(d.Columns, func(c Column) bool { return c.Name == name })
	if i < 0 {
		return Column{}, false
	}
	return d.Columns[i], true
}

// New makes an empty row with every default set.
func (d *Definition) New() Row {
	v := reflect.New(d.typ)
	for _, c := range d.defaults {
		c.reset(v.Elem())
	}
	return d.row(v)
}

func (d *Definition) row(v reflect.Value) Row {
	return Row{Meta: v.Elem().Field(d.meta).Addr().Interface().(*Meta), Value: v.Interface()}
}

// Decode makes a row from a create body. Members that the kind does not have
// are an error; a null stands for the field's default.
func (d *Definition) Decode(body json.RawMessage) (Row, error) {
	r := d.New()
	if _, err := d.set(r, body, Column.replace); err != nil {
		return Row{}, err
	}
	return r, nil
}

// Patch applies an RFC 7396 merge patch to a copy of the row and names the
// fields that it sets, sorted. A null sets the field's default.
func (d *Definition) Patch(r Row, patch json.RawMessage) (Row, []string, error) {
	v := reflect.New(d.typ)
	v.Elem().Set(reflect.ValueOf(r.Value).Elem())
	out := d.row(v)
	names, err := d.set(out, patch, Column.patch)
	if err != nil {
		return Row{}, nil, err
	}
	return out, names, nil
}

// Names gives the sorted member names of a JSON object.
func Names(object json.RawMessage) ([]string, error) {
	m, err := members(object)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(m)), nil
}

// set sets the fields that the object names and gives their names, sorted.
func (d *Definition) set(r Row, object json.RawMessage, one func(Column, reflect.Value, json.RawMessage) error) ([]string, error) {
	m, err := members(object)
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", d.Name, err)
	}
	v := reflect.ValueOf(r.Value).Elem()
	names := slices.Sorted(maps.Keys(m))
	for _, name := range names {
		c, ok := d.Column(name)
		if !ok {
			return nil, fmt.Errorf("decode %s: no field %q", d.Name, name)
		}
		if string(m[name]) == "null" {
			c.reset(v)
		} else if err := one(c, v, m[name]); err != nil {
			return nil, fmt.Errorf("decode %s: field %q: %w", d.Name, name, err)
		}
	}
	return names, nil
}

// Attrs gives the attributes of a row that policies see. A NULL is left out,
// as a missing attribute.
func (d *Definition) Attrs(r Row) map[string]any {
	v := reflect.ValueOf(r.Value).Elem()
	attrs := make(map[string]any, len(d.attrs)+1)
	for _, name := range d.attrs {
		c, _ := d.Column(name)
		f := v.FieldByIndex(c.index)
		if f.Kind() == reflect.Pointer {
			if f.IsNil() {
				continue
			}
			f = f.Elem()
		}
		attrs[name] = plain(f)
	}
	return attrs
}

// plain gives a value without its Go type: JSON and Cerbos know one kind of
// text and one kind of number.
func plain(f reflect.Value) any {
	if t, ok := f.Interface().(time.Time); ok {
		return t.UTC().Format(time.RFC3339Nano)
	}
	switch {
	case f.Kind() == reflect.String:
		return f.String()
	case f.Kind() == reflect.Bool:
		return f.Bool()
	case f.CanInt():
		return float64(f.Int())
	case f.CanUint():
		return float64(f.Uint())
	case f.CanFloat():
		return f.Float()
	}
	return f.Interface()
}

func (c Column) reset(v reflect.Value) {
	f := v.FieldByIndex(c.index)
	f.SetZero()
	if c.def == nil {
		return
	}
	if err := json.Unmarshal(c.def, f.Addr().Interface()); err != nil {
		panic(fmt.Sprintf("kind: default of %s: %v", c.Name, err))
	}
}

// Type is the field's Go type; a pointer when it may be NULL.
func (c Column) Type() reflect.Type { return c.typ }

// elem is the field's type without the pointer.
func (c Column) elem() reflect.Type {
	if c.typ.Kind() == reflect.Pointer {
		return c.typ.Elem()
	}
	return c.typ
}
