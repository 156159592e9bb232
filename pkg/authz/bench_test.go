package authz

import (
	"testing"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind/contact"
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
