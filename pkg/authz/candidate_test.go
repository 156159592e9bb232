package authz

import (
	"slices"
	"testing"

	"github.com/writ-project/writ/pkg/events"
)

func candidate(t testing.TB, dir string) *Candidate {
	t.Helper()
	c, err := OpenCandidate(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCandidateNamesTheRules(t *testing.T) {
	c := candidate(t, policies)
	contact := events.Resource{Kind: "contact", ID: "c1", Version: 1, Attr: map[string]any{"owner_id": "sam", "tenant": "default", "is_active": true}}
	for _, x := range []struct {
		principal events.Principal
		action    string
		effect    events.Effect
		rules     []string
	}{
		{principal("sam", "user"), "update", events.Allow, []string{"resource.contact.vdefault#owner-changes"}},
		{principal("alice", "admin", "user"), "read", events.Allow, []string{"resource.contact.vdefault#admin-does-everything"}},
		{principal("rim", "user"), "update", events.Deny, []string{"resource.contact.vdefault#only-the-owner-changes"}},
		{principal("sam", "user"), "paint", events.Deny, nil},
	} {
		req := Request{Principal: x.principal, Resource: contact, Actions: []string{x.action}, Tenant: "default"}
		answer, err := c.Check(t.Context(), req)
		if err != nil || answer.For(x.action).Effect != x.effect {
			t.Errorf("%s %s: %+v, %v", x.principal.ID, x.action, answer, err)
		}
		rules, err := c.Explain(t.Context(), req, x.action)
		if err != nil || !slices.Equal(rules, x.rules) {
			t.Errorf("%s %s: %q, want %q, %v", x.principal.ID, x.action, rules, x.rules, err)
		}
	}
}
