package authz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	enginev1 "github.com/cerbos/cerbos/api/genpb/cerbos/engine/v1"
	requestv1 "github.com/cerbos/cerbos/api/genpb/cerbos/request/v1"
	responsev1 "github.com/cerbos/cerbos/api/genpb/cerbos/response/v1"

	"github.com/cerbos/cerbos-sdk-go/cerbos"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// pdpBatch is how many resources a PDP takes in one request unless configured
// otherwise (server.requestLimits.maxResourcesPerRequest).
const pdpBatch = 50

// PDP is a Cerbos policy decision point over gRPC. It must enforce schemas
// (schema.enforcement: reject) and search scopes leniently
// (engine.lenientScopeSearch: true), as the engine does.
//
// A PDP does not tell its policies' revision (WithRevision says it for them),
// and what the engine knows of the policy files is not known here: a deny rule
// whose condition fails is skipped (see failClosed), and a plan cannot be
// refused for what Cerbos' planner leaves out (see ruleIndex), so that no plan
// is Exact. The rules in policies/README.md, which a test holds policies/ to,
// keep clear of both.
type PDP struct {
	client  *cerbos.GRPCClient
	options options
	conn    *grpc.ClientConn // the client's own, which it has no way to close
}

var _ Authorizer = (*PDP)(nil)

func openPDP(t target, o options) (*PDP, error) {
	p := &PDP{options: o}
	opts := []cerbos.Opt{
		// One attempt: whoever asks has a deadline and decides about trying again.
		cerbos.WithMaxRetries(0),
		cerbos.WithConnectTimeout(o.timeout),
		cerbos.WithUnaryInterceptors(keepConn),
	}
	if !t.tls {
		opts = append(opts, cerbos.WithPlaintext())
	}
	client, err := cerbos.New(t.address, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", t.address, err)
	}
	// The SDK hands its connection to interceptors only: one call that is not made brings it out.
	_, err = client.ServerInfo(context.WithValue(context.Background(), connOnly{}, &p.conn))
	if !errors.Is(err, errConnOnly) || p.conn == nil {
		return nil, fmt.Errorf("connect to %s: the SDK calls no interceptor: %w", t.address, err)
	}
	p.client = client.With(cerbos.IncludeMeta(true))
	return p, nil
}

// connOnly is the context key under which keepConn finds where to put the connection.
type connOnly struct{}

var errConnOnly = errors.New("not a call")

func keepConn(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if into, ok := ctx.Value(connOnly{}).(**grpc.ClientConn); ok {
		*into = conn
		return errConnOnly
	}
	return invoke(ctx, method, req, reply, conn, opts...)
}

// Check implements Authorizer.
func (p *PDP) Check(ctx context.Context, req Request) (Answer, error) {
	answers, err := p.CheckAll(ctx, Batch{Principal: req.Principal, Tenant: req.Tenant, Scope: req.Scope,
		Items: []Item{{Resource: req.Resource, Actions: req.Actions}}})
	if err != nil {
		return Answer{}, err
	}
	return answers[0], nil
}

// CheckAll implements Authorizer. It takes one call per 50 items.
func (p *PDP) CheckAll(ctx context.Context, batch Batch) ([]Answer, error) {
	q, err := batch.question()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.options.timeout)
	defer cancel()
	at := time.Now()
	answers := make([]Answer, 0, len(q.resources))
	for first := 0; first < len(q.resources); first += pdpBatch {
		last := min(first+pdpBatch, len(q.resources))
		part, err := p.checkPart(ctx, q, first, last)
		if err != nil {
			return nil, err
		}
		answers = append(answers, part...)
	}
	took := time.Since(at)
	for i := range answers {
		answers[i].EvaluatedAt, answers[i].Took = at.UTC(), took
	}
	return answers, nil
}

func (p *PDP) checkPart(ctx context.Context, q question, first, last int) ([]Answer, error) {
	batch := cerbos.NewResourceBatch()
	for i := first; i < last; i++ {
		batch.Batch = append(batch.Batch, &requestv1.CheckResourcesRequest_ResourceEntry{Resource: q.resources[i], Actions: q.actions[i]})
	}
	response, err := p.client.CheckResources(ctx, &cerbos.Principal{Obj: q.principal}, batch)
	if err != nil {
		return nil, callError("check", err)
	}
	if len(response.GetResults()) != last-first {
		return nil, fmt.Errorf("authz: the PDP gave %d results for %d resources", len(response.GetResults()), last-first)
	}
	answers := make([]Answer, 0, last-first)
	for i, entry := range response.GetResults() {
		asked := q.resources[first+i]
		if entry.GetResource().GetId() != asked.GetId() || entry.GetResource().GetKind() != asked.GetKind() {
			return nil, errors.New("authz: the PDP answered about another resource")
		}
		r, err := results(q.actions[first+i], checkOutput(entry), p.options.revision)
		if err != nil {
			return nil, err
		}
		answers = append(answers, Answer{CallID: response.GetCerbosCallId(), Revision: p.options.revision, Results: r})
	}
	return answers, nil
}

// checkOutput gives the PDP's answer the engine's shape.
func checkOutput(e *responsev1.CheckResourcesResponse_ResultEntry) *enginev1.CheckOutput {
	out := &enginev1.CheckOutput{
		Actions:               make(map[string]*enginev1.CheckOutput_ActionEffect, len(e.GetActions())),
		EffectiveDerivedRoles: e.GetMeta().GetEffectiveDerivedRoles(),
		ValidationErrors:      e.GetValidationErrors(),
		Outputs:               e.GetOutputs(),
	}
	for action, effect := range e.GetActions() {
		meta := e.GetMeta().GetActions()[action]
		out.Actions[action] = &enginev1.CheckOutput_ActionEffect{Effect: effect, Policy: meta.GetMatchedPolicy(), Scope: meta.GetMatchedScope()}
	}
	return out
}

// Plan implements Authorizer.
func (p *PDP) Plan(ctx context.Context, req PlanRequest) (Plan, error) {
	principal, resource, err := req.question()
	if err != nil {
		return Plan{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.options.timeout)
	defer cancel()
	at := time.Now()
	// The SDK wants an id, which a plan's request does not have and it does not send.
	of := &cerbos.Resource{Obj: &enginev1.Resource{Kind: resource.GetKind(), Id: "any", Attr: resource.GetAttr(), Scope: resource.GetScope()}}
	response, err := p.client.PlanResources(ctx, &cerbos.Principal{Obj: principal}, of, req.Action)
	if err != nil {
		return Plan{}, callError("plan", err)
	}
	if response.GetResourceKind() != req.Kind || !slices.Equal(response.GetActions(), []string{req.Action}) {
		return Plan{}, errors.New("authz: the PDP answered about another plan")
	}
	plan := Plan{CallID: response.GetCerbosCallId(), Kind: req.Kind, Action: req.Action, EvaluatedAt: at.UTC(), Took: time.Since(at), known: req.Attr,
		Policy: events.Policy{Revision: p.options.revision, Scope: response.GetMeta().GetMatchedScopes()[req.Action]}, principal: principal}
	return plan.read(response.GetFilter(), response.GetValidationErrors())
}

// Revision implements Authorizer: what WithRevision said.
func (p *PDP) Revision() string { return p.options.revision }

// Ready implements Authorizer: the PDP answers.
func (p *PDP) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.options.timeout)
	defer cancel()
	if _, err := p.client.ServerInfo(ctx); err != nil {
		return fault.Unreachable(dependency, err)
	}
	return nil
}

// Close implements Authorizer. Calls after it fail as unavailable.
func (p *PDP) Close() error { return p.conn.Close() }

// callError tells a PDP that does not answer, or not now, from a question that
// it refuses, which is a defect of ours.
func callError(what string, err error) error {
	switch status.Code(errors.Unwrap(err)) {
	case codes.InvalidArgument, codes.Unimplemented, codes.PermissionDenied, codes.Unauthenticated:
		return fmt.Errorf("authz: %s: %w", what, err)
	}
	return fault.Unreachable(dependency, fmt.Errorf("%s: %w", what, err))
}
