package authz

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/kinds"
)

// fresh is what Cerbos says of a question that nothing is remembered of.
func fresh(t *testing.T, e *Engine, req Request) ([]Result, error) {
	t.Helper()
	c, err := e.begin(t.Context(), req.Principal, req.Tenant, req.Scope)
	if err != nil {
		return nil, err
	}
	defer c.end()
	item := Item{Resource: req.Resource, Actions: req.Actions}
	actions, err := item.valid(req.Tenant)
	if err != nil {
		return nil, err
	}
	return c.ask(t.Context(), &item.Resource, actions)
}

// asksAlike compares what an engine answers, from memory mostly, with what Cerbos says.
func asksAlike(t *testing.T, e *Engine, req Request) {
	t.Helper()
	want, wantErr := fresh(t, e, req)
	have, err := e.Check(t.Context(), req)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("%+v\nhave %v\nwant %v", req, err, wantErr)
	}
	if diff := cmp.Diff(want, have.Results); diff != "" && err == nil {
		t.Fatalf("an answer from memory is not Cerbos' (- Cerbos, + memory):\n%s\nof %+v", diff, req)
	}
}

// asking makes questions: few of each sort, so that they meet in memory, and every sort.
type asking struct{ *rand.Rand }

func (g asking) of(of ...any) any { return of[g.IntN(len(of))] }

func (g asking) person() string {
	return g.of("u-1", "u-2", "u-3", "u-4", "sam", "tim", "writ", "break-glass", "Break_Glass", "admin", "", "üß").(string)
}

// value is anything that an attribute may be.
func (g asking) value() any {
	return g.of(g.person(), g.person(), "", "eu-east-1", "default", "acme", "OPEN", "APPROVED", "finance", "Finance", nil, true, false, 0.0, -1.0, 9999.0, 10000.0, 250000.0, 7,
		[]string{}, []string{"owner_id"}, []any{"region"}, []any{1.0, nil}, []string{g.person()}, map[string]any{"tenant": "acme", "roles": []any{"admin"}},
		map[string]any{"ip": "127.0.0.1", "time": "2026-11-28T10:00:00Z"}, map[string]any{"ip": 7.0}, "a\xffb", json.Number("5"), time.Unix(5, 0), events.Effect("allow"))
}

var attrNames = []string{"owner_id", "region", "department", "status", "amount", "is_active", "changes", "tenant", "principal_id", "elsewhere", "first_admin", "membership", "subject", "queue", "service", "reason", "request", "other"}

func (g asking) question() Request {
	place := places[g.IntN(len(places))]
	p := of(place.tenant, g.person(), everybody[g.IntN(len(everybody))]...)
	if g.IntN(2) == 0 {
		p.Attr["region"] = g.of("eu-east-1", "us", p.ID)
	}
	if g.IntN(3) == 0 {
		p.Attr["department"] = g.of("finance", "Finance", "it")
	}
	if g.IntN(2) == 0 {
		p.Attr["request"] = map[string]any{"ip": "10.0.0.1", "time": time.Unix(g.Int64N(1<<30), 0).UTC().Format(time.RFC3339)}
	}
	kinds := map[string][]string{"contact": {"create", "read", "update", "delete"}, "video": {"create", "read", "update", "delete", "upload", "process"},
		"expense": {"create", "read", "update", "delete", "approve", "reject", "view:approver"}, "user": {"read", "sync", "roles", "bootstrap", "delete"},
		"tenant": {"read", "create", "members"}, "command": {"read", "list"}, "audit": {"read", "list"}, "authzen": {"check"}, "dead": {"replay", "list"},
		"job": {"cancel"}, "webhook": {"create", "disable"}, "unknown": {"read"}}
	kind := slices.Sorted(maps.Keys(kinds))[g.IntN(len(kinds))]
	actions := kinds[kind]
	req := Request{Principal: p, Tenant: place.tenant, Scope: place.scope, Resource: events.Resource{Kind: kind, ID: g.of("r1", "r2", p.ID, g.person()+"x").(string),
		Version: g.Int64N(9), Attr: map[string]any{"tenant": place.tenant}}, Actions: []string{actions[g.IntN(len(actions))]}}
	if g.IntN(6) == 0 {
		req.Actions = actions
	}
	for name, v := range map[string][]any{"contact": {"owner_id", p.ID, "is_active", true}, "video": {"owner_id", p.ID, "region", "eu-east-1", "status", "PROCESSED"},
		"expense": {"owner_id", g.person(), "amount", g.of(5.0, 12000.0, 200000.0), "status", g.of("OPEN", "APPROVED"), "region", "eu-east-1"},
		"user":    {"membership", map[string]any{"tenant": place.tenant, "roles": []any{"admin"}}, "elsewhere", g.IntN(2) == 0},
		"command": {"principal_id", g.of(p.ID, "u-2")}, "audit": {"principal_id", g.of(p.ID, "u-2")}, "authzen": {"subject", g.of(p.ID, "u-2")}, "dead": {"reason", g.of("", "x")}} {
		for i := 0; name == kind && i < len(v); i += 2 {
			req.Resource.Attr[v[i].(string)] = v[i+1]
		}
	}
	return req
}

// mutations are questions that differ from one in one thing each.
func (g asking) mutations(req Request) []Request {
	var out []Request
	with := func(change func(*Request)) {
		r := req
		r.Principal.Attr, r.Resource.Attr = maps.Clone(req.Principal.Attr), maps.Clone(req.Resource.Attr)
		change(&r)
		out = append(out, r)
	}
	for _, name := range attrNames {
		with(func(r *Request) { r.Resource.Attr[name] = g.value() })
		with(func(r *Request) { r.Principal.Attr[name] = g.value() })
		with(func(r *Request) { delete(r.Resource.Attr, name) })
		with(func(r *Request) { delete(r.Principal.Attr, name) })
		with(func(r *Request) { r.Resource.Attr[name] = r.Principal.ID })
	}
	with(func(r *Request) { r.Principal.ID = g.person() })
	with(func(r *Request) { r.Resource.ID = g.person() })
	with(func(r *Request) { r.Resource.ID = r.Principal.ID })
	with(func(r *Request) { r.Principal.Version, r.Resource.Version = 77, 78 })
	with(func(r *Request) { r.Principal.Roles = everybody[g.IntN(len(everybody))] })
	with(func(r *Request) {
		r.Principal.Roles = slices.Clone(r.Principal.Roles)
		slices.Reverse(r.Principal.Roles)
	})
	with(func(r *Request) { r.Scope = places[g.IntN(len(places))].scope })
	with(func(r *Request) { r.Actions = append(slices.Clone(r.Actions), "read") })
	with(func(r *Request) { r.Actions = slices.Clone(r.Actions); slices.Reverse(r.Actions) })
	return out
}

// Whatever changes in a question, what is remembered of others is what Cerbos says of it.
func TestRememberedAnswersAreCerbos(t *testing.T) {
	e := open(t, "embed:"+policies).(*Engine)
	g := asking{rand.New(rand.NewPCG(diffSeed(t), 11))}
	asked := 0
	for asked < 6000 {
		req := g.question()
		for _, r := range append(g.mutations(req), req) {
			asksAlike(t, e, r)
			asked++
		}
	}
	c := e.current.Load()
	asks := asked
	if n := int(c.evaluated.Load()) - asks; n > asks*3/4 { // asksAlike asks Cerbos once itself
		t.Errorf("%d of %d questions were put: too few from memory to mean anything", n, asks)
	}
}

// ownRules are conditions that see ids in ways of their own.
var ownRules = []string{
	"R.attr.owner_id == P.id", "R.attr.owner_id != P.id", "R.attr.owner_id.startsWith(P.id)", `P.id != "sam" && R.attr.owner_id == P.id`,
	`R.attr.owner_id != "tim" && R.attr.owner_id == P.id`, "R.attr.owner_id == P.id && R.attr.owner_id != P.attr.region", "R.attr.owner_id == P.id || R.id == P.id",
	`R.attr.owner_id == P.id && R.id != "tim"`, "R.attr.owner_id == P.id && P.attr.region != P.id", "R.attr.owner_id == P.id || R.attr.owner_id == P.attr.region",
	`R.attr.owner_id == P.id || R.id.startsWith("t")`, `[R].exists(x, x.attr.owner_id.startsWith("t"))`, `R.attr["owner_id"].startsWith("t")`, "P.id in [R.attr.owner_id]",
	"size(R.attr) > 3", `["u-1"].exists(P, P == R.attr.owner_id)`, "R.attr.owner_id < P.id", "R.attr.owner_id == R.id", "R.id == P.attr.region", `"region" in R.attr`,
	"has(R.attr.region) && R.attr.owner_id == P.id", `"own" in runtime.effectiveDerivedRoles`, "P.attr.region in R.attr.changes", "R.attr == P.attr", `P.?attr.region.orValue("") == R.attr.owner_id`,
	`cel.bind(x, R.attr, x.owner_id == P.id)`, "{P.id: 1}[R.attr.owner_id] == 1", `request.principal.id == request.resource.attr.owner_id`, "V.mine", "C.who == R.attr.owner_id", "P.id == C.who",
	`has(P.attr.request) && P.attr.request.ip.startsWith("1")`, `timestamp(P.attr.request.time).getHours() < 12 || R.attr.owner_id == P.id`, `["10.0.0.0/8"].exists(n, P.attr.request.ip.inIPAddrRange(n))`,
	`P.attr.request.ip == R.attr.region`, `P.attr.request.time < P.attr.region`, "R.attr.region == null", "R.attr.owner_id == P.id && R.attr.amount < 10000", `R.kind == "doc" && R.attr.owner_id == P.id`, `P.roles[0] == R.attr.owner_id`, `R.attr.department.lowerAscii() == "finance"`,
}

func ownPolicy(expr string, output string) map[string]string {
	quoted, _ := json.Marshal(expr)
	return map[string]string{
		"own.yaml": "apiVersion: api.cerbos.dev/v1\nderivedRoles:\n  name: own\n  definitions:\n    - {name: own, parentRoles: [user], condition: {match: {expr: R.attr.owner_id == P.id}}}\n",
		"doc.yaml": "apiVersion: api.cerbos.dev/v1\nresourcePolicy:\n  resource: doc\n  version: default\n  importDerivedRoles: [own]\n  schemas: {resourceSchema: {ref: cerbos:///doc.json}}\n" +
			"  constants: {local: {who: u-1}}\n  variables: {local: {mine: R.attr.owner_id == P.id}}\n  rules:\n" +
			"    - {actions: [read], effect: EFFECT_ALLOW, roles: [user, admin], condition: {match: {expr: " + string(quoted) + "}}, output: {when: {conditionNotMet: " + output + "}}}\n" +
			"    - {actions: [read], effect: EFFECT_ALLOW, derivedRoles: [own]}\n" +
			"    - {actions: [update], effect: EFFECT_DENY, roles: ['*'], condition: {match: {none: {of: [{expr: " + string(quoted) + "}]}}}}\n    - {actions: [update], effect: EFFECT_ALLOW, roles: ['*']}\n",
	}
}

// docSchemas want something else of a doc each.
var docSchemas = []string{`{"type": "object"}`,
	`{"type": "object", "properties": {"owner_id": {"type": "string", "minLength": 2}, "status": {"enum": ["OPEN", "u-1"]}, "amount": {"type": "number", "minimum": 0}}}`,
	`{"type": "object", "properties": {"owner_id": {"type": "string", "pattern": "^[rsu]"}, "region": {"enum": [null, "us"]}}}`,
	`{"type": "object", "properties": {"owner_id": {"enum": ["u-1", "u-2", "sam"]}}, "required": ["owner_id"], "additionalProperties": true}`,
	`{"type": "object", "not": {"properties": {"region": {"const": "us"}}, "required": ["region"]}}`,
	`{"type": "object", "properties": {"changes": {"type": "array", "items": {"type": "string", "maxLength": 4}}, "request": {"type": "object", "properties": {"ip": {"type": "string"}}}}}`,
}

func ownEngine(t *testing.T, i int) (*Engine, string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "_schemas"), 0o700); err != nil {
		t.Fatal(err)
	}
	files := ownPolicy(ownRules[i], []string{`'"no"'`, `'"no, " + P.id'`, `'"no, " + R.id'`}[i%3])
	files["_schemas/doc.json"] = docSchemas[i%len(docSchemas)]
	if i%4 == 0 {
		files["tim.yaml"] = "apiVersion: api.cerbos.dev/v1\nprincipalPolicy:\n  principal: u-3\n  version: default\n  rules:\n    - resource: doc\n      actions: [{action: '*', effect: EFFECT_ALLOW}]\n"
	}
	writeFiles(t, dir, files)
	return open(t, "embed:"+dir).(*Engine), fmt.Sprintf("%s with %s", ownRules[i], files["_schemas/doc.json"])
}

// The same of rules that look at ids and attributes in other ways than the policies that are shipped.
func TestRememberedAnswersAreCerbosWhateverRulesRead(t *testing.T) {
	seed := diffSeed(t)
	for i := range ownRules {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			e, what := ownEngine(t, i)
			t.Log(what)
			g := asking{rand.New(rand.NewPCG(seed, uint64(i)))}
			for range 4 {
				req := g.question()
				req.Resource.Kind, req.Actions = "doc", []string{"read", "update"}[:1+g.IntN(2)]
				for _, r := range append(g.mutations(req), req) {
					asksAlike(t, e, r)
				}
			}
		})
	}
}

// Policies that nobody wrote: what is remembered of other rows and people is what Cerbos says of each.
func TestRememberedAnswersAreCerbosOnAnyPolicy(t *testing.T) {
	g := &generator{Rand: rand.New(rand.NewPCG(diffSeed(t), 12)), zero: true}
	var actions []genAction
	for i := range 60 {
		actions = append(actions, g.action(fmt.Sprintf("act%d", i)))
	}
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"doc.yaml": policyOf(actions), "roles.yaml": genRoles, "sam.yaml": g.principalPolicyOf("sam", actions)})
	e := open(t, "embed:"+dir).(*Engine)
	for _, a := range actions {
		for i := range 30 {
			p, row := g.principal(g.IntN(5)), g.row(fmt.Sprint("doc-", i%3))
			if g.IntN(2) == 0 {
				p.ID = fmt.Sprint("u-", g.IntN(3))
				row.Value.(*doc).OwnerID = fmt.Sprint("u-", g.IntN(3))
			}
			asksAlike(t, e, Request{Principal: p, Resource: resourceOf(row), Actions: []string{a.name}})
		}
	}
}

// plansAlike compares a plan, from memory mostly, with what Cerbos' planner says.
func plansAlike(t *testing.T, e *Engine, req PlanRequest, defs ...*kind.Definition) {
	t.Helper()
	want, wantErr := e.current.Load().makePlan(t.Context(), req)
	have, err := e.Plan(t.Context(), req)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("%+v\nhave %v\nwant %v", req, err, wantErr)
	}
	if err != nil {
		return
	}
	want.known = req.Attr
	if canonicalPlan(t, have.Raw) != canonicalPlan(t, want.Raw) || have.Effect != want.Effect || have.Extent() != want.Extent() || !cmp.Equal(have.Policy, want.Policy) {
		t.Fatalf("a plan from memory is not Cerbos'\nhave %s %+v\nwant %s %+v\nof %+v", have.Raw, have.Policy, want.Raw, want.Policy, req)
	}
	for _, def := range defs {
		f, err := have.Filter(def, SQLite)
		g, wantErr := want.Filter(def, SQLite)
		if (err == nil) != (wantErr == nil) || f.Kind != g.Kind || !cmp.Equal(sortedParts(f), sortedParts(g)) {
			t.Fatalf("a filter from memory is another\nhave %+v, %v\nwant %+v, %v\nof %+v", f, err, g, wantErr, req)
		}
	}
}

// sortedParts is a filter without the order of its parts, of which Cerbos promises none.
func sortedParts(f Filter) []string {
	parts := strings.FieldsFunc(f.SQL, func(r rune) bool { return strings.ContainsRune("() ", r) })
	for _, a := range f.Args {
		parts = append(parts, fmt.Sprintf("%T %v", a, a))
	}
	slices.Sort(parts)
	parts = slices.DeleteFunc(parts, func(s string) bool { return s == "OR" || s == "AND" }) // of one part there is none
	return slices.Compact(parts)
}

// canonicalPlan writes a plan without the order of what stands beside each other, each once.
func canonicalPlan(t *testing.T, raw json.RawMessage) string {
	t.Helper()
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	var order func(v any) any
	order = func(v any) any {
		m, ok := v.(map[string]any)
		if !ok {
			return v
		}
		for k := range m {
			m[k] = order(m[k])
		}
		if ops, ok := m["operands"].([]any); ok {
			if m["operator"] == "get-field" { // of the principal's attributes, which does not have it
				return map[string]any{"missing": ops[len(ops)-1]}
			}
			for i := range ops {
				ops[i] = order(ops[i])
			}
			text := func(v any) string { b, _ := json.Marshal(v); return string(b) }
			if op := m["operator"]; op == "and" || op == "or" || op == "eq" || op == "ne" || op == "struct" {
				slices.SortFunc(ops, func(a, b any) int { return strings.Compare(text(a), text(b)) })
				if op == "and" || op == "or" {
					ops = slices.CompactFunc(ops, func(a, b any) bool { return text(a) == text(b) })
				}
				if len(ops) == 1 {
					return ops[0].(map[string]any)["expression"]
				}
				m["operands"] = ops
			}
		}
		return m
	}
	b, err := json.Marshal(order(v))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRememberedPlansAreCerbos(t *testing.T) {
	e := open(t, "embed:"+policies).(*Engine)
	g := asking{rand.New(rand.NewPCG(diffSeed(t), 13))}
	for range 15 {
		req := g.question()
		for _, r := range append(g.mutations(req), req) {
			if g.IntN(2) == 0 {
				delete(r.Resource.Attr, "owner_id")
			}
			var defs []*kind.Definition
			if def, ok := kinds.ByName(r.Resource.Kind); ok {
				defs = append(defs, def)
			}
			for _, action := range []string{r.Actions[0], "list"} {
				plansAlike(t, e, PlanRequest{Principal: r.Principal, Kind: r.Resource.Kind, Action: action, Attr: r.Resource.Attr, Tenant: r.Tenant, Scope: r.Scope}, defs...)
			}
		}
	}
}

func TestRememberedPlansAreCerbosWhateverRulesRead(t *testing.T) {
	seed := diffSeed(t)
	for i := range ownRules {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			e, what := ownEngine(t, i)
			t.Log(what)
			g := asking{rand.New(rand.NewPCG(seed, uint64(i)))}
			req := g.question()
			req.Resource.Kind = "doc"
			for _, r := range append(g.mutations(req), req) {
				if g.IntN(2) == 0 {
					r.Resource.Attr = map[string]any{"tenant": r.Tenant}
				}
				plansAlike(t, e, PlanRequest{Principal: r.Principal, Kind: "doc", Action: []string{"read", "update"}[g.IntN(2)], Attr: r.Resource.Attr, Tenant: r.Tenant, Scope: r.Scope}, docKind)
			}
		})
	}
}

// Other people, rows and versions are the same question; the answers are each their own.
func TestOtherPeopleAreTheSameQuestion(t *testing.T) {
	e := open(t, "embed:"+policies).(*Engine)
	seen := map[string]bool{}
	for i := range 200 {
		id := fmt.Sprintf("user-%d", i)
		req := benchRequest()
		req.Principal.ID, req.Principal.Version, req.Resource.ID, req.Resource.Version, req.Resource.Attr["owner_id"] = id, int64(i), "c"+id, int64(i), id
		req.Principal.Attr["request"] = map[string]any{"ip": "127.0.0.1", "time": id}
		answer, err := e.Check(t.Context(), req)
		if err != nil || !answer.Allowed("update") || answer.EvaluatedAt.IsZero() || seen[answer.CallID] {
			t.Fatalf("%s: %+v, %v, want an allow with a call id of its own", id, answer, err)
		}
		seen[answer.CallID] = true
		plan, err := e.Plan(t.Context(), PlanRequest{Principal: req.Principal, Kind: "contact", Action: "update", Attr: map[string]any{"tenant": "default", "changes": []string{}}, Tenant: "default"})
		if err != nil || !strings.Contains(string(plan.Raw), `"`+id+`"`) || seen[plan.CallID] || plan.Took <= 0 {
			t.Fatalf("%s: %s, %v, want a plan about what is theirs", id, plan.Raw, err)
		}
		filter, err := plan.Filter(contact.Kind, Postgres)
		if err != nil || !slices.Contains(filter.Args, any(id)) {
			t.Fatalf("%s: %+v, %v, want a filter with their id", id, filter, err)
		}
		filter.Args[0] = "spoilt" // is the caller's own
	}
	if n := e.current.Load().evaluated.Load(); n != 2 {
		t.Errorf("%d questions were put, want one check and one plan", n)
	}
}

// What a rule reads of the time is never remembered, nor what may read anything.
func TestAnswersThatDependOnTheTimeAreNotRemembered(t *testing.T) {
	for _, expr := range []string{`timestamp("2020-01-01T00:00:00Z") < now()`, `timeSince(timestamp("2020-01-01T00:00:00Z")) > duration("1s")`, `P.attr.request.ip != R.id`, `request.principal.attr["request"].ip != "x"`} {
		quoted, _ := json.Marshal(expr)
		e := open(t, "embed:"+policyDir(t, "    - {actions: [read], effect: EFFECT_ALLOW, roles: [user], condition: {match: {expr: "+string(quoted)+"}}}\n")).(*Engine)
		p := principal("u-1", "user")
		p.Attr["request"] = map[string]any{"ip": "127.0.0.1", "time": "2026-11-28T10:00:00Z"}
		for range 3 {
			if answer, err := e.Check(t.Context(), Request{Principal: p, Resource: docWith(nil), Actions: []string{"read"}}); err != nil || !answer.Allowed("read") {
				t.Fatalf("%s: %+v, %v", expr, answer, err)
			}
			if _, err := e.Plan(t.Context(), PlanRequest{Principal: p, Kind: "doc", Action: "read"}); err != nil {
				t.Fatal(err)
			}
		}
		s := e.current.Load()
		checks, _ := s.checks.size()
		if plans, _ := s.plans.size(); s.evaluated.Load() != 6 || checks != 0 || plans != 0 {
			t.Errorf("%s: %d questions of 6 were put, %d answers and %d plans are remembered, want none", expr, s.evaluated.Load(), checks, plans)
		}
	}
}

// The address and the time of a request are another question only where it makes a difference.
func TestConditionsOnTheRequestAreAnsweredFirst(t *testing.T) {
	e := open(t, "embed:"+policies).(*Engine)
	for i := range 60 {
		for hour, want := range map[int]events.Effect{3: events.Deny, 12: events.Allow} {
			p := principal("u-1", "manager")
			p.Attr["department"], p.Attr["request"] = "finance", map[string]any{"ip": "10.0.0.1", "time": fmt.Sprintf("2026-11-28T%02d:%02d:00Z", hour, i)}
			req := Request{Principal: p, Tenant: "default", Actions: []string{"approve"}, Resource: events.Resource{Kind: "expense", ID: fmt.Sprint("e", i),
				Attr: map[string]any{"tenant": "default", "owner_id": "u-2", "amount": 100000.0, "status": "OPEN"}}}
			asksAlike(t, e, req)
			if a, err := e.Check(t.Context(), req); err != nil || a.For("approve").Effect != want {
				t.Fatalf("at %d:%d: %+v, %v, want %s", hour, i, a, err, want)
			}
			plansAlike(t, e, PlanRequest{Principal: p, Kind: "expense", Action: "approve", Attr: map[string]any{"tenant": "default"}, Tenant: "default"}, kinds.All[2])
		}
	}
	if checks, _ := e.current.Load().checks.size(); checks != 2 {
		t.Errorf("%d answers are remembered, want one by day and one by night", checks)
	}
	if plans, _ := e.current.Load().plans.size(); plans != 2 {
		t.Errorf("%d plans are remembered, want one by day and one by night", plans)
	}
}

// An edited policy answers itself: nothing of the one before is left.
func TestReloadEmptiesWhatIsRemembered(t *testing.T) {
	dir := policyDir(t, allowRule)
	e, told := openWatched(t, dir, slog.New(slog.DiscardHandler))
	plan := func() Plan {
		t.Helper()
		p, err := e.Plan(t.Context(), PlanRequest{Principal: principal("sam", "user"), Kind: "doc", Action: "read"})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for i, want := range []bool{true, false, true} {
		if i > 0 {
			writeFiles(t, dir, map[string]string{"doc.yaml": docPolicy([]string{allowRule, denyRule}[i%2]) + fmt.Sprintf("# %d\n", i)})
			next(t, told)
			if n, _ := e.current.Load().checks.size(); n != 0 {
				t.Errorf("%d answers are remembered of the policies before", n)
			}
		}
		for range 2 {
			if have, p := reads(t, e), plan(); have != want || (p.Effect == events.Allow) != want || p.Policy.Revision != e.Revision() {
				t.Errorf("revision %s: read %v, plan %s of revision %s, want %v", e.Revision(), have, p.Effect, p.Policy.Revision, want)
			}
		}
		checks, _ := e.current.Load().checks.size()
		if plans, _ := e.current.Load().plans.size(); checks != 1 || plans != 1 {
			t.Errorf("%d answers and %d plans are remembered, want one each", checks, plans)
		}
	}
}

// A memo keeps its bounds, whoever asks it what, and never gives what another key stands for.
func TestMemoIsBounded(t *testing.T) {
	const entries, bytes = 640, 200_000
	m := newMemo[int](entries, bytes)
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for i := range 20_000 {
				key := fmt.Appendf(nil, "%d-%s", i, strings.Repeat("x", i%300))
				if v, ok := m.get(key); ok && v != i {
					t.Errorf("%s: %d, want %d", key, v, i)
				}
				m.put(key, i, (i+g)%500)
				if v, ok := m.get([]byte("0-")); ok && v != 0 {
					t.Errorf("0: %d", v)
				}
			}
		})
	}
	all.Wait()
	if n, size := m.size(); n > entries || size > bytes || n == 0 {
		t.Errorf("%d entries of %d bytes, want at most %d of %d", n, size, entries, bytes)
	}
	m.put(make([]byte, bytes), 1, 0)
	if _, ok := m.get(make([]byte, bytes)); ok {
		t.Error("one entry took all the room")
	}
	if v, ok := m.get([]byte("0-")); !ok || v != 0 {
		t.Errorf("what is asked for all the time was forgotten: %d, %v", v, ok)
	}
}

// Questions that differ in anything that a policy may see have different keys.
func TestQuestionsThatDifferHaveDifferentKeys(t *testing.T) {
	x, whole := &readIndex{}, reader{}
	whole.whole("request")
	all := &whole.readSet
	seen := map[string]string{}
	for _, attr := range []map[string]any{
		nil, {"a": nil}, {"a": false}, {"a": true}, {"a": ""}, {"a": "z"}, {"a": 0.0}, {"a": 1.0}, {"a": "1"}, {"a": []any{}}, {"a": []any{nil}}, {"a": map[string]any{}},
		{"a": []any{"b", "c"}}, {"a": []any{"bc"}}, {"a": []any{[]any{"b"}, "c"}}, {"a": map[string]any{"b": "c"}}, {"ab": "c"}, {"a": "bc"}, {"a": "b", "c": "d"},
		{"a": "."}, {"a": "=."}, {"a.": "b"}, {"": "a"}, {"a": "b\x01c\x01d"},
	} {
		for _, roles := range [][]string{{"user"}, {"user", "admin"}, {"admin", "user"}, {"useradmin"}} {
			for _, id := range []string{"a", "a.", "b"} {
				key, err := x.appendAsker(nil, all, &askedBy{id, roles, attr}, false)
				if err != nil {
					t.Fatal(err)
				}
				for _, resource := range []string{"a", "c"} {
					for _, of := range []map[string]any{attr, {"a": "b"}} {
						key, err := x.appendResource(slices.Clone(key), all, resource, of, id)
						if err != nil {
							t.Fatal(err)
						}
						name := fmt.Sprintf("%q %q %#v %q %#v", id, roles, attr, resource, of)
						if other, ok := seen[string(key)]; ok && other != name {
							t.Errorf("%s is taken for %s", name, other)
						}
						seen[string(key)] = name
					}
				}
			}
		}
	}
}
