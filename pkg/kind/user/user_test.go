package user_test

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
)

var at = time.Date(2026, 3, 4, 5, 6, 7, 123456789, time.UTC)

func sync(t *testing.T, text string) user.Sync {
	t.Helper()
	var s user.Sync
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// stored is the row as it is read back from SQL.
func stored(t *testing.T, r *kind.Row) *kind.Row {
	t.Helper()
	out := user.Kind.New()
	b, err := json.Marshal(r)
	if err == nil {
		err = json.Unmarshal(b, out.Value)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &out
}

func TestSyncCountsChangesOnly(t *testing.T) {
	s := sync(t, `{"email":"a@example.org","tenants":{"acme":{"roles":["member"],"attr":{}},"globex":{"roles":[]}}}`)
	row := s.Apply(nil, "u1", at)
	want := kind.Meta{ID: "u1", Tenant: user.DefaultTenant, OwnerID: "u1", Version: 1, CreatedAt: at.Truncate(time.Microsecond), UpdatedAt: at.Truncate(time.Microsecond)}
	if *row.Meta != want {
		t.Errorf("%+v, want %+v", *row.Meta, want)
	}
	row = stored(t, row)
	if again := s.Apply(row, "u1", at.Add(time.Hour)); again != row {
		t.Errorf("the same again made version %d", again.Version)
	}
	s.Tenants["acme"] = user.Membership{Roles: []string{"admin"}}
	next := s.Apply(row, "u1", at.Add(-time.Hour))
	if next.Version != 2 || next.UpdatedAt.Before(row.UpdatedAt) || next.CreatedAt != row.CreatedAt {
		t.Errorf("%+v after %+v", *next.Meta, *row.Meta)
	}
	if roles, _ := row.Value.(*user.User).In("acme"); !reflect.DeepEqual(roles, []string{"member"}) {
		t.Errorf("the old row's roles became %v", roles)
	}
	if u := (user.Sync{}).Apply(nil, "u2", at).Value.(*user.User); u.Tenants == nil {
		t.Error("no tenants are NULL")
	}
}

func TestWhoIsNobodyIsAGuest(t *testing.T) {
	u := &user.User{Tenants: map[string]user.Membership{
		"acme": {Roles: []string{"member"}, Attr: map[string]any{"team": "a"}}, "bare": {Roles: []string{"member"}}, "left": {Attr: map[string]any{"team": "a"}},
	}}
	for tenant, want := range map[string]struct {
		roles []string
		attr  map[string]any
	}{
		"acme":  {[]string{"member"}, map[string]any{"team": "a"}},
		"bare":  {[]string{"member"}, map[string]any{}},
		"left":  {[]string{user.Guest}, map[string]any{}},
		"other": {[]string{user.Guest}, map[string]any{}},
	} {
		roles, attr := u.In(tenant)
		if !reflect.DeepEqual(roles, want.roles) || !reflect.DeepEqual(attr, want.attr) {
			t.Errorf("%s: %v %v", tenant, roles, attr)
		}
		roles[0], attr["team"] = "changed", "changed"
	}
	if roles, attr := u.In("acme"); roles[0] != "member" || attr["team"] != "a" {
		t.Error("the row can be changed through what In gave")
	}
}
