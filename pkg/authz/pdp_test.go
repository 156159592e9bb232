package authz

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	effectv1 "github.com/cerbos/cerbos/api/genpb/cerbos/effect/v1"
	enginev1 "github.com/cerbos/cerbos/api/genpb/cerbos/engine/v1"
	requestv1 "github.com/cerbos/cerbos/api/genpb/cerbos/request/v1"
	responsev1 "github.com/cerbos/cerbos/api/genpb/cerbos/response/v1"
	svcv1 "github.com/cerbos/cerbos/api/genpb/cerbos/svc/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

func askContact() Request {
	return Request{Principal: principal("sam", "user"), Actions: []string{"read"}, Tenant: "default",
		Resource: events.Resource{Kind: "contact", ID: "c1", Attr: map[string]any{"owner_id": "sam", "tenant": "default"}}}
}

// wantUnavailable asks every kind of question.
func wantUnavailable(t *testing.T, a Authorizer) {
	t.Helper()
	answer, err := a.Check(t.Context(), askContact())
	if !fault.Is(err, fault.Unavailable) || len(answer.Results) != 0 {
		t.Errorf("Check: %+v, %v", answer, err)
	}
	plan, err := a.Plan(t.Context(), PlanRequest{Principal: principal("sam", "user"), Kind: "contact", Action: "list"})
	if !fault.Is(err, fault.Unavailable) || plan.Effect == events.Allow {
		t.Errorf("Plan: %+v, %v", plan, err)
	}
	if err := a.Ready(t.Context()); !fault.Is(err, fault.Unavailable) {
		t.Errorf("Ready: %v", err)
	}
}

func TestPDPThatNeverWasIsUnavailable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	wantUnavailable(t, open(t, address, WithTimeout(time.Second)))
}

// A PDP that takes the connection and says nothing does not hold up the caller.
func TestSilentPDPIsUnavailableInTime(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	at := time.Now()
	wantUnavailable(t, open(t, "grpc:"+l.Addr().String(), WithTimeout(100*time.Millisecond)))
	if took := time.Since(at); took > 5*time.Second {
		t.Errorf("three calls of 100 ms took %v", took)
	}
}

// fakePDP answers as it is told.
type fakePDP struct {
	svcv1.UnimplementedCerbosServiceServer
	check func(*requestv1.CheckResourcesRequest) (*responsev1.CheckResourcesResponse, error)
	plan  func(*requestv1.PlanResourcesRequest) (*responsev1.PlanResourcesResponse, error)
}

func (f fakePDP) CheckResources(_ context.Context, r *requestv1.CheckResourcesRequest) (*responsev1.CheckResourcesResponse, error) {
	return f.check(r)
}

func (f fakePDP) PlanResources(_ context.Context, r *requestv1.PlanResourcesRequest) (*responsev1.PlanResourcesResponse, error) {
	return f.plan(r)
}

func serve(t *testing.T, f fakePDP) Authorizer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	svcv1.RegisterCerbosServiceServer(s, f)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return open(t, l.Addr().String(), WithRevision("r1"))
}

func entryFor(id string, effect effectv1.Effect) *responsev1.CheckResourcesResponse_ResultEntry {
	return &responsev1.CheckResourcesResponse_ResultEntry{
		Resource: &responsev1.CheckResourcesResponse_ResultEntry_Resource{Id: id, Kind: "contact"},
		Actions:  map[string]effectv1.Effect{"read": effect},
	}
}

// Whatever a PDP says that is not a clear allow is not one.
func TestOddAnswersAreNoAllow(t *testing.T) {
	type entries = []*responsev1.CheckResourcesResponse_ResultEntry
	for name, results := range map[string]entries{
		"nothing":            nil,
		"another resource":   {entryFor("c2", effectv1.Effect_EFFECT_ALLOW)},
		"two resources":      {entryFor("c1", effectv1.Effect_EFFECT_ALLOW), entryFor("c1", effectv1.Effect_EFFECT_ALLOW)},
		"no effect":          {entryFor("c1", effectv1.Effect_EFFECT_UNSPECIFIED)},
		"no match":           {entryFor("c1", effectv1.Effect_EFFECT_NO_MATCH)},
		"an unknown effect":  {entryFor("c1", effectv1.Effect(42))},
		"another action":     {{Resource: entryFor("c1", 0).GetResource(), Actions: map[string]effectv1.Effect{"delete": effectv1.Effect_EFFECT_ALLOW}}},
		"a resource unnamed": {{Actions: map[string]effectv1.Effect{"read": effectv1.Effect_EFFECT_ALLOW}}},
	} {
		pdp := serve(t, fakePDP{check: func(*requestv1.CheckResourcesRequest) (*responsev1.CheckResourcesResponse, error) {
			return &responsev1.CheckResourcesResponse{Results: results}, nil
		}})
		answer, err := pdp.Check(t.Context(), askContact())
		if err == nil || answer.Allowed("read") || fault.Is(err, fault.Unavailable) {
			t.Errorf("%s: %+v, %v", name, answer, err)
		}
	}
}

func TestOddPlansAreNoFilter(t *testing.T) {
	for name, response := range map[string]*responsev1.PlanResourcesResponse{
		"nothing":       {},
		"no filter":     {ResourceKind: "contact", Actions: []string{"list"}},
		"another kind":  {ResourceKind: "video", Actions: []string{"list"}, Filter: &enginev1.PlanResourcesFilter{Kind: enginev1.PlanResourcesFilter_KIND_ALWAYS_ALLOWED}},
		"no kind":       {ResourceKind: "contact", Actions: []string{"list"}, Filter: &enginev1.PlanResourcesFilter{}},
		"no condition":  {ResourceKind: "contact", Actions: []string{"list"}, Filter: &enginev1.PlanResourcesFilter{Kind: enginev1.PlanResourcesFilter_KIND_CONDITIONAL}},
		"other actions": {ResourceKind: "contact", Actions: []string{"read"}, Filter: &enginev1.PlanResourcesFilter{Kind: enginev1.PlanResourcesFilter_KIND_ALWAYS_ALLOWED}},
	} {
		pdp := serve(t, fakePDP{plan: func(*requestv1.PlanResourcesRequest) (*responsev1.PlanResourcesResponse, error) { return response, nil }})
		plan, err := pdp.Plan(t.Context(), PlanRequest{Principal: principal("sam", "user"), Kind: "contact", Action: "list"})
		if err == nil || plan.Effect == events.Allow {
			t.Errorf("%s: %+v, %v", name, plan, err)
		}
	}
}

// A PDP's plan that selects everything promises nothing: its rows are to be checked.
func TestPlanOfAPDPIsNotExact(t *testing.T) {
	pdp := serve(t, fakePDP{plan: func(*requestv1.PlanResourcesRequest) (*responsev1.PlanResourcesResponse, error) {
		return &responsev1.PlanResourcesResponse{ResourceKind: "contact", Actions: []string{"list"},
			Filter: &enginev1.PlanResourcesFilter{Kind: enginev1.PlanResourcesFilter_KIND_ALWAYS_ALLOWED}}, nil
	}})
	for name, a := range map[string]Authorizer{"PDP": pdp, "engine": open(t, "embed:"+policies)} {
		plan, err := a.Plan(t.Context(), PlanRequest{Principal: principal("ann", "admin"), Kind: "contact", Action: "list", Attr: map[string]any{"tenant": "default"}})
		want := map[bool]string{true: "allow", false: "conditional"}[plan.Exact]
		if err != nil || plan.Exact != (name == "engine") || plan.Extent() != want {
			t.Errorf("%s: exact %v, %s, %v", name, plan.Exact, plan.Extent(), err)
		}
	}
	if (Plan{}).Exact {
		t.Error("a plan is exact unless said otherwise")
	}
}

// What the PDP reports as an error is never a denial, and its kind tells who is at fault.
func TestPDPErrorsAreSorted(t *testing.T) {
	for code, want := range map[codes.Code]fault.Kind{
		codes.Unavailable: fault.Unavailable, codes.DeadlineExceeded: fault.Unavailable, codes.Internal: fault.Unavailable,
		codes.FailedPrecondition: fault.Unavailable, codes.ResourceExhausted: fault.Unavailable,
		codes.InvalidArgument: fault.Internal, codes.Unimplemented: fault.Internal,
	} {
		pdp := serve(t, fakePDP{check: func(*requestv1.CheckResourcesRequest) (*responsev1.CheckResourcesResponse, error) {
			return nil, status.Error(code, "as told")
		}})
		answer, err := pdp.Check(t.Context(), askContact())
		if err == nil || fault.KindOf(err) != want || len(answer.Results) > 0 {
			t.Errorf("%v: kind %v of %v, want %v", code, fault.KindOf(err), err, want)
		}
	}
}

func TestPDPRevisionIsWhatItIsToldToBe(t *testing.T) {
	pdp := serve(t, fakePDP{check: func(r *requestv1.CheckResourcesRequest) (*responsev1.CheckResourcesResponse, error) {
		return &responsev1.CheckResourcesResponse{CerbosCallId: "call-1", Results: []*responsev1.CheckResourcesResponse_ResultEntry{entryFor("c1", effectv1.Effect_EFFECT_ALLOW)}}, nil
	}})
	answer, err := pdp.Check(t.Context(), askContact())
	if err != nil || answer.Revision != "r1" || answer.CallID != "call-1" || answer.For("read").Policy.Revision != "r1" || pdp.Revision() != "r1" {
		t.Errorf("%+v, %v", answer, err)
	}
	if unknown := open(t, "127.0.0.1:1").Revision(); unknown != "" {
		t.Errorf("revision %q of a PDP that nobody named one for", unknown)
	}
}

func TestMalformedSettings(t *testing.T) {
	for _, s := range []string{"", "embed:", "embed", "grpc://", "grpc:host", "grpc://host:0", "grpc://host:99999", "grpc://host:port", "http://host:1", "unix:relative", "unix:/", "cerbos:3592", ":3592", "embed:/does/not/exist", "grpc://user@host:1"} {
		a, err := Open(t.Context(), s)
		if err == nil {
			_ = a.Close()
			t.Errorf("%q was taken", s)
			continue
		}
		if a != nil || !strings.HasPrefix(err.Error(), Setting+": ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, %q", s, a, err)
		}
	}
	for s, want := range map[string]target{
		"embed:policies":         {dir: "policies"},
		"grpc:cerbos:3592":       {address: "cerbos:3592"},
		"grpc://cerbos:3592":     {address: "cerbos:3592"},
		"grpcs://pdp.example:44": {address: "pdp.example:44", tls: true},
		"unix:/run/cerbos.sock":  {address: "unix:/run/cerbos.sock"},
		"localhost:3592":         {address: "localhost:3592"},
		"[::1]:3592":             {address: "[::1]:3592"},
	} {
		if have, err := parseSetting(s); err != nil || have != want {
			t.Errorf("%q: %+v, %v", s, have, err)
		}
	}
}
