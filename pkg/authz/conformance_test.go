package authz

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	policyv1 "github.com/cerbos/cerbos/api/genpb/cerbos/policy/v1"
	"github.com/cerbos/cerbos/private/ruletable/compile"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kinds"
	"github.com/writ-project/writ/pkg/testkit"
)

// conformanceCases is how many generated requests each pair of tests compares.
const conformanceCases = 1000

// same are the parts of an answer that both implementations must agree on.
var same = cmp.Options{cmpopts.IgnoreFields(Answer{}, "CallID", "Revision", "EvaluatedAt", "Took"), cmpopts.IgnoreFields(events.Policy{}, "Revision")}

// The engine and a PDP give the same answers on the policies that are shipped,
// to requests that fit them and requests that do not.
func TestEngineAndPDPAgree(t *testing.T) {
	engine := open(t, "embed:"+policies)
	pdp := open(t, "grpc://"+testkit.Cerbos(t, policies), WithTimeout(time.Minute))
	g := &generator{Rand: rand.New(rand.NewPCG(diffSeed(t), 2))}
	allowed, reasons := 0, map[string]int{}
	for i := range conformanceCases {
		req := g.request(t, i)
		have, err := engine.Check(t.Context(), req)
		if err != nil {
			t.Fatalf("engine: %v: %+v", err, req)
		}
		want, err := pdp.Check(t.Context(), req)
		if err != nil {
			t.Fatalf("PDP: %v: %+v", err, req)
		}
		if diff := cmp.Diff(want, have, same); diff != "" {
			t.Fatalf("PDP - , engine + : %s\n%+v", diff, req)
		}
		for _, r := range have.Results {
			if r.Effect == events.Allow {
				allowed++
			}
			// Lists are asked for by plan, which has a reason of its own.
			if r.Effect == events.Deny && r.Policy.Reason == "" && r.Action != "list" && slices.Contains(shipped(t)[req.Resource.Kind], r.Action) {
				t.Errorf("%s of %s is denied without a reason: %+v", r.Action, req.Resource.Kind, req)
			}
			reasons[r.Policy.Reason]++
		}
	}
	t.Logf("%d allowed; reasons: %d", allowed, len(reasons))
	if allowed < 200 || len(reasons) < 30 {
		t.Errorf("the cases are too much alike: %d allowed, reasons %v", allowed, reasons)
	}
}

// A batch is answered like its items, in order, also when a PDP takes it in parts.
func TestBatchesAgree(t *testing.T) {
	engine := open(t, "embed:"+policies)
	pdp := open(t, "grpc://"+testkit.Cerbos(t, policies), WithTimeout(time.Minute))
	g := &generator{Rand: rand.New(rand.NewPCG(diffSeed(t), 3))}
	batch := Batch{Principal: principal("sam", "user")}
	for i := range 3*pdpBatch + 7 {
		r := g.request(t, i)
		batch.Items = append(batch.Items, Item{Resource: r.Resource, Actions: r.Actions})
	}
	have, err := engine.CheckAll(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	want, err := pdp.CheckAll(t.Context(), batch)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, have, same); diff != "" {
		t.Fatalf("PDP - , engine + : %s", diff)
	}
	for i, item := range batch.Items {
		one, err := engine.Check(t.Context(), Request{Principal: batch.Principal, Resource: item.Resource, Actions: item.Actions})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(one, have[i], same); diff != "" {
			t.Fatalf("item %d: alone - , in the batch + : %s", i, diff)
		}
	}
}

// Plans agree, and become the same SQL, on the shipped policies and on generated ones.
func TestPlansAgree(t *testing.T) {
	if ranElsewhere(t) {
		return
	}
	t.Run("shipped", func(t *testing.T) {
		engine := open(t, "embed:"+policies)
		pdp := open(t, "grpc://"+testkit.Cerbos(t, policies), WithTimeout(time.Minute))
		g := &generator{Rand: rand.New(rand.NewPCG(diffSeed(t), 5))}
		for i := range conformanceCases / 2 {
			r := g.request(t, i)
			def := pick(g, kinds.All...)
			req := PlanRequest{Principal: r.Principal, Kind: def.Name, Action: pick(g, append(slices.Clone(shipped(t)[def.Name]), "purge")...), Scope: r.Scope,
				Attr: map[string]any{"changes": pick(g, []string{}, []string{"notes"}, []string{"owner_id"}), "tenant": pick(g, "default", "acme", "globex")}}
			if g.IntN(3) == 0 {
				delete(req.Attr, "tenant")
			}
			have, err := engine.Plan(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			want, err := pdp.Plan(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			haveFilter, err := have.Filter(def, Postgres)
			if err != nil {
				t.Fatalf("%+v: %v", req, err)
			}
			wantFilter, err := want.Filter(def, Postgres)
			if err != nil {
				t.Fatalf("%+v: %v", req, err)
			}
			// The engine negates what a deny rule says twice: see failClosed.
			if have.Effect != want.Effect || haveFilter.Kind != wantFilter.Kind || have.Policy.Scope != want.Policy.Scope || have.Policy.Reason != want.Policy.Reason {
				t.Errorf("%+v:\nPDP    %+v %+v\nengine %+v %+v", req, want, wantFilter, have, haveFilter)
			}
		}
	})
	t.Run("generated", func(t *testing.T) {
		g := &generator{Rand: rand.New(rand.NewPCG(diffSeed(t), 4)), plain: true}
		var actions []genAction
		for i := range conformanceCases / 5 {
			actions = append(actions, g.action(fmt.Sprintf("act%d", i)))
		}
		dir := t.TempDir()
		writeFiles(t, dir, map[string]string{"doc.yaml": policyOf(actions), "roles.yaml": genRoles})
		engine, pdp := open(t, "embed:"+dir), open(t, "grpc://"+testkit.Cerbos(t, dir), WithTimeout(time.Minute))
		// Their texts may differ where both mean the same (x OR NULL), so it is the rows that are compared.
		rows := &round{}
		for i := range 3 * diffRows {
			rows.rows = append(rows.rows, g.row(fmt.Sprintf("doc-%d", i)))
		}
		db := openSQLite(t)
		rows.store(t, db)
		compared := 0
		for _, a := range actions {
			p := g.principal(g.IntN(5))
			have, err := engine.Plan(t.Context(), PlanRequest{Principal: p, Kind: "doc", Action: a.name})
			if err != nil {
				continue // only the engine knows that a plan cannot be trusted
			}
			want, err := pdp.Plan(t.Context(), PlanRequest{Principal: p, Kind: "doc", Action: a.name})
			if err != nil {
				t.Fatal(err)
			}
			haveFilter, haveErr := have.Filter(docKind, SQLite)
			wantFilter, wantErr := want.Filter(docKind, SQLite)
			if (haveErr == nil) != (wantErr == nil) {
				t.Fatalf("%s: PDP %v, engine %v", a.yaml, wantErr, haveErr)
			}
			if haveErr != nil {
				continue
			}
			ids := selects(t, db, []diffCase{{filter: wantFilter}, {filter: haveFilter}})
			if diff := cmp.Diff(ids[0], ids[1]); diff != "" {
				t.Fatalf("%s%+v: PDP - %s\n, engine + %s\n: %s", a.yaml, p, wantFilter.SQL, haveFilter.SQL, diff)
			}
			compared++
		}
		if t.Logf("%d plans compared", compared); compared < conformanceCases/10 {
			t.Error("too few")
		}
	})
}

// shipped are the kinds that there are policies for, and what these say can be done with them.
func shipped(t testing.TB) map[string][]string {
	t.Helper()
	all, err := shippedOnce()
	if err != nil {
		t.Fatal(explain(err))
	}
	return all
}

var shippedOnce = sync.OnceValues(func() (map[string][]string, error) {
	table, err := compile.Compile(context.Background(), os.DirFS(policies))
	if err != nil {
		return nil, err
	}
	all := map[string][]string{}
	for _, row := range table.GetRules() {
		kind, action := row.GetResource(), nameOf(row.GetAction())
		if row.GetPolicyKind() == policyv1.Kind_KIND_RESOURCE && !action.pattern && !slices.Contains(all[kind], action.text) {
			all[kind] = append(all[kind], action.text)
		}
	}
	for _, actions := range all {
		slices.Sort(actions)
	}
	return all, nil
})

// attrs are attributes that fit a kind's schema, beside those that there are.
func (g *generator) attrs(t testing.TB, kind string, attr map[string]any) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(policies, "_schemas", kind+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Required   []string
		Properties map[string]struct {
			Type string
			Enum []any
		}
	}
	if err := json.Unmarshal(raw, &schema); err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(schema.Properties)) {
		p := schema.Properties[name]
		if attr[name] != nil || !slices.Contains(schema.Required, name) && g.IntN(2) == 0 {
			continue
		}
		switch {
		case len(p.Enum) > 0:
			attr[name] = pick(g, p.Enum...)
		case p.Type == "string":
			attr[name] = pick(g, "sam", "rim", "x")
		case p.Type == "number", p.Type == "integer":
			attr[name] = g.IntN(100)
		case p.Type == "boolean":
			attr[name] = g.IntN(2) == 0
		case p.Type == "array":
			attr[name] = pick(g, []string{}, []string{"notes"}, []string{"owner_id"})
		}
	}
}

// request makes a request about one of the shipped kinds; every third breaks a rule of its schema.
func (g *generator) request(t testing.TB, i int) Request {
	t.Helper()
	shipped := shipped(t)
	people := []string{"sam", "rim", "alice", "break-glass", g.text() + "x"}
	tenant := pick(g, "default", "default", "acme", "globex")
	p := events.Principal{ID: pick(g, people...), Attr: map[string]any{"tenant": tenant}}
	for _, role := range []string{"user", "admin", "manager", "auditor", "finance", "guest", "stranger"} {
		if g.IntN(4) == 0 {
			p.Roles = append(p.Roles, role)
		}
	}
	if len(p.Roles) == 0 {
		p.Roles = []string{pick(g, "user", "user", "guest")}
	}
	if g.IntN(2) == 0 {
		p.Attr["region"] = pick[any](g, g.text(), "eu-east-1", "us-east-1")
	}
	if g.IntN(2) == 0 {
		p.Attr["department"] = pick(g, "finance", "FINANCE", "sales", g.text())
	}
	if g.IntN(2) == 0 {
		p.Attr["request"] = map[string]any{"ip": pick(g, "10.0.0.1", "127.0.0.1", "203.0.113.7", "::1", g.text()), "time": pick(g, "2026-03-04T12:00:00Z", "2026-03-04T23:00:00+01:00", g.text())}
	}
	names := slices.Sorted(maps.Keys(shipped))
	kind := pick(g, append(names, "contact", "video", "video", "expense", "expense", "nonsense")...)
	r := events.Resource{Kind: kind, ID: pick(g, people...), Attr: map[string]any{"tenant": tenant}}
	switch kind {
	case "contact", "video", "expense":
		r.Attr["owner_id"] = pick(g, people...)
		if kind != "expense" {
			r.Attr["is_active"] = g.IntN(2) == 0
		} else {
			r.Attr["amount"], r.Attr["status"] = pick(g, 0, 9999.99, 10000, 99999, 100000, 1e9), pick(g, "OPEN", "OPEN", "APPROVED", "REJECTED")
		}
		if kind != "contact" && g.IntN(3) > 0 {
			r.Attr["region"] = pick(g, "eu-east-1", "us-east-1")
		}
		if g.IntN(3) == 0 {
			r.Attr["changes"] = pick(g, []string{}, []string{"notes"}, []string{"owner_id"}, []string{"notes", "owner_id"}, []string{"region"}, []string{"status"})
		}
	case "command", "audit":
		r.Attr["principal_id"] = pick(g, people...)
	case "authzen":
		r.Attr["subject"] = pick(g, people...)
	case "nonsense":
	default:
		g.attrs(t, kind, r.Attr)
	}
	if i%3 == 0 {
		switch g.IntN(9) {
		case 0:
			r.Attr["email"] = "sam@example.com"
		case 1:
			delete(r.Attr, "owner_id")
		case 2:
			r.Attr["owner_id"] = 7
		case 3:
			r.Attr["changes"] = "owner_id"
		case 4:
			p.Attr["department"] = []string{"finance"}
		case 5:
			r.Attr["tenant"] = pick(g, "default", "acme", "globex")
		case 6:
			delete(r.Attr, "tenant")
		case 7:
			delete(r.Attr, "amount")
		case 8:
			delete(p.Attr, "tenant")
		}
	}
	actions := shipped[kind]
	if g.IntN(2) == 0 { // one alone: a schema is left out only if it is for every action of the request
		actions = []string{pick(g, append(slices.Clone(actions), "purge")...)}
	}
	req := Request{Principal: p, Resource: r, Actions: append(slices.Clone(actions), "purge")}
	if len(actions) == 1 {
		req.Actions = actions
	}
	if tenant != "default" {
		req.Scope = tenant
	}
	return req
}

// A PDP that has gone and come back is unavailable in between, never a denial.
func TestPDPGoneIsUnavailable(t *testing.T) {
	server := testkit.CerbosServer(t, policies)
	pdp := open(t, "grpc://"+server.GRPCAddr(), WithRevision("r1"))
	if err := pdp.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	server.Stop(t)
	wantUnavailable(t, pdp)
}
