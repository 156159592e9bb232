package authz

import (
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/events"
)

// filterFor plans lists under some policies.
func filterFor(t *testing.T, files map[string]string, p events.Principal) (Plan, Filter, error) {
	t.Helper()
	dir := t.TempDir()
	writeFiles(t, dir, files)
	plan, err := open(t, "embed:"+dir).Plan(t.Context(), PlanRequest{Principal: p, Kind: "doc", Action: "list"})
	if err != nil {
		return plan, Filter{}, err
	}
	f, err := plan.Filter(docKind, SQLite)
	return plan, f, err
}

const (
	userNotOpen  = "    - {actions: [list], effect: EFFECT_DENY, roles: [user], condition: {match: {expr: R.attr.open}}}\n"
	usersAll     = "    - {actions: [list], effect: EFFECT_ALLOW, roles: [user]}\n"
	managersOwn  = "    - {actions: [list], effect: EFFECT_ALLOW, roles: [manager], condition: {match: {expr: R.attr.owner_id == P.id}}}\n"
	notIfManager = "    - {actions: [list], effect: EFFECT_DENY, roles: [user], condition: {match: {expr: '\"manager\" in P.roles && R.attr.flag'}}}\n"
)

// What one role is denied another may be allowed, and conditions see all roles.
func TestEachRoleIsPlannedAlone(t *testing.T) {
	for _, c := range []struct {
		name, rules string
		roles       []string
		sql, extent string
	}{
		{"one role", userNotOpen + usersAll, []string{"user"}, `(NOT ("open" = TRUE))`, "conditional"},
		{"a role without a deny", userNotOpen + usersAll + managersOwn, []string{"user", "manager"}, `((NOT ("open" = TRUE)) OR ("owner_id" = ?))`, "conditional"},
		{"a role that no rule names", userNotOpen + usersAll, []string{"guest", "user"}, `(NOT ("open" = TRUE))`, "conditional"},
		{"conditions see all roles", notIfManager + usersAll, []string{"user", "manager"}, `(NOT ("flag" = TRUE))`, "conditional"},
		{"one role is allowed all", userNotOpen + usersAll + strings.Replace(usersAll, "user", "manager", 1), []string{"user", "manager"}, `TRUE`, "allow"},
		{"no role is allowed any", userNotOpen + managersOwn, []string{"user", "guest"}, `FALSE`, "deny"},
	} {
		plan, f, err := filterFor(t, map[string]string{"doc.yaml": docPolicy(c.rules)}, principal("sam", c.roles...))
		if err != nil || f.SQL != c.sql || plan.Extent() != c.extent || (plan.Effect == events.Allow) != (c.extent != "deny") {
			t.Errorf("%s: %+v %s %v, want %s %s; %s", c.name, f, plan.Extent(), err, c.sql, c.extent, plan.Raw)
		}
		if (c.extent == "deny") != (plan.Policy.Reason != "") || strings.Contains(string(plan.Raw), `"or"`) != strings.Contains(c.sql, " OR ") {
			t.Errorf("%s: recorded %s, %q", c.name, plan.Raw, plan.Policy.Reason)
		}
	}
}

// What cannot be told apart by role is refused.
func TestRolesThatCannotBePlannedAlone(t *testing.T) {
	rolePolicy := "apiVersion: api.cerbos.dev/v1\nrolePolicy:\n  role: guest\n  version: default\n  parentRoles: [user]\n  rules:\n    - {resource: doc, allowActions: [list]}\n"
	pattern := "    - {actions: [read], effect: EFFECT_ALLOW, roles: [\"man*\"]}\n"
	for name, files := range map[string]map[string]string{
		"role policies":  {"doc.yaml": docPolicy(userNotOpen + usersAll), "guest.yaml": rolePolicy},
		"by the pattern": {"doc.yaml": docPolicy(userNotOpen + usersAll + pattern)},
	} {
		if _, f, err := filterFor(t, files, principal("sam", "user", "manager")); err == nil || !strings.Contains(err.Error(), name) || f.SQL != "" {
			t.Errorf("%s: %+v %v", name, f, err)
		}
		if _, _, err := filterFor(t, files, principal("sam", "user")); err != nil {
			t.Errorf("%s, one role: %v", name, err)
		}
	}
}

// A principal's own policy comes first, whatever Cerbos' planner makes of the two.
func TestPrincipalPoliciesInPlans(t *testing.T) {
	policy := func(rules string) string {
		return "apiVersion: api.cerbos.dev/v1\nprincipalPolicy:\n  principal: sam\n  version: default\n  rules:\n    - resource: doc\n      actions:\n" + rules
	}
	const (
		mine     = "        - {action: list, effect: EFFECT_ALLOW, condition: {match: {expr: R.attr.owner_id == P.id}}}\n"
		nothing  = "        - {action: list, effect: EFFECT_DENY}\n"
		notOpen  = "        - {action: list, effect: EFFECT_DENY, condition: {match: {expr: R.attr.open}}}\n"
		anything = "        - {action: '*', effect: EFFECT_ALLOW}\n"
	)
	for _, c := range []struct{ name, rules, own, sql string }{
		{"a deny of nothing is no allow", userNotOpen, mine, `("owner_id" = ?)`},
		{"a deny of everything", usersAll, nothing, `FALSE`},
		{"a deny of everything but what is allowed", usersAll, nothing + mine, `FALSE`},
		{"a deny of some", usersAll, notOpen, `(NOT ("open" = TRUE))`},
		{"everything", userNotOpen, anything, `TRUE`},
		{"beside the resource's", managersOwn, mine, `("owner_id" = ?)`},
	} {
		files := map[string]string{"doc.yaml": docPolicy(c.rules), "sam.yaml": policy(c.own)}
		if plan, f, err := filterFor(t, files, principal("sam", "user")); err != nil || f.SQL != c.sql {
			t.Errorf("%s: %+v %v, want %s; %s", c.name, f, err, c.sql, plan.Raw)
		}
		if _, _, err := filterFor(t, files, principal("rim", "user")); err != nil {
			t.Errorf("%s, another: %v", c.name, err)
		}
	}
}

// The rewritten conditions say what they said.
func TestListsKeepTheirOperands(t *testing.T) {
	for source, want := range map[string]string{
		`R.attr.a == "x"`:                `R.attr.a == "x"`,
		`"a" in R.attr`:                  `"a" in R.attr`,
		`P.id in ["a"]`:                  `P.id in ["a"]`,
		`R.attr.a in P.attr.b`:           `R.attr.a in P.attr.b || R.attr.a != R.attr.a`,
		`!(R.attr.a in [])`:              `!(R.attr.a in [] || R.attr.a != R.attr.a)`,
		`!(!(R.id in []))`:               `!(!(R.id in [] || R.id != R.id) || false)`,
		`R.id in [] && has(R.attr.a)`:    `(R.id in [] || R.id != R.id) && has(R.attr.a)`,
		`P.x.exists(e, e in ["\u0000"])`: `P.x.exists(e, e in ["\x00"] || e != e)`,
	} {
		have, err := keepOperandsIn(source)
		if err != nil || strings.Join(strings.Fields(have), " ") != want {
			t.Errorf("%s: %s, %v, want %s", source, have, err, want)
		}
	}
	if _, err := keepOperandsIn("R.attr.a in ("); err == nil {
		t.Error("half an expression is read")
	}
}
