package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/ledger"
)

// The kind of dead letters in policies, and what is done to them.
const (
	deadKind      = "dead"
	actionList    = "list"
	actionRead    = "read"
	actionReplay  = "replay"
	actionDiscard = "discard"
)

// DeadLetter is a dead letter as the api tells it. What is not believed, because
// the message's seal does not fit, is left out.
type DeadLetter struct {
	ID         string    `json:"id" doc:"service.stream.address of the event that could not be processed"`
	Service    string    `json:"service" doc:"Who refused it"`
	Code       string    `json:"code" doc:"Why, for programs"`
	Reason     string    `json:"reason" doc:"The same for people"`
	Subject    string    `json:"subject" doc:"Where the message stood"`
	Sequence   uint64    `json:"sequence" doc:"The event's address on the ledger: its message's sequence × 256 + its index there. Of other streams the message's sequence"`
	Deliveries int       `json:"deliveries" doc:"How often it had been delivered"`
	DiedAt     time.Time `json:"died_at"`
	Believed   bool      `json:"believed" doc:"Whether the message is a writ or a background job whose seal fits: only then it tells what it is about"`

	CommandID   string       `json:"command_id,omitempty"`
	PrincipalID string       `json:"principal_id,omitempty" doc:"Whose command it is"`
	Action      string       `json:"action,omitempty"`
	Resource    *ResourceRef `json:"resource,omitempty"`
	IssuedAt    *time.Time   `json:"issued_at,omitempty"`

	// Replayable says why it cannot be replayed, empty if it can.
	Unreplayable string `json:"unreplayable,omitempty" doc:"Why it cannot be replayed; absent if it can"`
}

// DeadMessage is a dead letter with the message itself.
type DeadMessage struct {
	DeadLetter
	Decision json.RawMessage `json:"decision,omitempty" doc:"The decision that permitted the command"`
	Message  []byte          `json:"message" doc:"The message as it stood on the ledger, in base64"`
}

// letter is a dead letter and what is believed of it.
type letter struct {
	ledger.Letter
	event  *events.Event // nil unless it is an event whose seal fits
	job    *jobs.Job     // nil unless it is a background job whose seal fits
	tenant string
	broken error // why the message cannot be read, nil if it can
}

// readLetter believes a message whose seal fits its subject. Any other is
// the installation's own, the tenant's that is the default.
func (s *Server) readLetter(l ledger.Letter) *letter {
	out := &letter{Letter: l, tenant: user.DefaultTenant}
	if l.Stream == events.StreamJobs {
		j, err := jobs.Buried(s.Keys, l.Record)
		if out.broken = err; err == nil {
			out.job, out.tenant = &j, cmp.Or(j.Tenant, user.DefaultTenant)
		}
		return out
	}
	e, err := events.Parse(l.Record.Data)
	if out.broken = err; err == nil && e.Verify(s.Keys, l.Record.Subject) == nil {
		switch out.event = e; e.Type {
		case events.TypeOutcome:
			out.tenant = e.Outcome.Tenant
		default:
			out.tenant = e.Decision.Tenant
		}
	}
	return out
}

// writ gives the command that could not be applied, or why the letter holds none.
func (l *letter) writ() (*events.Command, string) {
	switch {
	case l.job != nil:
		return nil, "it is a background job: it can be run again as job " + l.job.ID
	case errors.Is(l.broken, events.ErrSeal):
		return nil, "the seal does not fit the message: it may be forged"
	case l.broken != nil:
		return nil, "it cannot be read: " + l.broken.Error()
	case l.event == nil:
		return nil, "the seal does not fit the message: it may be forged"
	case l.event.Type != events.TypeWrit || l.Stream != events.StreamLedger:
		return nil, "it is no command"
	case l.Service == "auditor":
		return nil, "the auditor refused it: whether it was applied is not the auditor's to know, and it reads the ledger again by itself"
	}
	return &l.event.Command, ""
}

func (l *letter) told() DeadLetter {
	d := DeadLetter{
		ID: l.ID, Service: l.Service, Code: l.Code, Reason: l.Reason, Subject: l.Record.Subject, Sequence: l.Record.Address,
		Deliveries: l.Deliveries, DiedAt: l.Died,
	}
	_, d.Unreplayable = l.writ()
	if l.event != nil && l.event.Type == events.TypeWrit {
		c := l.event.Command
		d.Believed, d.CommandID, d.PrincipalID, d.Action = true, c.ID, c.PrincipalID, c.Action
		d.Resource, d.IssuedAt = &ResourceRef{c.Kind, c.ResourceID}, &c.IssuedAt
	}
	if l.job != nil {
		d.Believed, d.Resource, d.IssuedAt = true, &ResourceRef{jobKind, l.job.ID}, &l.job.EnqueuedAt
	}
	return d
}

// resource is the letter as policies see it. The reason that somebody gives is
// an attribute, so that it is part of the decision's record.
func (l *letter) resource(reason string) events.Resource {
	r := events.Resource{Kind: deadKind, ID: l.ID, Attr: map[string]any{"tenant": l.tenant, "service": l.Service, "code": l.Code}}
	if reason != "" {
		r.Attr["reason"] = reason
	}
	return r
}

type deadListInput struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50" doc:"At most this many"`
	Cursor string `query:"cursor" maxLength:"20" pattern:"^[0-9]*$" doc:"next_cursor of the page before"`
}

type deadListOutput struct {
	Body struct {
		Items      []DeadLetter `json:"items" doc:"Those of the tenant, in the order in which they died. There may be none on a page that is not the last"`
		NextCursor string       `json:"next_cursor,omitempty" doc:"Absent on the last page"`
	}
}

// DeadPath names a dead letter in a path.
type DeadPath struct {
	ID string `path:"id" maxLength:"128" pattern:"^[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+\\.[0-9]+$" doc:"The dead letter's id" example:"worker.LEDGER.17"`
}

type deadOutput struct{ Body DeadMessage }

type deadDiscardInput struct {
	DeadPath
	Reason string `query:"reason" minLength:"1" maxLength:"500" required:"true" doc:"Why; it stands in the decision"`
}

func (s *Server) registerDead() {
	tags := []string{"dead letters"}
	register(s, huma.Operation{
		OperationID: "list-dead", Method: http.MethodGet, Path: "/v1/dead", Tags: tags,
		Summary: "What could not be processed", Errors: []int{401, 403, 422, 503},
	}, s.listDead)
	register(s, huma.Operation{
		OperationID: "get-dead", Method: http.MethodGet, Path: "/v1/dead/{id}", Tags: tags,
		Summary: "A dead letter with its message", Errors: []int{401, 403, 404, 422, 503},
	}, s.getDead)
	register(s, huma.Operation{
		OperationID: "replay-dead", Method: http.MethodPost, Path: "/v1/dead/{id}/replay", Tags: tags,
		Summary:     "Give a command that failed once more",
		Description: "The command goes onto the ledger as a new one, in the name of the principal who gave it, if they may still give it; the dead letter is removed. Replayed twice it is one command.",
		Errors:      []int{400, 401, 403, 404, 409, 413, 415, 422, 503}, DefaultStatus: http.StatusAccepted,
		Responses: map[string]*huma.Response{"202": {Description: "The new command"}},
	}, s.replayDead)
	register(s, huma.Operation{
		OperationID: "discard-dead", Method: http.MethodDelete, Path: "/v1/dead/{id}", Tags: tags,
		Summary: "Remove a dead letter", Description: "The message itself stays on the ledger.",
		Errors: []int{401, 403, 404, 422, 503}, DefaultStatus: http.StatusNoContent,
	}, s.discardDead)
}

// mayDead decides about an action on dead letters and records the decision;
// what is denied is an error.
func (s *Server) mayDead(ctx context.Context, c *gate.Caller, res events.Resource, action string) error {
	all, err := s.decide(ctx, c, res, action, actionRead)
	if err != nil {
		return err
	}
	if err := s.record(ctx, all[0]); err != nil {
		return err
	}
	switch {
	case all[0].Effect == events.Allow:
		return nil
	case action != actionList && all[1].Effect != events.Allow: // not even to be known of
		return fault.Missing("dead letter", res.ID)
	}
	return denied(all[0])
}

func (s *Server) listDead(ctx context.Context, in *deadListInput) (*deadListOutput, error) {
	c := gate.CallerOf(ctx)
	from := uint64(1)
	if in.Cursor != "" {
		var err error
		if from, err = strconv.ParseUint(in.Cursor, 10, 64); err != nil || from == 0 {
			return nil, fault.InvalidField("query.cursor", "want next_cursor of another page")
		}
	}
	if err := s.mayDead(ctx, c, events.Resource{Kind: deadKind, ID: "*", Attr: map[string]any{"tenant": c.Tenant}}, actionList); err != nil {
		return nil, err
	}
	letters, next, err := s.Ledger.Letters(ctx, from, in.Limit)
	if err != nil {
		return nil, err
	}
	out := &deadListOutput{}
	out.Body.Items = []DeadLetter{}
	for _, l := range letters {
		if read := s.readLetter(l); read.tenant == c.Tenant {
			out.Body.Items = append(out.Body.Items, read.told())
		}
	}
	if next != 0 {
		out.Body.NextCursor = strconv.FormatUint(next, 10)
	}
	return out, nil
}

// findDead reads a dead letter of the caller's tenant.
func (s *Server) findDead(ctx context.Context, c *gate.Caller, id string) (*letter, error) {
	l, err := s.Ledger.Letter(ctx, id)
	if err != nil {
		return nil, err
	}
	read := s.readLetter(l)
	if read.tenant != c.Tenant {
		return nil, fault.Missing("dead letter", id)
	}
	return read, nil
}

// noLetter decides about a letter that is not there, or is another tenant's, as
// about one that is: who may not know of it is not told whether there is one. It
// gives fault.NotFound where that is allowed.
func (s *Server) noLetter(ctx context.Context, c *gate.Caller, id, reason, action string) error {
	res := events.Resource{Kind: deadKind, ID: id, Attr: map[string]any{"tenant": c.Tenant}}
	if reason != "" {
		res.Attr["reason"] = reason
	}
	if err := s.mayDead(ctx, c, res, action); err != nil {
		return err
	}
	return fault.Missing("dead letter", id)
}

func (s *Server) getDead(ctx context.Context, in *DeadPath) (*deadOutput, error) {
	c := gate.CallerOf(ctx)
	l, err := s.findDead(ctx, c, in.ID)
	if fault.Is(err, fault.NotFound) {
		return nil, s.noLetter(ctx, c, in.ID, "", actionRead)
	}
	if err != nil {
		return nil, err
	}
	if err := s.mayDead(ctx, c, l.resource(""), actionRead); err != nil {
		return nil, err
	}
	out := &deadOutput{DeadMessage{DeadLetter: l.told(), Message: l.Record.Data}}
	if l.event != nil && l.event.Type == events.TypeWrit {
		out.Body.Decision = l.event.RawDecision
	}
	return out, nil
}

func (s *Server) discardDead(ctx context.Context, in *deadDiscardInput) (*struct{}, error) {
	c := gate.CallerOf(ctx)
	l, err := s.findDead(ctx, c, in.ID)
	if fault.Is(err, fault.NotFound) {
		return nil, s.noLetter(ctx, c, in.ID, in.Reason, actionDiscard)
	}
	if err != nil {
		return nil, err
	}
	if err := s.mayDead(ctx, c, l.resource(in.Reason), actionDiscard); err != nil {
		return nil, err
	}
	return nil, s.Ledger.Remove(ctx, l.Letter)
}
