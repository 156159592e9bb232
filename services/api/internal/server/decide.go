package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/request"
)

// decide asks Cerbos about actions on a resource and gives a decision for each,
// not yet recorded. An error means that there is no answer, never a denial.
func (s *Server) decide(ctx context.Context, c *gate.Caller, res events.Resource, actions ...string) ([]*events.Decision, error) {
	answer, err := s.Authz.Check(ctx, authz.Request{Principal: c.Principal, Resource: res, Actions: actions, Tenant: c.Tenant, Scope: authz.TenantScope(c.Tenant)})
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
		fill(d, answer, r)
		out[i] = d
	}
	return out, nil
}

// fill puts an answer into a decision.
func fill(d *events.Decision, answer authz.Answer, r authz.Result) {
	d.Effect, d.Policy, d.CallID = r.Effect, r.Policy, answer.CallID
	d.EvaluatedAt, d.TookMicros = answer.EvaluatedAt.UTC(), answer.Took.Microseconds()
}

func newDecision(ctx context.Context, c *gate.Caller, res events.Resource, action string) (*events.Decision, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("make a decision id: %w", err)
	}
	return &events.Decision{
		ID: id.String(), Stage: events.StageRequest, Tenant: c.Tenant, Principal: c.Principal, Resource: res,
		Action: action, Request: request.Info(ctx), TraceID: request.TraceID(ctx),
	}, nil
}

// record puts a decision on the ledger and returns when the ledger has it. Only
// then may its request be answered.
func (s *Server) record(ctx context.Context, d *events.Decision) error {
	s.metrics.decided(ctx, d)
	m, err := events.NewDecision(s.Keys, events.SourceAPI, d)
	if err != nil {
		return tooLarge(d, err)
	}
	ctx, cancel := within(ctx, appendTimeout)
	defer cancel()
	if _, err := s.Ledger.Append(ctx, m); err != nil {
		return fmt.Errorf("record decision %s: %w", d.ID, err)
	}
	return nil
}

// tooLarge says of a decision that could not be made a record whether it holds too
// much: then the request asked about more than can be recorded, and is refused. Any
// other reason is a defect of ours.
func tooLarge(d *events.Decision, err error) error {
	if b, encodeErr := events.EncodeDecision(d); errors.Is(err, events.ErrMalformed) && encodeErr == nil && len(b) > events.MaxRecord {
		e := fault.New(fault.TooLarge, "decision-too-large", "the request makes a decision of %d bytes, at most %d can be recorded", len(b), events.MaxRecord)
		e.Err = err
		return e
	}
	return err
}

// checkAll asks about many resources at once and records every decision: one
// call to Cerbos, and one batch on the ledger.
func (s *Server) checkAll(ctx context.Context, c *gate.Caller, items []authz.Item) ([]authz.Answer, error) {
	answers, err := s.Authz.CheckAll(ctx, authz.Batch{Principal: c.Principal, Items: items, Tenant: c.Tenant, Scope: authz.TenantScope(c.Tenant)})
	if err != nil {
		return nil, fmt.Errorf("authorize %d resources: %w", len(items), err)
	}
	var all []*events.Decision
	for i, item := range items {
		for _, r := range answers[i].Results {
			d, err := newDecision(ctx, c, item.Resource, r.Action)
			if err != nil {
				return nil, err
			}
			fill(d, answers[i], r)
			all = append(all, d)
		}
	}
	return answers, s.recordAll(ctx, all)
}

// recordAll is record for many decisions: one batch on the ledger.
func (s *Server) recordAll(ctx context.Context, all []*events.Decision) error {
	msgs := make([]events.Message, len(all))
	for i, d := range all {
		s.metrics.decided(ctx, d)
		var err error
		if msgs[i], err = events.NewDecision(s.Keys, events.SourceAPI, d); err != nil {
			return tooLarge(d, err)
		}
	}
	ctx, cancel := within(ctx, appendTimeout)
	defer cancel()
	if err := s.Ledger.AppendAll(ctx, msgs); err != nil {
		return fmt.Errorf("record %d decisions: %w", len(msgs), err)
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
