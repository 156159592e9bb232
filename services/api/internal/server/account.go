package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/services/api/internal/signin"
)

// Bounds of what an account shows of the ledger.
const (
	accountDecisions = 20   // shown
	accountTail      = 4096 // messages of the ledger that are looked at for them
	accountReaders   = 4    // that look at a time; others wait
)

// nobodyElse owns the resource that stands for everybody else's.
const nobodyElse = "somebody-else"

type accountOutput struct{ Body signin.Account }

func (s *Server) registerAccount() {
	register(s, huma.Operation{
		OperationID: "get-account", Method: http.MethodGet, Path: signin.PathAccount, Tags: []string{"sign-in"},
		Summary: "Who I am, what I may do, and what was lately decided about me. A page for browsers",
		Errors:  []int{401, 403, 422, 503},
	}, func(ctx context.Context, _ *struct{}) (*accountOutput, error) {
		a, err := s.account(ctx, gate.CallerOf(ctx))
		if err != nil {
			return nil, err
		}
		return &accountOutput{*a}, nil
	})
}

// accountPage is the account for a browser, in the tenant that ?tenant= names.
func (s *Server) accountPage(w http.ResponseWriter, r *http.Request) {
	tenant := r.URL.Query().Get("tenant")
	if tenant == "" {
		tenant = r.Header.Get(gate.TenantHeader)
	}
	c, err := s.gate.Admit(r.Context(), r.Header.Get("Authorization"), tenant)
	if err != nil {
		s.signin.Refuse(w, r, err)
		return
	}
	if p := s.rate.Allow(w, r, c.ID); p != nil {
		s.signin.Refuse(w, r, p)
		return
	}
	a, err := s.account(r.Context(), c)
	if err != nil {
		s.signin.Refuse(w, r, err)
		return
	}
	s.signin.AccountPage(w, r, a)
}

// account decides that the caller may read their own row and the decisions about
// themselves, and puts that on the ledger with what is said of other actions.
func (s *Server) account(ctx context.Context, c *gate.Caller) (*signin.Account, error) {
	all, err := s.decide(ctx, c, events.Resource{Kind: user.Kind.Name, ID: c.ID, Version: c.User.Version, Attr: map[string]any{"tenant": c.Tenant}}, kind.ActionRead)
	if err != nil {
		return nil, err
	}
	looking, err := s.decide(ctx, c, events.Resource{Kind: "audit", ID: c.ID, Attr: map[string]any{"tenant": c.Tenant, "principal_id": c.ID}}, kind.ActionRead)
	if err != nil {
		return nil, err
	}
	all = append(all, looking...)
	for _, d := range all {
		if d.Effect != events.Allow {
			if err := s.recordAll(ctx, all); err != nil {
				return nil, err
			}
			return nil, denied(d)
		}
	}
	roles, attr := c.User.In(c.Tenant)
	out := &signin.Account{
		ID: c.ID, Email: c.User.Email, FirstName: c.User.FirstName, LastName: c.User.LastName, Tenant: c.Tenant, Roles: roles, Attr: attr,
		Tenants: c.User.Tenants, Session: signin.AccountSession{ID: c.Session.ID, ExpiresAt: c.Session.ExpiresAt},
	}
	for _, d := range s.Kinds {
		may, decisions, err := s.accountKind(ctx, c, d)
		if err != nil {
			return nil, err
		}
		out.May, all = append(out.May, may), append(all, decisions...)
	}
	// Before these: what is shown was decided before somebody looked.
	if out.Decisions, out.Looked, err = s.lately(ctx, c); err != nil {
		return nil, err
	}
	return out, s.recordAll(ctx, all)
}

// accountKind tells what the caller may do with a kind. What depends on the
// resource is asked about twice more: for one's own and for somebody else's.
func (s *Server) accountKind(ctx context.Context, c *gate.Caller, d *kind.Definition) (signin.AccountKind, []*events.Decision, error) {
	out := signin.AccountKind{Kind: d.Name}
	var decisions []*events.Decision
	var exchanges []signin.AccountCerbos // of the action at hand
	ask := func(action string, attr map[string]any) (string, error) {
		p, err := s.planWith(ctx, c, d, action, attr)
		if err != nil {
			return "", err
		}
		decision, err := planDecision(ctx, c, d, p)
		if err != nil {
			return "", err
		}
		decisions = append(decisions, decision)
		exchanges = append(exchanges, exchange(decision))
		return p.Extent(), nil
	}
	for _, action := range append([]string{kind.ActionCreate, kind.ActionRead, kind.ActionList, kind.ActionUpdate, kind.ActionDelete}, d.Actions()...) {
		a := signin.AccountAction{Action: action}
		exchanges = nil
		var err error
		if a.Extent, err = ask(action, nil); err != nil {
			return out, nil, err
		}
		if a.Extent == "conditional" {
			if a.Own, err = ask(action, map[string]any{"owner_id": c.ID}); err == nil {
				a.Others, err = ask(action, map[string]any{"owner_id": nobodyElse})
			}
			if err != nil {
				return out, nil, err
			}
		}
		a.Cerbos = exchanges
		out.Actions = append(out.Actions, a)
	}
	return out, decisions, nil
}

// lately reads the latest decisions about the caller in a tenant off the end of
// the ledger. That is the record itself, it needs no state here, and what it
// costs is bounded; on a busy ledger it reaches back the less far. The whole of
// it is the auditor's to tell.
func (s *Server) lately(ctx context.Context, c *gate.Caller) (found []signin.AccountDecision, looked int, err error) {
	select {
	case s.looking <- struct{}{}:
		defer func() { <-s.looking }()
	case <-ctx.Done():
		return nil, 0, fault.Unreachable(ledger.Dependency, ctx.Err())
	}
	ctx, cancel := within(ctx, appendTimeout)
	defer cancel()
	found = []signin.AccountDecision{}
	id := []byte(c.ID)
	looked, err = s.Ledger.Tail(ctx, accountTail, func(r ledger.Record) bool {
		if !bytes.Contains(r.Data, id) { // most are about others: not worth reading
			return true
		}
		e, err := events.Parse(r.Data)
		if err != nil || e.Decision.ID == "" || e.Verify(s.Keys, r.Subject) != nil {
			return true // a worker or auditor makes it a dead letter
		}
		if d := &e.Decision; d.Principal.ID == c.ID && d.Tenant == c.Tenant && !tellsWhatOneMay(d) {
			found = append(found, decisionAbout(d))
		}
		return len(found) < accountDecisions
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read the latest decisions about %s: %w", c.ID, err)
	}
	return found, looked, nil
}

// tellsWhatOneMay reports whether a decision is one of the dozens that a look at
// the account, or at /v1/me, takes: they would leave no room for others.
func tellsWhatOneMay(d *events.Decision) bool {
	switch d.Request.Route {
	case signin.PathAccount, "/v1/me", "/v1/me/sync":
		return len(d.Plan) > 0
	}
	return false
}

func decisionAbout(d *events.Decision) signin.AccountDecision {
	out := signin.AccountDecision{
		ID: d.ID, At: d.EvaluatedAt, Action: d.Action, Kind: d.Resource.Kind, ResourceID: d.Resource.ID, Effect: string(d.Effect),
		Reason: d.Policy.Reason, Policy: d.Policy.Matched, Stage: string(d.Stage),
		Method: d.Request.Method, Route: d.Request.Route, Remote: d.Request.Remote, Asker: d.Asker,
	}
	if d.Asker == "" {
		e := exchange(d)
		out.Cerbos = &e
	}
	return out
}

// exchange tells what Cerbos was asked for a decision and what it answered, as
// far as the principal may know. The ledger has all of it; but who was denied, or
// may not see all fields, must not read here what the resource is. So a value is
// told only where it is theirs: their id, the tenant, and which fields they set.
func exchange(d *events.Decision) signin.AccountCerbos {
	res := signin.AccountResource{Kind: d.Resource.Kind, ID: d.Resource.ID, Scope: authz.TenantScope(d.Tenant), Attr: map[string]any{}}
	for _, name := range slices.Sorted(maps.Keys(d.Resource.Attr)) {
		switch v := d.Resource.Attr[name]; {
		case v == any(d.Principal.ID), v == any(d.Tenant), name == "changes", name == "owner_id" && v == any(nobodyElse):
			res.Attr[name] = v
		default:
			res.Withheld = append(res.Withheld, name)
		}
	}
	answer := signin.AccountAnswer{
		CallID: d.CallID, Effect: string(d.Effect), Policy: d.Policy.Matched, Scope: d.Policy.Scope, Reason: d.Policy.Reason, Revision: d.Policy.Revision,
	}
	if d.Effect == events.Allow { // of what was denied they would tell what the resource is
		answer.DerivedRoles = d.Policy.DerivedRoles
	}
	if len(d.Plan) > 0 && json.Unmarshal(d.Plan, &answer.Filter) != nil {
		answer.Filter = nil
	}
	attr := d.Principal.Attr
	if attr == nil {
		attr = map[string]any{}
	}
	return signin.AccountCerbos{
		DecisionID: d.ID, Answered: answer,
		Asked: signin.AccountQuestion{
			Principal: signin.AccountPrincipal{ID: d.Principal.ID, Roles: d.Principal.Roles, Attr: attr}, Action: d.Action, Resource: res,
		},
	}
}
