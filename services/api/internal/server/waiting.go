package server

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
)

// WaitingCommand is a command that is accepted and not applied yet.
type WaitingCommand struct {
	CommandStatus
	PrincipalID string          `json:"principal_id" doc:"Whose command it is"`
	Resource    ResourceRef     `json:"resource"`
	Decision    json.RawMessage `json:"decision" doc:"The decision that permits it, as it stands on the ledger"`
}

type waitingOutput struct {
	Body struct {
		Items    []WaitingCommand `json:"items"`
		Complete bool             `json:"complete" doc:"Whether these are all: no more than 4,096 on the ledger and as many that are queued for Stytch are looked at"`
	}
}

func (s *Server) registerWaiting() {
	register(s, huma.Operation{
		OperationID: "list-waiting-commands", Method: http.MethodGet, Path: "/v1/commands", Tags: []string{"commands"},
		Summary: "The tenant's commands that are accepted and not applied yet", Errors: []int{401, 403, 422, 503},
	}, s.listWaiting)
}

func (s *Server) listWaiting(ctx context.Context, _ *struct{}) (*waitingOutput, error) {
	c := gate.CallerOf(ctx)
	all, err := s.decide(ctx, c, events.Resource{
		Kind: "command", ID: "*", Attr: map[string]any{"principal_id": "*", "tenant": c.Tenant},
	}, actionList)
	if err != nil {
		return nil, err
	}
	if err := s.record(ctx, all[0]); err != nil {
		return nil, err
	}
	if all[0].Effect != events.Allow {
		return nil, denied(all[0])
	}
	out := &waitingOutput{}
	out.Body.Items, out.Body.Complete, err = s.waiting(ctx, c.Tenant)
	return out, err
}

// waiting finds a tenant's commands that have no outcome: those on the ledger
// that the worker has not come to, and those that it has queued for Stytch, about
// which it asks Cerbos again before each try. It looks at the queue last, so that
// it misses none that is being queued.
func (s *Server) waiting(ctx context.Context, tenant string) (items []WaitingCommand, complete bool, err error) {
	items = []WaitingCommand{}
	positions, err := s.Store.Positions(ctx)
	if err != nil {
		return nil, false, err
	}
	records, complete, err := s.Ledger.Waiting(ctx, positions, maxUnapplied)
	if err != nil {
		return nil, false, err
	}
	queued, err := s.Store.Unfinished(ctx, tenant, maxUnapplied)
	if err != nil {
		return nil, false, err
	}
	seen := map[string]bool{}
	add := func(r ledger.Record, row *store.Command) {
		e, err := events.Parse(r.Data)
		if err != nil || e.Type != events.TypeWrit || e.Verify(s.Keys, r.Subject) != nil || e.Command.Tenant != tenant || seen[e.Command.ID] {
			return // a forgery will be a dead letter
		}
		seen[e.Command.ID] = true
		a := fromEvent(e).accepted()
		if row != nil {
			a = fromRow(*row).accepted()
		}
		items = append(items, WaitingCommand{a.Command, e.Command.PrincipalID, a.Resource, e.RawDecision})
	}
	for _, q := range queued {
		row, err := s.Store.Command(ctx, q.CommandID)
		if err != nil {
			return nil, false, err
		}
		if row.Status.Final() {
			continue // by now
		}
		r, err := s.Ledger.Get(ctx, q.Sequence)
		if err != nil {
			return nil, false, err
		}
		add(r, &row)
	}
	for _, r := range records {
		add(r, nil)
	}
	return items, complete && len(queued) < maxUnapplied, nil
}
