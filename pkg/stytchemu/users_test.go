package stytchemu_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stytchauth/stytch-go/v16/stytch/consumer/magiclinks"
	"github.com/stytchauth/stytch-go/v16/stytch/consumer/sessions"
	"github.com/stytchauth/stytch-go/v16/stytch/consumer/users"
)

func TestUserRoundTrip(t *testing.T) {
	p, ctx := start(t, ""), t.Context()
	made := must(p.Users.Create(ctx, &users.CreateParams{
		Email: "Rim@example.com", Name: &users.Name{FirstName: "Rim", LastName: "User"},
		TrustedMetadata: map[string]any{"roles": []string{"user"}},
	}))(t)
	got := must(p.Users.Get(ctx, &users.GetParams{UserID: made.UserID}))(t)
	if got.Emails[0].Email != "rim@example.com" || got.Name.LastName != "User" || got.Status != "active" || got.CreatedAt == nil {
		t.Fatalf("user %+v", got)
	}
	_, err := p.Users.Create(ctx, &users.CreateParams{Email: "rim@EXAMPLE.com"})
	wantError(t, err, 400, "duplicate_email")
	_, err = p.Users.Create(ctx, &users.CreateParams{Email: "Rim <rim@example.com>"})
	wantError(t, err, 400, "invalid_email")

	in := p.signIn(t, "rim@example.com")
	if _, err := p.Users.Delete(ctx, &users.DeleteParams{UserID: made.UserID}); err != nil {
		t.Fatal(err)
	}
	_, err = p.Users.Get(ctx, &users.GetParams{UserID: made.UserID})
	wantError(t, err, 404, "user_not_found")
	_, err = p.Users.Delete(ctx, &users.DeleteParams{UserID: "rim"})
	wantError(t, err, 400, "invalid_user_id")
	_, err = p.Sessions.Authenticate(ctx, &sessions.AuthenticateParams{SessionToken: in.SessionToken})
	wantError(t, err, 404, "session_not_found")
	if again := p.send(t, "rim@example.com", ""); !again.UserCreated || again.UserID == made.UserID {
		t.Fatalf("a deleted user is not gone: %+v", again)
	}
}

func TestEmbeddableLink(t *testing.T) {
	p, ctx := start(t, ""), t.Context()
	made := must(p.Users.Create(ctx, &users.CreateParams{Email: "sam@example.com"}))(t)
	link := must(p.MagicLinks.Create(ctx, &magiclinks.CreateParams{UserID: made.UserID}))(t)
	in := must(p.MagicLinks.Authenticate(ctx, &magiclinks.AuthenticateParams{Token: link.Token, SessionDurationMinutes: 60}))(t)
	if in.UserID != made.UserID || in.SessionJWT == "" || in.User.Emails[0].Verified {
		t.Fatalf("signed in %+v", in)
	}
	_, err := p.MagicLinks.Create(ctx, &magiclinks.CreateParams{UserID: "user-test-nobody"})
	wantError(t, err, 404, "user_not_found")
	_, err = p.MagicLinks.Create(ctx, &magiclinks.CreateParams{UserID: made.UserID, ExpirationMinutes: 4})
	wantError(t, err, 400, "invalid_expiration")
}

func TestMetadataRules(t *testing.T) {
	p, ctx := start(t, ""), t.Context()
	id := must(p.Users.Create(ctx, &users.CreateParams{Email: "sam@example.com", TrustedMetadata: map[string]any{
		"roles": []string{"user", "manager"}, "deep": map[string]any{"a": 1, "b": 2}, "kept": true,
	}}))(t).UserID
	update := func(md map[string]any) (map[string]any, error) {
		res, err := p.Users.Update(ctx, &users.UpdateParams{UserID: id, TrustedMetadata: md})
		return res.User.TrustedMetadata, err
	}
	got := must(update(map[string]any{"roles": []string{"admin"}, "deep": map[string]any{"c": 3}, "new": "x"}))(t)
	want := map[string]any{"roles": []any{"admin"}, "deep": map[string]any{"c": 3.0}, "new": "x", "kept": true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	got = must(update(map[string]any{"deep": nil, "new": nil, "never": nil}))(t)
	if diff := cmp.Diff(map[string]any{"roles": []any{"admin"}, "kept": true}, got); diff != "" {
		t.Fatal(diff)
	}
	many := map[string]any{}
	for i := range 18 {
		many[fmt.Sprintf("k%d", i)] = i
	}
	if _, err := update(many); err != nil {
		t.Fatalf("20 keys: %v", err)
	}
	_, err := update(map[string]any{"one": "more"})
	wantError(t, err, 400, "metadata_too_many_keys")
	_, err = update(map[string]any{"k1": strings.Repeat("x", 4096)})
	wantError(t, err, 400, "metadata_too_large")
	after := must(p.Users.Get(ctx, &users.GetParams{UserID: id}))(t)
	if len(after.TrustedMetadata) != 20 || after.TrustedMetadata["k1"] != 1.0 {
		t.Fatalf("a refused update had an effect: %v", after.TrustedMetadata)
	}
}

func TestSearch(t *testing.T) {
	p, ctx := start(t, ""), t.Context()
	ids := map[string]bool{}
	for i := range 25 {
		u := must(p.Users.Create(ctx, &users.CreateParams{Email: fmt.Sprintf("u%d@example.com", i), Name: &users.Name{FirstName: "Nr", LastName: fmt.Sprint(i)}}))(t)
		ids[u.UserID] = true
	}
	cursor := ""
	for page := 0; ; page++ {
		res := must(p.Users.Search(ctx, &users.SearchParams{Limit: 10, Cursor: cursor}))(t)
		if res.ResultsMetadata.Total != 25 {
			t.Fatalf("total %d", res.ResultsMetadata.Total)
		}
		for _, u := range res.Results {
			if !ids[u.UserID] {
				t.Fatalf("%s twice", u.UserID)
			}
			delete(ids, u.UserID)
		}
		if cursor = res.ResultsMetadata.NextCursor; cursor == "" {
			if page != 2 || len(ids) != 0 {
				t.Fatalf("page %d, %d users missed", page, len(ids))
			}
			break
		}
	}
	find := func(operator users.SearchUsersQueryOperator, operands ...map[string]any) []users.User {
		t.Helper()
		return must(p.Users.Search(ctx, &users.SearchParams{Query: &users.SearchUsersQuery{Operator: operator, Operands: operands}}))(t).Results
	}
	byEmail := map[string]any{"filter_name": "email_address", "filter_value": []string{"U7@example.com", "nobody@example.com"}}
	byName := map[string]any{"filter_name": "full_name_fuzzy", "filter_value": "nr 1"}
	if found := find("AND", byEmail); len(found) != 1 || found[0].Emails[0].Email != "u7@example.com" {
		t.Fatalf("by e-mail: %+v", found)
	}
	if found := find("AND", byEmail, byName); len(found) != 0 {
		t.Fatalf("AND: %+v", found)
	}
	if found := find("OR", byEmail, byName); len(found) != 12 {
		t.Fatalf("OR: %d", len(found))
	}
	_, err := p.Users.Search(ctx, &users.SearchParams{Query: &users.SearchUsersQuery{Operands: []map[string]any{{"filter_name": "shoe_size"}}}})
	wantError(t, err, 400, "user_search_invalid_filter")
}
