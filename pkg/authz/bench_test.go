package authz

import (
	"fmt"
	"testing"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/kinds"
	"github.com/writ-project/writ/pkg/testkit"
)

func benchRequest() Request {
	return Request{Principal: events.Principal{ID: "sam", Version: 3, Roles: []string{"user"}, Attr: map[string]any{"region": "eu-east-1", "tenant": "default"}},
		Resource: events.Resource{Kind: "contact", ID: "c1", Version: 7, Attr: map[string]any{"owner_id": "sam", "tenant": "default", "is_active": true, "changes": []string{"notes"}}},
		Actions:  []string{"update"}, Tenant: "default"}
}

func benchCheck(b *testing.B, a Authorizer) {
	req := benchRequest()
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			answer, err := a.Check(b.Context(), req)
			if err != nil || !answer.Allowed("update") {
				b.Errorf("%+v, %v", answer, err)
				return
			}
		}
	})
}

func BenchmarkEngineCheck(b *testing.B) { benchCheck(b, open(b, "embed:"+policies)) }

// manyRequests are questions as real load asks: people with a role each and rows
// of theirs and others', every one of them new. One in ten is denied.
func manyRequests(principals, resources int) []Request {
	var out []Request
	for i := range principals {
		id := fmt.Sprintf("018f7d2c-0000-7000-8000-%012d", i)
		for j := range resources {
			req := benchRequest()
			req.Principal.ID, req.Principal.Version = id, int64(i)
			req.Principal.Attr = map[string]any{"tenant": "default", "region": []string{"eu-east-1", "us-west-2", "ap-1"}[i%3],
				"request": map[string]any{"ip": "127.0.0.1", "time": fmt.Sprintf("2026-11-28T10:%02d:%02dZ", i%60, j%60)}}
			owner := id
			if (i+j)%10 == 0 {
				owner = "somebody else"
			}
			req.Resource.ID, req.Resource.Version = fmt.Sprintf("r-%d-%d", i, j), int64(j)
			req.Resource.Attr = map[string]any{"owner_id": owner, "tenant": "default"}
			switch j % 4 {
			case 0, 1:
				req.Resource.Attr["is_active"], req.Resource.Attr["changes"] = j%3 == 0, []string{"notes"}
			case 2:
				req.Resource.Kind, req.Actions[0] = "video", "delete"
				req.Resource.Attr["is_active"], req.Resource.Attr["status"], req.Resource.Attr["region"] = true, "PROCESSED", "eu-east-1"
			case 3:
				req.Resource.Kind = "expense"
				req.Resource.Attr["amount"], req.Resource.Attr["status"], req.Resource.Attr["changes"] = float64(100*i+j), "OPEN", []string{"vendor"}
			}
			out = append(out, req)
		}
	}
	return out
}

// BenchmarkEngineCheckMany asks 10,000 different questions, again and again.
func BenchmarkEngineCheckMany(b *testing.B) {
	engine, all := open(b, "embed:"+policies), manyRequests(200, 50)
	b.ReportAllocs()
	i, denied := 0, 0
	for b.Loop() {
		req := all[i%len(all)]
		answer, err := engine.Check(b.Context(), req)
		if err != nil {
			b.Fatal(err)
		}
		if !answer.Allowed(req.Actions[0]) {
			denied++
		}
		i++
	}
	b.ReportMetric(100*float64(denied)/float64(i), "%denied")
}

// BenchmarkEngineCheckApprove asks about a condition on the request's time, which is another each time.
func BenchmarkEngineCheckApprove(b *testing.B) {
	engine := open(b, "embed:"+policies)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		p := principal("john", "manager")
		p.Attr["department"], p.Attr["request"] = "finance", map[string]any{"ip": "10.0.0.1", "time": fmt.Sprintf("2026-11-28T10:%02d:%02dZ", i/60%60, i%60)}
		answer, err := engine.Check(b.Context(), Request{Principal: p, Tenant: "default", Actions: []string{"approve"}, Resource: events.Resource{Kind: "expense", ID: fmt.Sprint(i),
			Attr: map[string]any{"tenant": "default", "owner_id": "sam", "amount": 5.0, "status": "OPEN"}}})
		if err != nil || !answer.Allowed("approve") {
			b.Fatal(answer, err)
		}
		i++
	}
}

// BenchmarkEngineCheckUnknown asks what nothing is remembered of: what Cerbos itself takes.
func BenchmarkEngineCheckUnknown(b *testing.B) {
	engine, all := open(b, "embed:"+policies).(*Engine), manyRequests(200, 50)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		req := all[i%len(all)]
		c, err := engine.begin(b.Context(), req.Principal, req.Tenant, req.Scope)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.ask(b.Context(), &req.Resource, req.Actions); err != nil {
			b.Fatal(err)
		}
		c.end()
		i++
	}
}

// BenchmarkEnginePlansOfMe asks for the plans of GET /v1/me: every kind, every action. Each time it is somebody else.
func BenchmarkEnginePlansOfMe(b *testing.B) {
	engine := open(b, "embed:"+policies)
	b.ReportAllocs()
	i, plans := 0, 0
	for b.Loop() {
		p := benchRequest().Principal
		p.ID = fmt.Sprintf("018f7d2c-0000-7000-8000-%012d", i%5000)
		p.Attr["request"] = map[string]any{"ip": "127.0.0.1", "time": fmt.Sprintf("2026-11-28T10:%02d:%02dZ", i/60%60, i%60)}
		for _, d := range kinds.All {
			for _, action := range append([]string{kind.ActionCreate, kind.ActionRead, kind.ActionList, kind.ActionUpdate, kind.ActionDelete}, d.Actions()...) {
				attr := map[string]any{"tenant": "default"}
				switch action {
				case kind.ActionCreate:
					attr["owner_id"], attr["changes"] = p.ID, []string{}
				case kind.ActionUpdate:
					attr["changes"] = []string{}
				}
				if _, err := engine.Plan(b.Context(), PlanRequest{Principal: p, Kind: d.Name, Action: action, Attr: attr, Tenant: "default"}); err != nil {
					b.Fatal(err)
				}
				plans++
			}
		}
		i++
	}
	b.ReportMetric(float64(plans)/float64(i), "plans/op")
}

func BenchmarkPDPCheck(b *testing.B) { benchCheck(b, open(b, "grpc://"+testkit.Cerbos(b, policies))) }

func BenchmarkEnginePlanFilter(b *testing.B) {
	engine := open(b, "embed:"+policies)
	req := PlanRequest{Principal: benchRequest().Principal, Kind: "contact", Action: "list"}
	b.ReportAllocs()
	for b.Loop() {
		plan, err := engine.Plan(b.Context(), req)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := plan.Filter(contact.Kind, Postgres); err != nil {
			b.Fatal(err)
		}
	}
}
