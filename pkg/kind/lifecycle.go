package kind

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"
)

// The actions that every kind has.
const (
	ActionCreate = "create"
	ActionRead   = "read"
	ActionList   = "list"
	ActionUpdate = "update"
	ActionDelete = "delete"
)

// Create makes the row that a create command asks for, at version 1. It
// belongs to owner unless the body names another.
func (d *Definition) Create(id, tenant, owner string, body json.RawMessage, at time.Time) (Row, error) {
	r, err := d.Decode(body)
	if err != nil {
		return Row{}, err
	}
	r.ID, r.Tenant, r.Version = id, tenant, 1
	if r.OwnerID == "" {
		r.OwnerID = owner
	}
	r.CreatedAt, r.UpdatedAt = stamp(at), stamp(at)
	return r, nil
}

// Update makes the row that an update command leaves behind: the merge patch
// applied, the version counted up. Time never runs backwards for a row, and
// what Meta holds, the owner aside, is not the patch's to set; a row always has
// an owner. A patch without members changes nothing, and makes no new version.
func (d *Definition) Update(r Row, patch json.RawMessage, at time.Time) (Row, error) {
	next, names, err := d.Patch(r, patch)
	if err != nil || len(names) == 0 {
		return next, err
	}
	owner := next.OwnerID
	*next.Meta = *r.Meta
	if owner != "" {
		next.OwnerID = owner
	}
	next.Version++
	if at = stamp(at); at.After(r.UpdatedAt) {
		next.UpdatedAt = at
	}
	return next, nil
}

// stamp gives a time the precision that SQL keeps.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// ChangeAttrs gives the attributes for a decision about a create or an update:
// the row's, and changes, the names of the fields that the client sets.
func (d *Definition) ChangeAttrs(r Row, changes []string) map[string]any {
	attrs := d.Attrs(r)
	names := make([]any, len(changes))
	for i, n := range changes {
		names[i] = n
	}
	attrs["changes"] = names
	return attrs
}

// Complete adds the inherited fields to a create body: those of attr that the
// body does not name and that are text.
func (d *Definition) Complete(body json.RawMessage, attr map[string]any) (json.RawMessage, error) {
	m, err := members(body)
	if err != nil {
		return nil, err
	}
	added := false
	for _, n := range d.Inherited {
		text, ok := attr[n].(string)
		if _, named := m[n]; named || !ok {
			continue
		}
		if m[n], err = json.Marshal(text); err != nil {
			return nil, err
		}
		added = true
	}
	if !added {
		return body, nil
	}
	return json.Marshal(m)
}

// Without gives a copy of the row with a nullable field left out.
func (d *Definition) Without(r Row, field string) Row {
	v := reflect.New(d.typ)
	v.Elem().Set(reflect.ValueOf(r.Value).Elem())
	if c, ok := d.Column(field); ok {
		v.Elem().FieldByIndex(c.index).SetZero()
	}
	return d.row(v)
}

// Parse reads a row as MarshalJSON writes it.
func (d *Definition) Parse(raw json.RawMessage) (Row, error) {
	v := reflect.New(d.typ)
	if err := json.Unmarshal(raw, v.Interface()); err != nil {
		return Row{}, fmt.Errorf("read a %s: %w", d.Name, err)
	}
	return d.row(v), nil
}
