package server

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
)

func (s *Server) registerDecisions() {
	register(s, huma.Operation{
		OperationID: "list-decisions", Path: "/v1/decisions", Summary: "Look for decisions",
		Description: "Roles auditor and admin. Anybody may list the allowed decisions about themselves (principal), masked. " +
			"One answer looks at a bounded number of decisions: it tells how far it got, and a page may be empty although there is a next one.",
		Errors: []int{http.StatusForbidden},
	}, s.list)
	register(s, huma.Operation{
		OperationID: "get-decision", Path: "/v1/decisions/{id}", Summary: "One decision, and what became of its command",
		Description: "Roles auditor and admin. Anybody may read decisions about themselves, masked.",
		Errors:      []int{http.StatusNotFound},
	}, s.get)
}

type listInput struct {
	Filter
	Order  string `query:"order" enum:"newest,oldest" default:"newest" doc:"Which come first"`
	Cursor string `query:"cursor" maxLength:"64" doc:"next_cursor of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50"`
}

type listOutput struct {
	Body struct {
		Items []Entry `json:"items"`
		Searched
	}
}

func (s *Server) list(ctx context.Context, in *listInput) (*listOutput, error) {
	c := gate.CallerOf(ctx)
	q := &search{
		filter: &in.Filter, tenant: c.Tenant, span: in.span(), entries: s.limits.entries, until: time.Now().Add(s.limits.search),
	}
	q.span.Backwards = in.Order == "newest"
	if in.Cursor != "" {
		from, err := cursor(in.Cursor)
		if err != nil {
			return nil, err
		}
		q.span = after(q.span, from)
	}
	whole, err := s.mayList(ctx, c, &in.Filter)
	if err != nil {
		return nil, err
	}
	out := &listOutput{}
	out.Body.Items = []Entry{}
	bytes := 0
	err = s.run(ctx, q, func(f found) (bool, error) {
		e := entryOf(f.Entry)
		if !whole {
			if !f.told() {
				return false, nil
			}
			var err error
			if e, err = masked(f.Entry); err != nil {
				return false, err
			}
		}
		out.Body.Items = append(out.Body.Items, e)
		bytes += len(e.Decision)
		return len(out.Body.Items) >= in.Limit || bytes >= s.limits.bytes, nil
	})
	out.Body.Searched = q.searched()
	return out, err
}

// mayList decides about a list and records the decision. Who may not list
// everything may still see a part of what is about themselves: whole is false.
func (s *Server) mayList(ctx context.Context, c *gate.Caller, f *Filter) (whole bool, err error) {
	if f.Tenant != "" && f.Tenant != c.Tenant {
		return false, s.ofAnotherTenant(ctx, c, actionList)
	}
	res := about(wholeLog, c.Tenant, f.Principal)
	answer, err := s.ask(ctx, c, res, actionList, actionRead)
	if err != nil {
		return false, err
	}
	whole = answer.Allowed(actionList)
	action := actionList
	if !whole && f.Principal == c.ID && answer.Allowed(actionRead) {
		action = actionRead
	}
	_, err = s.permitted(ctx, c, res, answer, action)
	return whole, err
}

type getInput struct {
	ID string `path:"id" format:"uuid" doc:"The decision's id"`
}

type getOutput struct{ Body Entry }

func (s *Server) get(ctx context.Context, in *getInput) (*getOutput, error) {
	c := gate.CallerOf(ctx)
	e, g, err := s.find(ctx, c, in.ID)
	if err != nil {
		return nil, err
	}
	res := about(in.ID, c.Tenant, g.Principal.ID)
	answer, err := s.ask(ctx, c, res, actionRead, actionList)
	if err != nil {
		return nil, err
	}
	// Who may not know of a decision is not told that there is one.
	if _, err := s.permitted(ctx, c, res, answer, actionRead); fault.Is(err, fault.Denied) {
		return nil, fault.Missing("decision", in.ID)
	} else if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, fault.Missing("decision", in.ID)
	}
	out := &getOutput{Body: entryOf(*e)}
	if !answer.Allowed(actionList) {
		if out.Body, err = masked(*e); err != nil {
			return nil, err
		}
	}
	out.Body.Outcome, err = s.outcome(ctx, e, g)
	return out, err
}

// find looks a decision up. One that is not there, or is another tenant's, is
// nil and about nobody: what is decided and answered then is the same.
func (s *Server) find(ctx context.Context, c *gate.Caller, id string) (*audit.Entry, *glance, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	e, err := s.Audit.Get(ctx, id)
	if fault.Is(err, fault.NotFound) {
		return nil, &glance{}, nil
	}
	if err != nil {
		return nil, nil, err
	}
	g, ok := glanceAt(e.Record)
	if !ok || g.Tenant != c.Tenant {
		return nil, &glance{}, nil
	}
	return &e, g, nil
}

// outcome gives the outcome of a decision's command, nil if there is none (yet).
func (s *Server) outcome(ctx context.Context, e *audit.Entry, g *glance) (OutcomeRecord, error) {
	if g.Command.ID == "" {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	look := func() (audit.Entry, error) { return s.Audit.OutcomeOf(ctx, e.ID.Sequence) }
	if g.Stage == events.StageApply {
		look = func() (audit.Entry, error) { return s.Audit.OutcomeActingOn(ctx, g.ID) }
	}
	found, err := look()
	if fault.Is(err, fault.NotFound) {
		return nil, nil
	}
	return found.Record, err
}
