package server

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// decide asks Cerbos about actions on a resource and gives a decision for each,
// not yet recorded. An error means that there is no answer, never a denial.
func (s *Server) decide(ctx context.Context, c *caller, res events.Resource, actions ...string) ([]*events.Decision, error) {
	answer, err := s.Authz.Check(ctx, authz.Request{Principal: c.Principal, Resource: res, Actions: actions, Tenant: c.Tenant})
	if err != nil {
		return nil, fmt.Errorf("authorize %v on %s: %w", actions, res.Kind, err)
	}
	out := make([]*events.Decision, len(actions))
	for i, action := range actions {
		r := answer.For(action)
		d, err := newDecision(ctx, c, res, action)
		if err != nil {
			return nil, err
		}
		d.Effect, d.Policy, d.CallID = r.Effect, r.Policy, answer.CallID
		d.EvaluatedAt, d.TookMicros = answer.EvaluatedAt.UTC(), answer.Took.Microseconds()
		out[i] = d
	}
	return out, nil
}

func newDecision(ctx context.Context, c *caller, res events.Resource, action string) (*events.Decision, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("make a decision id: %w", err)
	}
	return &events.Decision{
		ID: id.String(), Stage: events.StageRequest, Tenant: c.Tenant, Principal: c.Principal, Resource: res,
		Action: action, Request: requestInfo(ctx), TraceID: traceID(ctx),
	}, nil
}

// record puts a decision on the ledger and returns when the ledger has it. Only
// then may its request be answered.
func (s *Server) record(ctx context.Context, d *events.Decision) error {
	s.metrics.decided(ctx, d)
	m, err := events.NewDecision(s.Keys, d)
	if err != nil {
		return err
	}
	ctx, cancel := within(ctx, appendTimeout)
	defer cancel()
	if _, err := s.Ledger.Append(ctx, m); err != nil {
		return fmt.Errorf("record decision %s: %w", d.ID, err)
	}
	return nil
}

// denied is the answer to a request that the policy denies.
func denied(d *events.Decision) error {
	e := fault.New(fault.Denied, "denied", "%s", reason(d))
	e.DecisionID = d.ID
	return e
}

func reason(d *events.Decision) string {
	if d.Policy.Reason != "" {
		return d.Policy.Reason
	}
	return fmt.Sprintf("you may not %s this %s", d.Action, d.Resource.Kind)
}
