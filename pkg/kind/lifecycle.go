package kind

import (
	"encoding/json"
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
// an owner.
func (d *Definition) Update(r Row, patch json.RawMessage, at time.Time) (Row, error) {
	next, _, err := d.Patch(r, patch)
	if err != nil {
		return Row{}, err
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

// UpdateAttrs gives the attributes for a decision about an update: the row's,
// and changes, the names of the fields that the patch would set.
func (d *Definition) UpdateAttrs(r Row, patch json.RawMessage) (map[string]any, error) {
	names, err := Names(patch)
	if err != nil {
		return nil, err
	}
	attrs := d.Attrs(r)
	changes := make([]any, len(names))
	for i, n := range names {
		changes[i] = n
	}
	attrs["changes"] = changes
	return attrs, nil
}
