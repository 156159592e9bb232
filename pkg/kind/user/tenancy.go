package user

import (
	"maps"
	"slices"

	"github.com/writ-project/writ/pkg/kind"
)

// System is the principal of what the api does of itself: it brings the
// directory up to date when Stytch says that something has changed, and makes
// the first admin. No user has this id, and the policy says what it may do.
const System = "writ"

// Roles are the roles that can be given: those that the policies know. One of
// them is Guest: a member who may do nothing yet.
var Roles = []string{RoleAdmin, "auditor", "finance", Guest, "manager", "user"}

// Is reports whether the user is in the tenant. Who is in none is in
// DefaultTenant (kind.SharedBy).
func (u *User) Is(tenant string) bool { return slices.Contains(u.tenants(), tenant) }

// tenants names the tenants that the user is in, sorted; never none.
func (u *User) tenants() []string {
	if len(u.Tenants) == 0 {
		return []string{DefaultTenant}
	}
	return slices.Sorted(maps.Keys(u.Tenants))
}

// Elsewhere reports whether the user is in another tenant than this one.
func (u *User) Elsewhere(tenant string) bool {
	return slices.ContainsFunc(u.tenants(), func(t string) bool { return t != tenant })
}

// Unseen are the fields that Seen leaves out: they tell of commands in any tenant.
var Unseen = []string{"roles_command", "synced"}

// Seen gives a copy of the user as these tenants see them: what they are in
// others is not their business.
func (u *User) Seen(tenants ...string) *User {
	out := *u
	out.RolesCommand, out.Synced = "", ""
	out.Tenants = map[string]Membership{}
	for _, t := range tenants {
		if m, ok := u.Tenants[t]; ok {
			out.Tenants[t] = m
		}
	}
	return &out
}

// After gives the name and the memberships of a user whom a create command
// makes or finds (u as Stytch knows them, nil for nobody). They become a guest
// of the command's tenant, so that its admins can see them and give them roles.
// The name of somebody who is in other tenants is not for one tenant to change,
// except for the default one. Who was in the default tenant for being in no other
// is from now on by name: else whoever knows an address could take its user out
// of there, rename and delete them.
func (n New) After(u *User, tenant string) (first, last string, tenants map[string]Membership) {
	made := u == nil
	if made {
		u = &User{}
	}
	first, last = u.FirstName, u.LastName
	if made || tenant == DefaultTenant || !u.Elsewhere(tenant) {
		if n.FirstName != "" {
			first = n.FirstName
		}
		if n.LastName != "" {
			last = n.LastName
		}
	}
	if tenants = maps.Clone(u.Tenants); tenants == nil {
		tenants = map[string]Membership{}
	}
	if len(tenants) == 0 && !made {
		tenants[DefaultTenant] = Membership{Roles: []string{Guest}}
	}
	if _, is := tenants[tenant]; !is {
		tenants[tenant] = Membership{Roles: []string{Guest}}
	}
	return first, last, tenants
}

// Attributes of a directory row that only decisions have.
const (
	// AttrMembership is what a roles or bootstrap command makes of the user:
	// {"tenant": …, "roles": […]}.
	AttrMembership = "membership"
	// AttrElsewhere says that the user is in other tenants as well.
	AttrElsewhere = "elsewhere"
	// AttrFirst says that tenant default has no admin yet.
	AttrFirst = "first_admin"
)

// Attrs gives the attributes for a decision about a user in a tenant: u is nil
// for one who is not in the directory. A user who is not in that tenant belongs
// to one of their own, so that policies see another tenant.
func Attrs(u *User, tenant string) map[string]any {
	attrs := map[string]any{"tenant": tenant}
	if u == nil {
		return attrs
	}
	attrs["owner_id"] = u.ID
	attrs[AttrElsewhere] = u.Elsewhere(tenant)
	if !u.Is(tenant) {
		attrs["tenant"] = u.tenants()[0]
	}
	return attrs
}

// RolesAttrs is Attrs for a roles or bootstrap command. A change about another
// tenant is one of a user of that tenant, if they are in it and not in the
// request's; first says that tenant default has no admin.
func RolesAttrs(u *User, tenant string, change RolesChange, first bool) map[string]any {
	in := change.In()
	attrs := Attrs(u, tenant)
	switch {
	case first: // comes from outside
		attrs["tenant"] = tenant
	case u != nil && !u.Is(tenant) && u.Is(in):
		attrs["tenant"] = in
	}
	roles := make([]any, len(change.Roles))
	for i, r := range change.Roles {
		roles[i] = r
	}
	attrs[AttrMembership] = map[string]any{"tenant": in, "roles": roles}
	attrs[AttrFirst] = first
	return attrs
}

// In is the tenant that the change is about.
func (c RolesChange) In() string {
	if c.Tenant == "" {
		return DefaultTenant
	}
	return c.Tenant
}

// IsAdmin reports whether a row of the directory is an admin of the tenant.
func IsAdmin(r kind.Row, tenant string) bool {
	u, ok := r.Value.(*User)
	return ok && slices.Contains(u.Tenants[tenant].Roles, RoleAdmin)
}
