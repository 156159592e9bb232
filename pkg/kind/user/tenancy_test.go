package user_test

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"testing"

	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
)

func as(tenants map[string]user.Membership) *user.User {
	return &user.User{Meta: kind.Meta{ID: "u1", Tenant: user.DefaultTenant, OwnerID: "u1"}, FirstName: "Old", LastName: "Name", Tenants: tenants, RolesCommand: "c1"}
}

func of(names ...string) user.Membership { return user.Membership{Roles: names} }

func TestWhoIsInNoTenantIsInTheDefaultOne(t *testing.T) {
	for _, c := range []struct {
		tenants map[string]user.Membership
		in      []string
	}{
		{nil, []string{"default"}},
		{map[string]user.Membership{}, []string{"default"}},
		{map[string]user.Membership{"acme": of("user")}, []string{"acme"}},
		{map[string]user.Membership{"acme": of("user"), "default": of("guest")}, []string{"acme", "default"}},
	} {
		u := as(c.tenants)
		row := kind.Row{Meta: &u.Meta, Value: u}
		if got := user.Kind.Tenants(row); !slices.Equal(got, c.in) {
			t.Errorf("%v is in %v", c.tenants, got)
		}
		for _, tenant := range []string{"acme", "default", "globex"} {
			if want := slices.Contains(c.in, tenant); u.Is(tenant) != want || user.Kind.In(row, tenant) != want {
				t.Errorf("%v in %s: %v %v", c.tenants, tenant, u.Is(tenant), user.Kind.In(row, tenant))
			}
			// Policies never see somebody else's user as one of the request's tenant.
			if got := user.Attrs(u, tenant)["tenant"]; (got == tenant) != slices.Contains(c.in, tenant) {
				t.Errorf("%v asked about in %s: %v", c.tenants, tenant, got)
			}
		}
	}
}

func TestOneTenantDoesNotSeeAnother(t *testing.T) {
	u := as(map[string]user.Membership{"acme": of("user"), "globex": of("admin")})
	if s := u.Seen("acme"); !reflect.DeepEqual(s.Tenants, map[string]user.Membership{"acme": of("user")}) || s.RolesCommand != "" || len(u.Tenants) != 2 {
		t.Errorf("%+v", s)
	}
	if s := u.Seen("initech"); len(s.Tenants) != 0 {
		t.Errorf("%+v", s)
	}
}

func TestAfterACreate(t *testing.T) {
	n := user.New{Email: "a@example.com", FirstName: "New"}
	shared := map[string]user.Membership{"acme": of("user"), "globex": of("admin")}
	for _, c := range []struct {
		what, tenant, first, last string
		is                        *user.User
		tenants                   map[string]user.Membership
	}{
		{"nobody", "acme", "New", "", nil, map[string]user.Membership{"acme": of("guest")}},
		{"nobody, in default", "default", "New", "", nil, map[string]user.Membership{"default": of("guest")}},
		{"one's own", "acme", "New", "Name", as(map[string]user.Membership{"acme": of("user")}), map[string]user.Membership{"acme": of("user")}},
		{"another's", "acme", "Old", "Name", as(map[string]user.Membership{"globex": of("user")}), map[string]user.Membership{"globex": of("user"), "acme": of("guest")}},
		{"one of two", "acme", "Old", "Name", as(shared), shared},
		{"one of two, by default", "default", "New", "Name", as(shared), map[string]user.Membership{"acme": of("user"), "globex": of("admin"), "default": of("guest")}},
		{"of no tenant, so of default", "acme", "Old", "Name", as(nil), map[string]user.Membership{"default": of("guest"), "acme": of("guest")}},
		{"of no tenant, by default", "default", "New", "Name", as(nil), map[string]user.Membership{"default": of("guest")}},
	} {
		first, last, tenants := n.After(c.is, c.tenant)
		if first != c.first || last != c.last || !reflect.DeepEqual(tenants, c.tenants) {
			t.Errorf("%s: %s %s %v", c.what, first, last, tenants)
		}
	}
	if len(shared) != 2 {
		t.Error("the row's map was changed")
	}
	// Whoever signed in once and was given nothing cannot be deleted by a tenant whose admin knows the address.
	_, _, tenants := n.After(as(nil), "acme")
	if attrs := user.Attrs(as(tenants), "acme"); attrs["tenant"] != "acme" || attrs[user.AttrElsewhere] != true {
		t.Errorf("%v", attrs)
	}
}

// The ways in which a policy names roles.
var (
	listed   = regexp.MustCompile(`(?m)^\s*(?:- )?(?:roles|parentRoles): \[([^\]]*)\]|hasIntersection\(P\.roles, \[([^\]]*)\]\)`)
	compared = regexp.MustCompile(`"(\w+)" in P\.roles|role [!=]= "(\w+)"`)
	name     = regexp.MustCompile(`[\w*]+`)
)

// TestRolesAreThoseOfThePolicies: a role that can be given means something, and what means something can be given.
func TestRolesAreThoseOfThePolicies(t *testing.T) {
	found := map[string]bool{}
	for _, pattern := range []string{"*.yaml", "derived_roles/*.yaml", "acme/*.yaml", "principals/*.yaml"} {
		files, err := filepath.Glob(filepath.Join("../../../policies", pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range listed.FindAllStringSubmatch(string(text), -1) {
				for _, n := range name.FindAllString(m[1]+" "+m[2], -1) {
					found[n] = true
				}
			}
			for _, m := range compared.FindAllStringSubmatch(string(text), -1) {
				found[m[1]+m[2]] = true
			}
		}
	}
	delete(found, "*")
	if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, user.Roles) {
		t.Errorf("the policies know %v, and %v can be given", got, user.Roles)
	}
}
