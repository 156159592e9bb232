package server

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/tenant"
	"github.com/writ-project/writ/pkg/kind/user"
)

// includePermissions is the value of ?include= that asks for permissions.
const includePermissions = "permissions"

// permitted are the actions that ?include=permissions tells about.
func permitted(d *kind.Definition) []string {
	switch d {
	case user.Kind:
		return []string{kind.ActionRead, kind.ActionDelete, user.ActionRoles}
	case tenant.Kind:
		return []string{kind.ActionRead, kind.ActionUpdate, tenant.ActionMembers}
	}
	return append([]string{kind.ActionRead, kind.ActionUpdate, kind.ActionDelete}, d.Actions()...)
}

// present makes rows ready to be shown: fields that take an action of their own
// to see are left out where it is denied, and permissions are added where they
// are asked for. One check and one append for all rows, none where the kind
// hides nothing and nobody asked. tenants are as for seen.
func (k *resources) present(ctx context.Context, c *gate.Caller, rows []kind.Row, permissions bool, tenants ...string) ([]any, error) {
	out := make([]any, len(rows))
	var actions []string
	visible := seen(c, rows, tenants...)
	for _, h := range k.def.Hidden {
		actions = append(actions, h.Action)
	}
	if permissions {
		actions = append(actions, permitted(k.def)...)
	}
	if len(actions) == 0 || len(rows) == 0 {
		for i, r := range visible {
			out[i] = r
		}
		return out, nil
	}
	items := make([]authz.Item, len(rows))
	for i, r := range rows {
		items[i] = authz.Item{
			Resource: events.Resource{Kind: k.def.Name, ID: r.ID, Version: r.Version, Attr: permissionAttrs(c, k.def, r)},
			Actions:  actions,
		}
	}
	answers, err := k.checkAll(ctx, c, items)
	if err != nil {
		return nil, err
	}
	for i, r := range visible {
		if out[i], err = k.show(r, answers[i], permissions); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// seen leaves out of users what they are in tenants other than these, the
// caller's if none is named: it is not their business. Oneself sees everything.
func seen(c *gate.Caller, rows []kind.Row, tenants ...string) []kind.Row {
	if len(tenants) == 0 {
		tenants = []string{c.Tenant}
	}
	out := slices.Clone(rows)
	for i, r := range rows {
		if u, ok := r.Value.(*user.User); ok && u.ID != c.ID {
			u = u.Seen(tenants...)
			out[i] = kind.Row{Meta: &u.Meta, Value: u}
		}
	}
	return out
}

// attrs gives the attributes of a row for a decision.
func attrs(c *gate.Caller, d *kind.Definition, r kind.Row) map[string]any {
	switch v := r.Value.(type) {
	case *user.User:
		return user.Attrs(v, c.Tenant)
	case *tenant.Tenant:
		return tenant.Attrs(v.Key, v.OwnerID)
	}
	return d.Attrs(r)
}

// permissionAttrs is attrs for what somebody may do with a row, without saying what exactly.
func permissionAttrs(c *gate.Caller, d *kind.Definition, r kind.Row) map[string]any {
	switch v := r.Value.(type) {
	case *user.User:
		return user.RolesAttrs(v, c.Tenant, user.RolesChange{Tenant: c.Tenant}, false)
	case *tenant.Tenant:
		return tenant.Attrs(v.Key, v.OwnerID)
	}
	return d.ChangeAttrs(r, nil)
}

// show encodes one row as the answer allows.
func (k *resources) show(r kind.Row, answer authz.Answer, permissions bool) (any, error) {
	for _, h := range k.def.Hidden {
		if !answer.Allowed(h.Action) {
			r = k.def.Without(r, h.Field)
		}
	}
	if !permissions {
		return r, nil
	}
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	may := map[string]bool{}
	for _, a := range permitted(k.def) {
		may[a] = answer.Allowed(a)
	}
	extra, err := json.Marshal(may)
	if err != nil {
		return nil, err
	}
	// The row is an object with members: the permissions become its last one.
	return json.RawMessage(slices.Concat(b[:len(b)-1], []byte(`,"permissions":`), extra, []byte("}"))), nil
}
