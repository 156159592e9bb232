package authz

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/testkit"
)

// conformanceCases is how many generated requests each pair of tests compares.
const conformanceCases = 400

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
		req := g.request(i)
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
			reasons[r.Policy.Reason]++
		}
	}
	t.Logf("%d allowed; reasons: %d", allowed, len(reasons))
	if allowed < 50 || len(reasons) < 8 {
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
		r := g.request(i)
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
	t.Run("shipped", func(t *testing.T) {
		engine := open(t, "embed:"+policies)
		pdp := open(t, "grpc://"+testkit.Cerbos(t, policies), WithTimeout(time.Minute))
		for _, roles := range [][]string{{"user"}, {"admin"}, {"manager"}, {"guest"}, {"auditor"}, {"user", "admin"}, {"manager", "user"}} {
			for _, action := range []string{"create", "read", "list", "update", "delete", "purge"} {
				for _, region := range []any{"eu", 7} { // 7 breaks the principal's schema
					req := PlanRequest{Kind: "contact", Action: action, Attr: map[string]any{"changes": []string{"notes"}},
						Principal: events.Principal{ID: "sam", Roles: roles, Attr: map[string]any{"region": region}}}
					have, err := engine.Plan(t.Context(), req)
					if err != nil {
						t.Fatal(err)
					}
					want, err := pdp.Plan(t.Context(), req)
					if err != nil {
						t.Fatal(err)
					}
					haveFilter, err := have.Filter(contact.Kind, Postgres)
					if err != nil {
						t.Fatalf("%+v: %v", req, err)
					}
					wantFilter, err := want.Filter(contact.Kind, Postgres)
					if err != nil {
						t.Fatalf("%+v: %v", req, err)
					}
					// The engine negates what a deny rule says twice: see failClosed.
					if have.Effect != want.Effect || haveFilter.Kind != wantFilter.Kind || have.Policy.Scope != want.Policy.Scope || have.Policy.Reason != want.Policy.Reason {
						t.Errorf("%+v:\nPDP    %+v %+v\nengine %+v %+v", req, want, wantFilter, have, haveFilter)
					}
				}
			}
		}
	})
	t.Run("generated", func(t *testing.T) {
		g := &generator{Rand: rand.New(rand.NewPCG(diffSeed(t), 4)), plain: true}
		var actions []genAction
		for i := range conformanceCases / 2 {
			actions = append(actions, g.action(fmt.Sprintf("act%d", i)))
		}
		dir := t.TempDir()
		writeFiles(t, dir, map[string]string{"doc.yaml": policyOf(actions), "roles.yaml": genRoles})
		engine, pdp := open(t, "embed:"+dir), open(t, "grpc://"+testkit.Cerbos(t, dir), WithTimeout(time.Minute))
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
			have.notNull = nil // what only the engine knows to add
			haveFilter, haveErr := have.Filter(docKind, SQLite)
			wantFilter, wantErr := want.Filter(docKind, SQLite)
			if (haveErr == nil) != (wantErr == nil) {
				t.Fatalf("%s: PDP %v, engine %v", a.yaml, wantErr, haveErr)
			}
			if diff := cmp.Diff(wantFilter, haveFilter); diff != "" {
				t.Fatalf("%s%+v: PDP - , engine + : %s", a.yaml, p, diff)
			}
			compared++
		}
		if t.Logf("%d plans compared", compared); compared < conformanceCases/4 {
			t.Error("too few")
		}
	})
}

// request makes a request about one of the shipped kinds; every third breaks a rule of its schema.
func (g *generator) request(i int) Request {
	people := []string{"sam", "rim", "alice", g.text() + "x"}
	p := events.Principal{ID: pick(g, people...), Attr: map[string]any{}}
	for _, role := range []string{"user", "admin", "manager", "auditor", "guest", "stranger"} {
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
	r := events.Resource{Kind: pick(g, "contact", "contact", "contact", "user", "command", "audit", "nonsense"), ID: pick(g, people...), Attr: map[string]any{}}
	if r.Kind == "contact" {
		r.Attr["owner_id"], r.Attr["tenant"], r.Attr["is_active"] = pick(g, people...), "default", g.IntN(2) == 0
		if g.IntN(3) == 0 {
			r.Attr["changes"] = pick(g, []string{}, []string{"notes"}, []string{"owner_id"}, []string{"notes", "owner_id"})
		}
	}
	if r.Kind == "command" {
		r.Attr["principal_id"] = pick(g, people...)
	}
	if i%3 == 0 {
		switch g.IntN(5) {
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
		}
	}
	return Request{Principal: p, Resource: r, Actions: []string{"create", "read", "list", "update", "delete", "sync", "tail", "purge"}}
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
