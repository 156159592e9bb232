package server

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/gate"
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
		Complete bool             `json:"complete" doc:"Whether these are all: no more than 4,096 are looked at"`
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
	positions, err := s.Store.Positions(ctx)
	if err != nil {
		return nil, err
	}
	records, complete, err := s.Ledger.Waiting(ctx, positions, maxUnapplied)
	if err != nil {
		return nil, err
	}
	out := &waitingOutput{}
	out.Body.Items, out.Body.Complete = []WaitingCommand{}, complete
	for _, r := range records {
		e, err := events.Parse(r.Data)
		if err != nil || e.Type != events.TypeWrit || e.Verify(s.Keys, r.Subject) != nil || e.Command.Tenant != c.Tenant {
			continue // a forgery will be a dead letter
		}
		a := fromEvent(e).accepted()
		out.Body.Items = append(out.Body.Items, WaitingCommand{a.Command, e.Command.PrincipalID, a.Resource, e.RawDecision})
	}
	return out, nil
}
