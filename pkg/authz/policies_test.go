package authz

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	effectv1 "github.com/cerbos/cerbos/api/genpb/cerbos/effect/v1"
	enginev1 "github.com/cerbos/cerbos/api/genpb/cerbos/engine/v1"
	policyv1 "github.com/cerbos/cerbos/api/genpb/cerbos/policy/v1"
	"github.com/cerbos/cerbos/private/ruletable/compile"
	"github.com/cerbos/cerbos/private/verify"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
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
	if n := results.GetSummary().GetTestsCount(); n < 1500 {
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

// everybody are the combinations of roles that plans are made for.
var everybody = [][]string{{"user"}, {"admin"}, {"manager"}, {"auditor"}, {"finance"}, {"guest"}, {"user", "manager"}, {"user", "admin"}, {"finance", "manager"}}

// places are a tenant of each sort: the default, one with policies of its own, one without.
var places = []struct{ tenant, scope string }{{"default", ""}, {"acme", "acme"}, {"globex", "globex"}}

// of is a principal of a tenant.
func of(tenant, id string, roles ...string) events.Principal {
	p := principal(id, roles...)
	p.Attr["tenant"] = tenant
	return p
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
		if about := bearingOf(row); about.deny && about.role != anyRole {
			t.Errorf("%s: deny rule %s is for role %s alone", row.GetOriginFqn(), row.GetName(), about.role)
		} else if about.deny && about.principal != "" {
			t.Errorf("%s: rule %s of a principal policy denies", row.GetOriginFqn(), row.GetName())
		}
	}
	// Cerbos looks a kind's schemas up in one scope: the request's, if any kind has a policy there.
	have := map[string]map[string]*policyv1.Schemas{}
	for id, meta := range table.GetMeta() {
		name, scope, _ := strings.Cut(meta.GetFqn(), "/")
		if kind, ok := strings.CutPrefix(name, "cerbos.resource."); ok {
			if have[scope] == nil {
				have[scope] = map[string]*policyv1.Schemas{}
			}
			have[scope][strings.TrimSuffix(kind, ".vdefault")] = table.GetSchemas()[id]
		}
	}
	scopes, kinds := policyFolder(t)
	if diff := cmp.Diff(scopes, slices.Sorted(maps.Keys(have))); diff != "" || len(scopes) < 2 {
		t.Errorf("folders - , scopes + %s, want the root and a tenant's at least", diff)
	}
	for scope, schemas := range have {
		if diff := cmp.Diff(kinds, slices.Sorted(maps.Keys(schemas))); diff != "" {
			t.Errorf("scope %q must have a policy for every kind, in a file of its name: root - , scope + %s", scope, diff)
		}
		for _, kind := range kinds {
			want := have[""][kind]
			if want.GetPrincipalSchema().GetRef() != "cerbos:///principal.json" || want.GetResourceSchema().GetRef() != "cerbos:///"+kind+".json" {
				t.Errorf("%s must be held to principal.json and %s.json: %v", kind, kind, want)
			}
			// Compiled, they are the root's whatever the scope's policy says.
			if root, own := schemasOf(t, "", kind), schemasOf(t, scope, kind); own != root || !proto.Equal(want, schemas[kind]) {
				t.Errorf("%s in scope %q must have the schemas of the root: %v, want %v", kind, scope, own, root)
			}
		}
	}
}

// policyFolder reads off the folder which scopes there are, each a folder of its
// own but for the root "", and which kinds: a file each.
func policyFolder(t *testing.T) (scopes, kinds []string) {
	t.Helper()
	entries, err := os.ReadDir(policies)
	if err != nil {
		t.Fatal(err)
	}
	scopes = []string{""}
	for _, e := range entries { // sorted
		kind, policy := strings.CutSuffix(e.Name(), ".yaml")
		switch {
		case policy:
			kinds = append(kinds, kind)
		case e.IsDir() && !slices.Contains([]string{"_schemas", "derived_roles", "principals", "tests"}, e.Name()):
			scopes = append(scopes, e.Name())
		}
	}
	return scopes, kinds
}

// schemasOf is what a policy's file says of schemas.
func schemasOf(t *testing.T, scope, kind string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(policies, scope, kind+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "\n  schemas:\n")
	text, _, _ := strings.Cut(rest, "\n  rules:")
	return text
}

// What Cerbos' planner says at once, as a PDP does, is what the engine puts
// together from parts: rules 7 and 8.
func TestPoliciesNeedNoParts(t *testing.T) {
	engine := open(t, "embed:"+policies).(*Engine)
	s := engine.current.Load()
	for _, def := range kinds.All {
		for _, roles := range everybody {
			for _, id := range []string{"sam", "break-glass"} {
				for _, action := range shipped(t)[def.Name] {
					req := PlanRequest{Principal: of("default", id, append([]string{"guest"}, roles...)...), Kind: def.Name, Action: action, Tenant: "default",
						Attr: map[string]any{"tenant": "default", "changes": []string{}}}
					want, err := engine.Plan(t.Context(), req)
					if err != nil {
						t.Fatal(err)
					}
					principal, resource, err := req.question()
					if err != nil {
						t.Fatal(err)
					}
					out, err := planWith(t.Context(), s.table, &enginev1.PlanResourcesInput{Principal: principal, Resource: resource, Actions: []string{action}})
					if err != nil {
						t.Fatal(err)
					}
					have, err := Plan{Kind: def.Name, Action: action, principal: principal, known: req.Attr}.read(out.GetFilter(), out.GetValidationErrors())
					if err != nil {
						t.Fatal(err)
					}
					wantFilter, wantErr := want.Filter(def, SQLite)
					haveFilter, haveErr := have.Filter(def, SQLite)
					if wantErr != nil || haveErr != nil || !cmp.Equal(wantFilter, haveFilter) {
						t.Errorf("%s %s as %s %v: at once %+v %v, in parts %+v %v", action, def.Name, id, roles, haveFilter, haveErr, wantFilter, wantErr)
					}
				}
			}
		}
	}
}

// Plans can be made, and become SQL, whoever asks.
func TestPlansBecomeSQL(t *testing.T) {
	engine := open(t, "embed:"+policies)
	for _, def := range kinds.All {
		for _, roles := range everybody {
			for _, place := range places {
				for _, action := range append([]string{"read", "list", "update", "delete"}, def.Actions()...) {
					p := of(place.tenant, "sam", roles...)
					p.Attr["region"], p.Attr["department"] = "eu-east-1", "finance"
					for _, attr := range []map[string]any{{"tenant": place.tenant, "changes": []string{}}, {"changes": []string{}}} {
						plan, err := engine.Plan(t.Context(), PlanRequest{Principal: p, Kind: def.Name, Action: action, Tenant: place.tenant, Scope: place.scope, Attr: attr})
						if err != nil {
							t.Errorf("%s %s as %v: %v", action, def.Name, roles, err)
							continue
						}
						for _, dialect := range []string{SQLite, Postgres} {
							if _, err := plan.Filter(def, dialect); err != nil {
								t.Errorf("%s %s as %v: %v", action, def.Name, roles, err)
							}
						}
					}
				}
			}
		}
	}
}

// The lists that are promised, as SQL: nothing in it but what tells the rows apart.
func TestPlansForLists(t *testing.T) {
	engine := open(t, "embed:"+policies)
	anywhere := map[string]any{}
	eu := map[string]any{"region": "eu-east-1"}
	finance := map[string]any{"department": "finance"}
	own := Filter{Where, `("owner_id" = ?)`, []any{"sam"}}
	all, none := Filter{Kind: Always, SQL: "TRUE"}, Filter{Kind: Never, SQL: "FALSE"}
	for _, c := range []struct {
		kind, role string
		attr       map[string]any
		want       Filter
	}{
		{"contact", "admin", anywhere, all}, {"contact", "user", anywhere, all}, {"contact", "manager", anywhere, none},
		{"video", "admin", anywhere, all}, {"video", "user", anywhere, all}, {"video", "manager", eu, all}, {"video", "auditor", anywhere, all}, {"video", "guest", anywhere, none},
		{"expense", "admin", anywhere, all}, {"expense", "user", eu, own}, {"expense", "user", finance, all}, {"expense", "finance", anywhere, all},
		{"expense", "manager", finance, all}, {"expense", "manager", anywhere, own}, {"expense", "auditor", anywhere, none},
		{"expense", "manager", eu, Filter{Where, `(("owner_id" = ?) OR ("region" = ?))`, []any{"sam", "eu-east-1"}}},
	} {
		def, ok := kinds.ByName(c.kind)
		if !ok {
			t.Errorf("no kind %s", c.kind)
			continue
		}
		for _, place := range places {
			p := of(place.tenant, "sam", c.role)
			maps.Copy(p.Attr, c.attr)
			req := PlanRequest{Principal: p, Kind: c.kind, Action: "list", Attr: map[string]any{"tenant": place.tenant}, Tenant: place.tenant, Scope: place.scope}
			plan, err := engine.Plan(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			have, err := plan.Filter(def, Postgres)
			if err != nil || !reflect.DeepEqual(have, c.want) {
				t.Errorf("%s as %s %v in %s: %+v, %v, want %+v", c.kind, c.role, c.attr, place.tenant, have, err, c.want)
			}
			// Of another tenant's rows there are none.
			req.Attr["tenant"], req.Tenant = "elsewhere", ""
			if plan, err = engine.Plan(t.Context(), req); err != nil || plan.Effect != events.Deny {
				t.Errorf("%s as %s of another tenant: %s, %v", c.kind, c.role, plan.Raw, err)
			}
			// Unless told, the plan asks for the tenant itself.
			req.Attr = nil
			if plan, err = engine.Plan(t.Context(), req); err == nil {
				have, err = plan.Filter(def, Postgres)
			}
			if err != nil || have.Kind == Always || (have.Kind == Where && !slices.Contains(have.Args, any(place.tenant))) {
				t.Errorf("%s as %s: %+v, %v", c.kind, c.role, have, err)
			}
		}
	}
}

// The kinds' attributes are those that the schemas allow, and no others.
func TestKindsFitTheirSchemas(t *testing.T) {
	engine := open(t, "embed:"+policies)
	tenant := map[string]any{"tenant": "default"}
	resources := []events.Resource{
		{Kind: "user", ID: "sam", Attr: tenant},
		{Kind: "tenant", ID: "default", Attr: tenant},
		{Kind: "command", ID: "1", Attr: map[string]any{"principal_id": "sam", "tenant": "default"}},
		{Kind: "audit", ID: "log", Attr: tenant},
	}
	for _, def := range append([]*kind.Definition{user.Kind}, kinds.All...) {
		row, err := def.Create("r1", "default", "sam", json.RawMessage(`{}`), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		resources = append(resources, events.Resource{Kind: def.Name, ID: row.ID, Attr: def.Attrs(row)})
		var schema struct {
			Properties map[string]any `json:"properties"`
		}
		raw, err := os.ReadFile(filepath.Join(policies, "_schemas", def.Name+".json"))
		if err == nil {
			err = json.Unmarshal(raw, &schema)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range def.AttrNames() {
			if schema.Properties[name] == nil {
				t.Errorf("%s: the schema does not know %s", def.Name, name)
			}
		}
	}
	for _, r := range resources {
		answer, err := engine.Check(t.Context(), Request{Principal: principal("alice", "admin"), Resource: r, Actions: []string{"read"}, Tenant: "default"})
		if err != nil || !answer.Allowed("read") {
			t.Errorf("%s: %+v, %v", r.Kind, answer, err)
		}
	}
}

// A tenant without policies of its own has the root's, schemas and all; one with some is narrower.
func TestScopesOfTenants(t *testing.T) {
	address := testkit.Cerbos(t, policies)
	for name, a := range map[string]Authorizer{"engine": open(t, "embed:"+policies), "PDP": open(t, "grpc://"+address, WithTimeout(time.Minute))} {
		for _, c := range []struct {
			tenant, kind, matched string
			want                  events.Effect
		}{
			{"globex", "contact", "resource.contact.vdefault", events.Allow},
			{"a-1_b", "contact", "resource.contact.vdefault", events.Allow},
			{"globex", "tenant", "resource.tenant.vdefault", events.Allow},
			{"acme", "contact", "resource.contact.vdefault/acme", events.Deny},
			{"acme", "tenant", "resource.tenant.vdefault/acme", events.Allow},
		} {
			r := events.Resource{Kind: c.kind, ID: "r1", Attr: map[string]any{"tenant": c.tenant, "owner_id": "sam"}}
			answer, err := a.Check(t.Context(), Request{Principal: of(c.tenant, "ann", "admin"), Resource: r, Actions: []string{"update"}, Tenant: c.tenant, Scope: c.tenant})
			if err != nil || answer.For("update").Effect != c.want || answer.For("update").Policy.Matched != c.matched {
				t.Errorf("%s: %s in %s: %+v, %v", name, c.kind, c.tenant, answer.Results, err)
			}
			r.Attr["odd"] = true
			answer, err = a.Check(t.Context(), Request{Principal: of(c.tenant, "ann", "admin"), Resource: r, Actions: []string{"update"}, Tenant: c.tenant, Scope: c.tenant})
			if err != nil || !strings.Contains(answer.For("update").Policy.Reason, "schema") {
				t.Errorf("%s: %s in %s is not held to its schema: %+v, %v", name, c.kind, c.tenant, answer.Results, err)
			}
			plan, err := a.Plan(t.Context(), PlanRequest{Principal: of(c.tenant, "ann", "admin"), Kind: c.kind, Action: "update", Tenant: c.tenant, Scope: c.tenant, Attr: map[string]any{"tenant": c.tenant, "changes": []string{}}})
			if c.kind != "tenant" && (err != nil || plan.Effect != c.want) {
				t.Errorf("%s: a plan for %s in %s: %s, %v", name, c.kind, c.tenant, plan.Raw, err)
			}
		}
	}
}

// Every denial in the table of promised rights says why.
func TestDenialsGiveReasons(t *testing.T) {
	engine := open(t, "embed:"+policies)
	owned := map[string]any{"owner_id": "rim", "tenant": "default"}
	here := map[string]any{"tenant": "default"}
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
		{principal("sam", "user"), events.Resource{Kind: "audit", ID: "log", Attr: here}, "tail", "only the roles auditor and admin may see the audit log"},
		{principal("sam", "user"), events.Resource{Kind: "user", ID: "rim", Attr: here}, "sync", "only the user or an admin may do this"},
		{principal("sam", "user", "auditor"), events.Resource{Kind: "command", ID: "1", Attr: map[string]any{"principal_id": "rim", "tenant": "default"}}, "read", "only the principal who gave the command or an admin may see it"},
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
		plan, err := engine.Plan(t.Context(), PlanRequest{Principal: c.who, Kind: "contact", Action: "update", Attr: map[string]any{"changes": []string{}, "tenant": "default"}})
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
