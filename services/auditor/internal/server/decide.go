package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/problem"
	"github.com/writ-project/writ/pkg/request"
)

// The kind and the actions that policies/audit.yaml decides about.
const (
	auditKind    = "audit"
	actionList   = "list"
	actionRead   = "read"
	actionExport = "export"
	actionVerify = "verify"
	actionStream = "stream"
)

// wholeLog stands for a tenant's whole log where an id is wanted.
const wholeLog = "*"

// about is a resource of the kind audit: one decision, or a tenant's log as far
// as it is about one principal (empty: about everybody).
func about(id, tenant, principal string) events.Resource {
	attr := map[string]any{"tenant": tenant}
	if principal != "" {
		attr["principal_id"] = principal
	}
	return events.Resource{Kind: auditKind, ID: id, Attr: attr}
}

// ask puts a question to the policy. An error means that there is no answer,
// never a denial.
func (s *Server) ask(ctx context.Context, c *gate.Caller, res events.Resource, actions ...string) (authz.Answer, error) {
	answer, err := s.Authz.Check(ctx, authz.Request{
		Principal: c.Principal, Resource: res, Actions: actions, Tenant: c.Tenant, Scope: authz.TenantScope(c.Tenant),
	})
	if err != nil {
		return answer, fmt.Errorf("authorize %v on %s: %w", actions, res.Kind, err)
	}
	return answer, nil
}

// decision makes an answer about one action a decision, not yet recorded.
func decision(ctx context.Context, c *gate.Caller, res events.Resource, answer authz.Answer, action string) (*events.Decision, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("make a decision id: %w", err)
	}
	r := answer.For(action)
	return &events.Decision{
		ID: id.String(), Stage: events.StageRequest, Tenant: c.Tenant, Principal: c.Principal, Resource: res, Action: action,
		Effect: r.Effect, Policy: r.Policy, CallID: answer.CallID, EvaluatedAt: answer.EvaluatedAt.UTC(), TookMicros: answer.Took.Microseconds(),
		Request: request.Info(ctx), TraceID: request.TraceID(ctx),
	}, nil
}

// record puts a decision on the ledger and returns when the ledger has it. Only
// then may its request be answered.
func (s *Server) record(ctx context.Context, d *events.Decision) error {
	s.metrics.decided(ctx, d)
	m, err := events.NewDecision(s.Keys, events.SourceAuditor, d)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	if _, err := s.Ledger.Append(ctx, m); err != nil {
		return fmt.Errorf("record decision %s: %w", d.ID, err)
	}
	return nil
}

// permit asks about one action and records the decision. A denial is an error
// that names it.
func (s *Server) permit(ctx context.Context, c *gate.Caller, res events.Resource, action string) (*events.Decision, error) {
	answer, err := s.ask(ctx, c, res, action)
	if err != nil {
		return nil, err
	}
	return s.permitted(ctx, c, res, answer, action)
}

// permitted is permit with an answer that is there already.
func (s *Server) permitted(ctx context.Context, c *gate.Caller, res events.Resource, answer authz.Answer, action string) (*events.Decision, error) {
	d, err := decision(ctx, c, res, answer, action)
	if err != nil {
		return nil, err
	}
	if err := s.record(ctx, d); err != nil {
		return nil, err
	}
	if d.Effect != events.Allow {
		return nil, denied(d)
	}
	return d, nil
}

// again asks once more who a caller is and whether they still may do what goes
// on. The decision is recorded if it is not the one that was recorded last:
// another effect, another version of the principal or of the policies.
func (s *Server) again(ctx context.Context, c *gate.Caller, seen *events.Decision) (*gate.Caller, *events.Decision, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	c, err := s.gate.Again(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	answer, err := s.ask(ctx, c, seen.Resource, seen.Action)
	if err != nil {
		return nil, nil, err
	}
	now := answer.For(seen.Action)
	if now.Effect == seen.Effect && c.Version == seen.Principal.Version && now.Policy.Revision == seen.Policy.Revision {
		return c, seen, nil
	}
	seen, err = s.permitted(ctx, c, seen.Resource, answer, seen.Action)
	return c, seen, err
}

// ofAnotherTenant is the denial of what belongs to a tenant that the request is
// not about. The policy is not asked: it knows one tenant at a time.
func (s *Server) ofAnotherTenant(ctx context.Context, c *gate.Caller, action string) error {
	const why = "this belongs to another tenant"
	d, err := decision(ctx, c, about(wholeLog, c.Tenant, ""), authz.Answer{EvaluatedAt: time.Now()}, action)
	if err != nil {
		return err
	}
	d.Policy = events.Policy{Revision: s.Authz.Revision(), Reason: why}
	if err := s.record(ctx, d); err != nil {
		return err
	}
	return denied(d)
}

func denied(d *events.Decision) error {
	why := d.Policy.Reason
	if why == "" {
		why = fmt.Sprintf("you may not %s the audit log", d.Action)
	}
	e := fault.New(fault.Denied, "denied", "%s", why)
	e.DecisionID = d.ID
	return e
}

// problem turns an error into an answer: those of the log first.
func (s *Server) problem(ctx context.Context, err error) *problem.Problem {
	switch {
	case errors.Is(err, audit.ErrTrimmed):
		err = problem.New(http.StatusGone, "trimmed", "It is older than what the audit log keeps")
	case errors.Is(err, audit.ErrNoCheckpoint), errors.Is(err, audit.ErrNotYet):
		err = &fault.Error{Kind: fault.Unavailable, Code: "no-checkpoint", Message: "no checkpoint covers it yet; there is a new one every second", Err: err}
	case errors.Is(err, audit.ErrDamaged):
		s.Log.ErrorContext(ctx, "the audit log is damaged", "error", err)
		err = problem.New(http.StatusInternalServerError, "damaged", "The audit log is damaged: writ audit verify tells where")
	}
	return problem.From(ctx, s.Log, err)
}
