package user_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-project/writ/pkg/kind/user"
)

func in(roles ...string) map[string]user.Membership {
	return map[string]user.Membership{user.DefaultTenant: {Roles: roles}}
}

// TestSyncFromBeforeARoleChange: what Stytch said before a role change, or in
// the middle of one, is no news about the memberships; the rest of it is.
func TestSyncFromBeforeARoleChange(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	first := user.Sync{Email: "a@example.com", Tenants: in("admin")}
	seen := first.Apply(nil, "u", at)
	changed := user.Sync{Email: "a@example.com", Tenants: in("user"), RolesCommand: "c1"}
	if u := changed.Apply(seen, "u", at).Value.(*user.User); !cmp.Equal(u.Tenants, in("admin")) || u.RolesCommand != "" {
		t.Fatalf("a sync in the middle of a role change took its memberships over: %+v", u)
	}
	row := changed.Becomes(seen, "u", at)
	if u := row.Value.(*user.User); !cmp.Equal(u.Tenants, in("user")) || u.RolesCommand != "c1" || row.Version != 2 {
		t.Fatalf("%+v", u)
	}
	late := first
	late.FirstName = "Ann"
	next := late.Apply(row, "u", at)
	if u := next.Value.(*user.User); !cmp.Equal(u.Tenants, in("user")) || u.RolesCommand != "c1" || u.FirstName != "Ann" {
		t.Fatalf("a sync from before the role change: %+v", u)
	}
	// By hand at Stytch, with the command's mark left as it was.
	byHand := user.Sync{Email: "a@example.com", Tenants: in("manager"), RolesCommand: "c1"}
	if u := byHand.Apply(next, "u", at).Value.(*user.User); !cmp.Equal(u.Tenants, in("manager")) {
		t.Fatalf("a change made by hand: %+v", u)
	}
	if again := changed.Becomes(row, "u", at); again != row {
		t.Fatal("a repeat changed the row")
	}
}

func TestNewIDTellsNobody(t *testing.T) {
	if a, b := user.NewID("John@example.com"), user.NewID(" john@EXAMPLE.com "); a != b || len(a) != len("new-0123") {
		t.Fatal(a, b)
	}
}
