package authz

import (
	"os"
	"path/filepath"
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

func TestCandidateKnowsWhatItsRulesRead(t *testing.T) {
	c := candidate(t, policies)
	for about, want := range map[[2]string]Reads{
		{"contact", "update"}: {}, {"video", "delete"}: {}, // owners and regions, not who a row is
		{"user", "read"}:       {ResourceID: true},
		{"expense", "approve"}: {Request: true},
		{"expense", "list"}:    {},
		{"expense", "a b*"}:    {Request: true}, // it may match anything
	} {
		if have := c.Reads(about[0], about[1]); have != want {
			t.Errorf("%s: %+v, want %+v", about, have, want)
		}
	}
	for expr, want := range map[string]Reads{
		"R.attr.a == P.attr.b && R.kind == P.id":          {},
		"R.id == P.id":                                    {ResourceID: true},
		"request.resource.id == P.id":                     {ResourceID: true},
		"size([R, P]) == 1":                               {ResourceID: true, Request: true},
		`P.attr["request"] == R.attr["x"]`:                {Request: true},
		"request.principal.attr.request.ip == R.attr.x":   {Request: true},
		`timestamp(R.attr.x) < now()`:                     {Clock: true},
		`R.attr.list.exists(x, x == P.attr.request.time)`: {Request: true},
		`[1].exists(x, {"a": R}.a.id == "b")`:             {ResourceID: true},
		`runtime.effectiveDerivedRoles.size() > 0`:        {},
	} {
		rule := "    - actions: [read]\n      effect: EFFECT_ALLOW\n      roles: [user]\n      condition:\n        match:\n          expr: '" + expr + "'\n"
		if have := candidate(t, policyDir(t, rule)).Reads("doc", "read"); have != want {
			t.Errorf("%s: %+v, want %+v", expr, have, want)
		}
	}
	output := "    - actions: [read]\n      effect: EFFECT_ALLOW\n      roles: [user]\n      output:\n        when:\n          ruleActivated: 'R.id'\n"
	if have := candidate(t, policyDir(t, output)).Reads("doc", "read"); !have.ResourceID {
		t.Errorf("an output: %+v", have)
	}
}

func TestSchemasThatJudgeARequestCount(t *testing.T) {
	for schema, want := range map[string]bool{
		`{"type": "object"}`: false,
		`{"properties": {"request": {"type": "object", "properties": {"ip": {"type": "string"}, "time": {"type": "string"}}}}}`: false,
		`{"properties": {"request": {"type": "object", "properties": {"time": {"type": "string", "pattern": "T0[0-9]:"}}}}}`:    true,
		`{"properties": {"request": {"type": "object", "required": ["ip"], "properties": {"ip": {"type": "string"}}}}}`:         true,
		`{"allOf": [{"properties": {"request": {}}}]}`:                                                                             true,
		`{"additionalProperties": {"properties": {"time": {"maxLength": 3}}}}`:                                                     true,
		`{"properties": {"request": {"type": "object", "properties": {"ip": {"type": "string"}}, "additionalProperties": false}}}`: true,
	} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "_schemas"), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFiles(t, dir, map[string]string{"_schemas/principal.json": schema, "doc.yaml": docPolicy(allowRule)})
		if have := candidate(t, dir).Reads("doc", "read").Request; have != want {
			t.Errorf("%s: %v", schema, have)
		}
	}
}
