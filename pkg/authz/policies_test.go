package authz

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	effectv1 "github.com/cerbos/cerbos/api/genpb/cerbos/effect/v1"
	policyv1 "github.com/cerbos/cerbos/api/genpb/cerbos/policy/v1"
	"github.com/cerbos/cerbos/private/ruletable/compile"
	"github.com/cerbos/cerbos/private/verify"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/kinds"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestPolicySuitesPass(t *testing.T) {
	results, err := verify.Files(t.Context(), os.DirFS(policies), nil, false)
	if err != nil {
		t.Fatal(explain(err))
	}
	if n := results.GetSummary().GetTestsCount(); n < 200 {
		t.Errorf("%d tests: the suites were not found", n)
	}
	for _, suite := range results.GetSuites() {
		if suite.GetError() != "" {
			t.Errorf("%s: %s", suite.GetFile(), suite.GetError())
		}
		for _, c := range suite.GetTestCases() {
			for _, p := range c.GetPrincipals() {
				for _, r := range p.GetResources() {
					for _, a := range r.GetActions() {
						if result := a.GetDetails().GetResult(); result != policyv1.TestResults_RESULT_PASSED {
							t.Errorf("%s: %s: %s, %s, %s: %v %v", suite.GetFile(), c.GetName(), p.GetName(), r.GetName(), a.GetName(), result, a.GetDetails().GetOutcome())
						}
					}
				}
			}
		}
	}
}

// The same with Cerbos' own program, which reads the folder as a PDP would.
func TestPolicySuitesPassInCerbos(t *testing.T) {
	program := os.Getenv("WRIT_CERBOS_BIN")
	if program == "" {
		program = "cerbos"
	}
	path, err := exec.LookPath(program)
	if err != nil {
		if path, err = exec.LookPath(filepath.Join("..", "..", ".tools", "bin", "cerbos")); err != nil {
			testkit.Need(t, "cerbos (the PDP)", err)
		}
	}
	out, err := exec.CommandContext(t.Context(), path, "compile", policies).CombinedOutput()
	if err != nil {
		t.Errorf("cerbos compile: %v\n%s", err, out)
	}
}

// What policies/README.md asks of every policy.
func TestPoliciesKeepTheirRules(t *testing.T) {
	table, err := compile.Compile(t.Context(), os.DirFS(policies))
	if err != nil {
		t.Fatal(explain(err))
	}
	for _, row := range table.GetRules() {
		if row.GetEffect() == effectv1.Effect_EFFECT_DENY && row.GetEmitOutput().GetWhen().GetRuleActivated() == nil {
			t.Errorf("%s: deny rule %s gives no reason", row.GetOriginFqn(), row.GetName())
		}
	}
	// Plans for list can be made, and become SQL, whoever asks.
	engine := open(t, "embed:"+policies)
	for _, def := range kinds.All {
		for _, roles := range [][]string{{"user"}, {"admin"}, {"manager"}, {"auditor"}, {"guest"}, {"user", "manager"}, {"user", "admin"}} {
			plan, err := engine.Plan(t.Context(), PlanRequest{Principal: principal("sam", roles...), Kind: def.Name, Action: "list"})
			if err != nil {
				t.Errorf("%s as %v: %v", def.Name, roles, err)
				continue
			}
			for _, dialect := range []string{SQLite, Postgres} {
				if _, err := plan.Filter(def, dialect); err != nil {
					t.Errorf("%s as %v: %v", def.Name, roles, err)
				}
			}
		}
	}
}

// The kinds' attributes are those that the schemas allow, and no others.
func TestKindsFitTheirSchemas(t *testing.T) {
	engine := open(t, "embed:"+policies)
	admin := principal("alice", "admin")
	row := contact.Kind.New()
	row.ID, row.OwnerID, row.Tenant = "c1", "sam", "default"
	u := user.Kind.New()
	u.ID, u.OwnerID, u.Tenant = "sam", "sam", "default"
	for _, r := range []events.Resource{
		{Kind: "contact", ID: row.ID, Attr: contact.Kind.Attrs(row)},
		{Kind: "user", ID: u.ID, Attr: user.Kind.Attrs(u)},
		{Kind: "command", ID: "1", Attr: map[string]any{"principal_id": "sam", "tenant": "default"}},
		{Kind: "audit", ID: "log"},
	} {
		answer, err := engine.Check(t.Context(), Request{Principal: admin, Resource: r, Actions: []string{"read"}, Tenant: "default"})
		if err != nil || !answer.Allowed("read") {
			t.Errorf("%s: %+v, %v", r.Kind, answer, err)
		}
	}
}

// Every denial in the table of promised rights says why.
func TestDenialsGiveReasons(t *testing.T) {
	engine := open(t, "embed:"+policies)
	owned := map[string]any{"owner_id": "rim", "tenant": "default"}
	for _, c := range []struct {
		who      events.Principal
		resource events.Resource
		action   string
		reason   string
	}{
		{principal("john", "manager"), events.Resource{Kind: "contact", ID: "c", Attr: owned}, "read", "only the roles user and admin may use contacts"},
		{principal("sam", "user"), events.Resource{Kind: "contact", ID: "c", Attr: owned}, "update", "only the owner or an admin may change or delete a contact"},
		{principal("sam", "user"), events.Resource{Kind: "contact", ID: "c", Attr: owned}, "create", "only an admin may create a contact for another owner"},
		{principal("sam", "user"), events.Resource{Kind: "contact", ID: "c", Attr: map[string]any{"owner_id": "sam", "tenant": "default", "changes": []string{"owner_id"}}}, "update", "only an admin may give a contact to another owner"},
		{principal("sam", "user"), events.Resource{Kind: "contact", ID: "c"}, "read", "attributes break the policy's schema: resource: missing properties: 'owner_id', 'tenant'"},
		{principal("sam", "user"), events.Resource{Kind: "audit", ID: "log"}, "tail", "only the roles auditor and admin may see the audit log"},
		{principal("sam", "user"), events.Resource{Kind: "user", ID: "rim"}, "sync", "only the user or an admin may do this"},
		{principal("sam", "user", "auditor"), events.Resource{Kind: "command", ID: "1", Attr: map[string]any{"principal_id": "rim"}}, "read", "only the principal who gave the command or an admin may see it"},
	} {
		answer, err := engine.Check(t.Context(), Request{Principal: c.who, Resource: c.resource, Actions: []string{c.action}})
		if err != nil {
			t.Errorf("%s: %v", c.reason, err)
			continue
		}
		if r := answer.For(c.action); r.Effect != events.Deny || r.Policy.Reason != c.reason {
			t.Errorf("%s %s: %s, reason %q, want %q", c.action, c.resource.Kind, r.Effect, r.Policy.Reason, c.reason)
		}
	}
}

// A plan for update reckons with a patch that gives nothing away.
func TestPlanForUpdate(t *testing.T) {
	engine := open(t, "embed:"+policies)
	for _, c := range []struct {
		who  events.Principal
		want FilterKind
	}{
		{principal("alice", "admin"), Always},
		{principal("sam", "user"), Where},
		{principal("john", "manager"), Never},
	} {
		plan, err := engine.Plan(t.Context(), PlanRequest{Principal: c.who, Kind: "contact", Action: "update", Attr: map[string]any{"changes": []string{}}})
		if err != nil {
			t.Fatal(err)
		}
		have, err := plan.Filter(contact.Kind, SQLite)
		if err != nil || have.Kind != c.want {
			t.Errorf("%v: %+v, %v; plan %s", c.who.Roles, have, err, plan.Raw)
		}
		if (plan.Effect == events.Deny) != (c.want == Never) {
			t.Errorf("%v: effect %s", c.who.Roles, plan.Effect)
		}
	}
	plan, err := engine.Plan(t.Context(), PlanRequest{Principal: principal("sam", "user"), Kind: "contact", Action: "update"})
	if err == nil {
		_, err = plan.Filter(contact.Kind, SQLite)
	}
	if err == nil {
		t.Error("a plan that reads changes, which no row has, became SQL")
	}
}
