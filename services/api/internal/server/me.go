package server

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/httprate"
	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/request"
)

// Me is who the caller is and what they may do.
type Me struct {
	Principal MePrincipal `json:"principal"`
	// Kinds says for each kind and action allow, deny or conditional.
	Kinds map[string]map[string]string `json:"kinds" doc:"For each kind and action: allow, deny, or conditional (it depends on the resource)"`
}

// MePrincipal is the principal as policies see it, and their e-mail address.
type MePrincipal struct {
	ID    string         `json:"id"`
	Email string         `json:"email"`
	Roles []string       `json:"roles"`
	Attr  map[string]any `json:"attr"`
	// Tenants are the caller's memberships.
	Tenants map[string]user.Membership `json:"tenants"`
}

type meOutput struct{ Body Me }

func (s *Server) registerMe() {
	register(s, huma.Operation{
		OperationID: "get-me", Method: http.MethodGet, Path: "/v1/me", Tags: []string{"me"},
		Summary: "Who I am", Errors: []int{401, 403, 422, 503},
	}, s.getMe)
	register(s, huma.Operation{
		OperationID: "sync-me", Method: http.MethodPost, Path: "/v1/me/sync", Tags: []string{"me"},
		Summary: "Bring my row of the directory up to date with Stytch", Errors: []int{401, 403, 422, 429, 503},
	}, s.syncMe)
}

func (s *Server) getMe(ctx context.Context, _ *struct{}) (*meOutput, error) {
	c := gate.CallerOf(ctx)
	all, err := s.decide(ctx, c, events.Resource{Kind: user.Kind.Name, ID: c.ID, Version: c.User.Version, Attr: map[string]any{"tenant": c.Tenant}}, kind.ActionRead)
	if err != nil {
		return nil, err
	}
	if err := s.record(ctx, all[0]); err != nil {
		return nil, err
	}
	if all[0].Effect != events.Allow {
		return nil, denied(all[0])
	}
	return s.me(ctx, c)
}

// me tells who the caller is in the request's tenant and, from query plans,
// what they may do with each kind.
func (s *Server) me(ctx context.Context, c *gate.Caller) (*meOutput, error) {
	roles, attr := c.User.In(c.Tenant)
	out := &meOutput{Body: Me{
		Principal: MePrincipal{ID: c.ID, Email: c.User.Email, Roles: roles, Attr: attr, Tenants: c.User.Tenants},
		Kinds:     map[string]map[string]string{},
	}}
	var plans []*events.Decision
	for _, d := range s.Kinds {
		may := map[string]string{}
		for _, action := range append([]string{kind.ActionCreate, kind.ActionRead, kind.ActionList, kind.ActionUpdate, kind.ActionDelete}, d.Actions()...) {
			p, err := s.plan(ctx, c, d, action)
			if err != nil {
				return nil, err
			}
			may[action] = p.Extent()
			decision, err := planDecision(ctx, c, d, p)
			if err != nil {
				return nil, err
			}
			plans = append(plans, decision)
		}
		out.Body.Kinds[d.Name] = may
	}
	return out, s.recordAll(ctx, plans)
}

// plan asks which resources of a kind the caller may do an action to.
func (s *Server) plan(ctx context.Context, c *gate.Caller, d *kind.Definition, action string) (authz.Plan, error) {
	return s.planWith(ctx, c, d, action, nil)
}

// planWith is plan for the resources that have the attributes known.
func (s *Server) planWith(ctx context.Context, c *gate.Caller, d *kind.Definition, action string, known map[string]any) (authz.Plan, error) {
	attr := map[string]any{"tenant": c.Tenant}
	switch action {
	case kind.ActionCreate: // what they make is their own, and they name nothing that is not theirs to name
		attr["owner_id"], attr["changes"] = c.ID, []string{}
	case kind.ActionUpdate:
		attr["changes"] = []string{}
	}
	maps.Copy(attr, known)
	return s.Authz.Plan(ctx, authz.PlanRequest{
		Principal: c.Principal, Kind: d.Name, Action: action, Attr: attr, Tenant: c.Tenant, Scope: authz.TenantScope(c.Tenant),
	})
}

// planDecision makes the decision that a query plan is.
func planDecision(ctx context.Context, c *gate.Caller, d *kind.Definition, p authz.Plan) (*events.Decision, error) {
	out, err := newDecision(ctx, c, events.Resource{Kind: d.Name, Attr: p.Attr()}, p.Action)
	if err != nil {
		return nil, err
	}
	out.Effect, out.Policy, out.CallID, out.Plan = p.Effect, p.Policy, p.CallID, p.Raw
	out.EvaluatedAt, out.TookMicros = p.EvaluatedAt.UTC(), p.Took.Microseconds()
	return out, nil
}

// syncsPerMinute is how often one user may have Stytch asked who they are, of
// each api instance: what Stytch takes is the whole project's.
const syncsPerMinute = 60

func newSyncs() *httprate.RateLimiter {
	return httprate.NewRateLimiter(syncsPerMinute, time.Minute, httprate.WithResponseHeaders(httprate.ResponseHeaders{}))
}

func (s *Server) syncMe(ctx context.Context, _ *struct{}) (*meOutput, error) {
	c := gate.CallerOf(ctx)
	if s.syncs.OnLimit(nil, httpRequest(ctx), c.ID) { // without names for headers nothing is written
		e := fault.New(fault.Limited, "too-many-requests", "at most %d of these a minute", syncsPerMinute)
		e.RetryAfter = time.Minute
		return nil, e
	}
	row, err := s.sync(ctx, c.User.Principal(c.ID, user.DefaultTenant, request.Info(ctx), time.Now()), c.User.Version)
	if err != nil {
		return nil, err
	}
	return s.me(ctx, gate.NewCaller(ctx, row, c.Tenant, c.Session))
}

// firstSeen brings a user into the directory who has a valid session and no
// row yet. Requests of one user that arrive together share the work.
func (s *Server) firstSeen(ctx context.Context, id string) (kind.Row, error) {
	shared := s.syncing.DoChan(id, func() (any, error) {
		ctx, cancel := within(context.WithoutCancel(ctx), requestTimeout) // others wait for it, too
		defer cancel()
		var nobody *user.User
		return s.sync(ctx, nobody.Principal(id, user.DefaultTenant, request.Info(ctx), time.Now()), 0)
	})
	select {
	case r := <-shared:
		if r.Err != nil {
			return kind.Row{}, r.Err
		}
		return r.Val.(kind.Row), nil
	case <-ctx.Done():
		return kind.Row{}, ctx.Err()
	}
}

// syncWait is how long a sync may take until its row is there.
const syncWait = 5 * time.Second

// sync asks Stytch what a user is and submits that as a command, as the user,
// whom the policy lets refresh their own row. What they may do comes from
// Stytch, never from the request.
func (s *Server) sync(ctx context.Context, p events.Principal, version int64) (kind.Row, error) {
	seen, err := s.synced(ctx, p.ID)
	if err != nil {
		return kind.Row{}, err
	}
	found, err := s.Identity.User(ctx, p.ID)
	if fault.Is(err, fault.NotFound) {
		return kind.Row{}, userGone()
	}
	if err != nil {
		return kind.Row{}, err
	}
	body, err := json.Marshal(syncBody(found, seen))
	if err != nil {
		return kind.Row{}, fmt.Errorf("encode sync of %s: %w", p.ID, err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return kind.Row{}, err
	}
	c := &gate.Caller{Principal: p, Tenant: user.DefaultTenant}
	all, err := s.decide(ctx, c, events.Resource{Kind: user.Kind.Name, ID: p.ID, Version: version, Attr: map[string]any{"tenant": c.Tenant}}, user.ActionSync)
	if err != nil {
		return kind.Row{}, err
	}
	if d := all[0]; d.Effect != events.Allow {
		if err := s.record(ctx, d); err != nil {
			return kind.Row{}, err
		}
		return kind.Row{}, denied(d)
	}
	o := &order{caller: c, commandID: id.String(), wait: syncWait, waits: true}
	done, err := s.submit(ctx, o, all[0], events.Command{Kind: user.Kind.Name, ResourceID: p.ID, Action: user.ActionSync, Body: body})
	if err != nil {
		return kind.Row{}, err
	}
	if err := done.outcomeError(); fault.Is(err, fault.NotFound) { // deleted after Stytch had been asked
		return kind.Row{}, userGone()
	} else if err != nil {
		return kind.Row{}, err
	}
	if !done.Status.Final() {
		return kind.Row{}, fault.Unreachable("worker", context.DeadlineExceeded)
	}
	row, err := s.Store.Get(ctx, user.Kind, p.ID)
	if fault.Is(err, fault.NotFound) {
		return kind.Row{}, userGone()
	}
	if err != nil {
		return kind.Row{}, err
	}
	if err := s.bootstrap(ctx, row, found); err != nil { // whoever signed in is signed in all the same
		s.Log.WarnContext(ctx, "the first admin was not made", "user", p.ID, "error", err)
	}
	return row, nil
}

// userGone is for a session that outlives its user.
func userGone() error {
	return fault.New(fault.Unauthenticated, "unknown-user", "the session's user is gone")
}

// synced gives the sync that a user's row has come from, "" where there is no row.
// It is to be read before Stytch is asked, so that the worker can tell news that
// are late.
func (s *Server) synced(ctx context.Context, id string) (string, error) {
	row, err := s.Store.Get(ctx, user.Kind, id)
	if fault.Is(err, fault.NotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return row.Value.(*user.User).Synced, nil
}

func syncBody(u identity.User, seen string) user.Sync {
	return user.Sync{Email: u.Email, FirstName: u.FirstName, LastName: u.LastName, Tenants: u.Tenants, RolesCommand: u.RolesCommand, Seen: &seen}
}
