package authz

import (
	"slices"
	"testing"
)

func TestCandidateKnowsHowItsRulesSeeIDs(t *testing.T) {
	own := Identity{Hidden: true, OpaqueID: true, Attr: []string{"o"}}
	for expr, want := range map[string]struct {
		Identity
		opaque bool // R.attr.o
	}{
		"R.attr.o == P.id":                                {own, true},
		"P.id != request.resource.attr.o":                 {own, true},
		`has(R.attr.o) && R.attr.o == P.id`:               {own, true},
		`R.attr.o == P.id || P.id == "a"`:                 {own, true},
		`R.attr.o == "a" && R.attr.p == 1`:                {Identity{Hidden: true, OpaqueID: true}, true},
		`R.id == P.id || R.id == "a"`:                     {Identity{Hidden: true, OpaqueID: true}, true},
		"P.attr.a == R.attr.b":                            {Identity{Hidden: true, OpaqueID: true}, true},
		"R.attr.o == P.id && R.attr.o != R.attr.b":        {own, false},
		"R.attr.o == R.id":                                {Identity{Hidden: true}, false},
		"R.attr.o == P.id && size(R.attr) == 1":           {own, false},
		`R.attr.o == P.id && R.attr["p"] == "a"`:          {own, false},
		"R.attr.o == P.id && R.attr.o.p == 1":             {own, false},
		"R.attr.o.startsWith(P.id)":                       {Identity{OpaqueID: true}, false},
		"P.id in [R.attr.o]":                              {Identity{OpaqueID: true}, false},
		"P.id == P.attr.a":                                {Identity{OpaqueID: true}, true},
		"request.principal.id == R.attr.p.q":              {Identity{OpaqueID: true}, true},
		"[P].exists(x, x.id == R.attr.o)":                 {Identity{OpaqueID: true}, false},
		`["a"].exists(P, P == R.attr.o)`:                  {Identity{}, false},
		"[R].exists(x, x.attr.o == P.id)":                 {Identity{}, false},
		`R.id.startsWith("a")`:                            {Identity{Hidden: true}, true},
		`"a" in runtime.effectiveDerivedRoles`:            {Identity{}, false},
		"[request].exists(x, x.principal.id == R.attr.o)": {Identity{}, false},
	} {
		rule := "    - actions: [read]\n      effect: EFFECT_ALLOW\n      roles: [user]\n      condition:\n        match:\n          expr: '" + expr + "'\n"
		have := candidate(t, policyDir(t, rule)).Identity("doc", "read")
		if have.Hidden != want.Hidden || have.OpaqueID != want.OpaqueID || !slices.Equal(have.Attr, want.Attr) || have.Opaque("o") != want.opaque {
			t.Errorf("%s: %+v, attribute %v, want %+v", expr, have, have.Opaque("o"), want)
		}
		if have.Opaque("tenant") || !have.Ordinary("b") || have.Ordinary("a") && slices.Contains([]string{`R.id == P.id || R.id == "a"`}, expr) {
			t.Errorf("%s: tenant %v, b %v, a %v", expr, have.Opaque("tenant"), have.Ordinary("b"), have.Ordinary("a"))
		}
	}
	output := "    - actions: [read]\n      effect: EFFECT_ALLOW\n      roles: [user]\n      output:\n        when:\n          ruleActivated: 'P.id'\n"
	if candidate(t, policyDir(t, output)).Identity("doc", "read").Hidden {
		t.Error("an output does not show it")
	}
	policies := candidate(t, policies)
	if i := policies.Identity("contact", "update"); !i.Hidden || !i.Opaque("owner_id") || i.Opaque("tenant") || i.Ordinary("writ") || i.Ordinary("break-glass") || i.Ordinary("Break_Glass") || !i.Ordinary("sam") {
		t.Errorf("%+v", i)
	}
	if policies.Identity("video", "read").Opaque("status") { // of which the schema wants more than text
		t.Error("status")
	}
	if (Identity{}).Ordinary("sam") || (Identity{}).Opaque("o") {
		t.Error("nothing is known")
	}
}
