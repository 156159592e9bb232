package identity_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind/user"
)

func TestUserRoundTrip(t *testing.T) {
	s, ctx := start(t), t.Context()
	tenants := map[string]user.Membership{
		"default": {Roles: []string{"user", "manager"}, Attr: map[string]any{"region": "eu-east-1"}},
		"acme":    {Roles: []string{"admin"}},
	}
	made, err := s.CreateUser(ctx, identity.User{Email: "John@example.com", FirstName: "John", LastName: "Doe", Tenants: tenants})
	if err != nil {
		t.Fatal(err)
	}
	want := identity.User{ID: made.ID, Email: "john@example.com", FirstName: "John", LastName: "Doe", Tenants: tenants}
	byID, err := s.User(ctx, made.ID)
	if err != nil {
		t.Fatal(err)
	}
	byEmail, err := s.UserByEmail(ctx, "JOHN@example.com")
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []identity.User{made, byID, byEmail} {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	}
	_, err = s.CreateUser(ctx, identity.User{Email: "john@example.com"})
	wantFault(t, err, fault.KindConflict, "duplicate-email")
	_, err = s.UserByEmail(ctx, "nobody@example.com")
	wantFault(t, err, fault.NotFound, "not-found")

	if err := s.DeleteUser(ctx, made.ID); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{made.ID, "", "search", "../sessions"} {
		_, err = s.User(ctx, id)
		wantFault(t, err, fault.NotFound, "not-found")
		wantFault(t, s.DeleteUser(ctx, id), fault.NotFound, "not-found")
	}
}

func TestUpdateUser(t *testing.T) {
	s, ctx := start(t), t.Context()
	u, err := s.CreateUser(ctx, identity.User{Email: "rim@example.com", FirstName: "Rim", LastName: "User", Tenants: map[string]user.Membership{
		"default": {Roles: []string{"user"}, Attr: map[string]any{"region": "us-east-1"}}, "acme": {Roles: []string{"admin"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	last := "Writer"
	up := identity.Update{LastName: &last, Tenants: map[string]user.Membership{"other": {Roles: []string{"manager"}, Attr: map[string]any{"level": 3.0}}}}
	want := identity.User{ID: u.ID, Email: u.Email, FirstName: "Rim", LastName: "Writer", Tenants: up.Tenants}
	for range 2 { // repeating it changes nothing
		got, err := s.UpdateUser(ctx, u.ID, up)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	}
	// No change leaves everything, an empty map takes everything away.
	if got, err := s.UpdateUser(ctx, u.ID, identity.Update{}); err != nil || !cmp.Equal(want, got) {
		t.Fatalf("%+v, %v", got, err)
	}
	if got, err := s.UpdateUser(ctx, u.ID, identity.Update{Tenants: map[string]user.Membership{}}); err != nil || len(got.Tenants) != 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	_, err = s.UpdateUser(ctx, "user-test-nobody", up)
	wantFault(t, err, fault.NotFound, "not-found")
	huge := map[string]user.Membership{"acme": {Roles: []string{strings.Repeat("x", 5000)}}}
	_, err = s.UpdateUser(ctx, u.ID, identity.Update{Tenants: huge})
	if wantFault(t, err, fault.Invalid, "metadata-too-large"); identity.Temporary(err) {
		t.Fatal("a final error is temporary")
	}
	_, err = s.UpdateUser(ctx, u.ID, identity.Update{Tenants: map[string]user.Membership{"a": {Attr: map[string]any{"f": func() {}}}}})
	if err == nil || identity.Temporary(err) {
		t.Fatalf("what cannot be encoded: %v", err)
	}
}

func TestCreateToken(t *testing.T) {
	s, ctx := start(t), t.Context()
	u, err := s.CreateUser(ctx, identity.User{Email: "olive@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	token, err := s.CreateToken(ctx, u.ID)
	if err != nil {
		t.Fatal(err)
	}
	in, err := s.AuthenticateMagicLink(ctx, token, "", "")
	if err != nil || in.User.ID != u.ID {
		t.Fatalf("%+v, %v", in, err)
	}
	if got, err := s.Authenticate(ctx, in.JWT); err != nil || got.UserID != u.ID {
		t.Fatalf("%+v, %v", got, err)
	}
	_, err = s.CreateToken(ctx, "user-test-nobody")
	wantFault(t, err, fault.NotFound, "not-found")
}

func TestMetadataBothWays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-z][a-z0-9-]{0,8}`)
		value := rapid.OneOf(rapid.Just[any](true), rapid.Map(name, func(s string) any { return s }),
			rapid.Map(rapid.Float64Range(-1e6, 1e6), func(f float64) any { return f }))
		want := map[string]user.Membership{}
		for _, tenant := range rapid.SliceOfDistinct(rapid.OneOf(name, rapid.Just(user.DefaultTenant)), rapid.ID).Draw(t, "tenants") {
			m := user.Membership{Roles: rapid.SliceOfN(name, 1, 4).Draw(t, "roles")}
			if attr := rapid.MapOf(name, value).Draw(t, "attr"); len(attr) > 0 {
				m.Attr = attr
			}
			want[tenant] = m
		}
		md := identity.EncodeMetadata(want, "")
		md["somebody"] = "else's"
		for k, v := range md {
			if v == nil {
				delete(md, k)
			}
		}
		got, err := identity.DecodeMetadata(md)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestUnreadableMetadataIsAnError(t *testing.T) {
	for _, md := range []map[string]any{
		{"roles": "admin"},
		{"roles": []any{"user", 1}},
		{"roles": []any{"user", nil}},
		{"roles": []any{""}},
		{"roles": map[string]any{"admin": true}},
		{"attr": []any{"x"}},
		{"attr": "region"},
		{"tenants": []any{"acme"}},
		{"tenants": map[string]any{"acme": "admin"}},
		{"tenants": map[string]any{"acme": nil}},
		{"tenants": map[string]any{"acme": []any{"admin"}}},
		{"tenants": map[string]any{"acme": map[string]any{"role": "admin"}}},
		{"tenants": map[string]any{"acme": map[string]any{"roles": "admin"}}},
		{"roles": []any{"user"}, "tenants": map[string]any{"default": map[string]any{"roles": []any{"admin"}}}},
		{"tenants": map[string]any{"": map[string]any{"roles": []any{"admin"}}}},
	} {
		t.Run(fmt.Sprint(md), func(t *testing.T) {
			if got, err := identity.DecodeMetadata(md); err == nil || got != nil {
				t.Fatalf("%v, %v", got, err)
			}
		})
	}
	if got, err := identity.DecodeMetadata(nil); err != nil || len(got) != 0 {
		t.Fatalf("%v, %v", got, err)
	}
}
