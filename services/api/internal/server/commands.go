package server

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
)

// CommandStatus is a command as the api tells it.
type CommandStatus struct {
	ID         string        `json:"id"`
	Status     events.Status `json:"status" enum:"accepted,retrying,applied,rejected,failed"`
	Action     string        `json:"action"`
	Code       string        `json:"code,omitempty" doc:"Why it was rejected or failed, for programs"`
	Reason     string        `json:"reason,omitempty" doc:"The same for people"`
	Attempts   int           `json:"attempts"`
	Version    int64         `json:"version,omitempty" doc:"The resource's version after it"`
	DecisionID string        `json:"decision_id,omitempty" doc:"The decision that was acted on"`
	IssuedAt   time.Time     `json:"issued_at"`
	At         *time.Time    `json:"finished_at,omitempty"`
}

// ResourceRef names a resource.
type ResourceRef struct {
	Kind string `json:"kind"`
	ID   string `json:"id"`
}

// Accepted is the answer to a mutation that nobody waited for, and to a
// question about a command.
type Accepted struct {
	Command  CommandStatus `json:"command"`
	Resource ResourceRef   `json:"resource"`
}

func (c *command) accepted() Accepted {
	a := Accepted{
		Command: CommandStatus{
			ID: c.ID, Status: c.Status, Action: c.Action, Code: c.Code, Reason: c.Reason, Attempts: c.Attempts,
			Version: c.Version, DecisionID: c.DecisionID, IssuedAt: c.IssuedAt,
		},
		Resource: ResourceRef{c.Kind, c.ResourceID},
	}
	if c.Status.Final() && !c.At.IsZero() {
		a.Command.At = &c.At
	}
	return a
}

type commandInput struct {
	ID string `path:"id" format:"uuid" doc:"The command's id"`
}

type commandOutput struct {
	Body struct {
		CommandStatus
		Resource ResourceRef `json:"resource"`
	}
}

func (s *Server) registerCommands() {
	register(s, huma.Operation{
		OperationID: "get-command", Method: http.MethodGet, Path: "/v1/commands/{id}", Tags: []string{"commands"},
		Summary: "What became of a command", Errors: []int{401, 403, 404, 422, 503},
	}, s.getCommand)
}

func (s *Server) getCommand(ctx context.Context, in *commandInput) (*commandOutput, error) {
	c, err := s.findCommand(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	caller := gate.CallerOf(ctx)
	if c.Tenant != caller.Tenant {
		return nil, fault.Missing("command", in.ID)
	}
	d, err := s.decideCommand(ctx, caller, c)
	if err != nil {
		return nil, err
	}
	if err := s.record(ctx, d); err != nil {
		return nil, err
	}
	if d.Effect != events.Allow {
		return nil, fault.Missing("command", in.ID)
	}
	a := c.accepted()
	out := &commandOutput{}
	out.Body.CommandStatus, out.Body.Resource = a.Command, a.Resource
	return out, nil
}

// decideCommand decides whether the caller may know what became of a command.
func (s *Server) decideCommand(ctx context.Context, who *gate.Caller, c *command) (*events.Decision, error) {
	all, err := s.decide(ctx, who, events.Resource{
		Kind: "command", ID: c.ID, Attr: map[string]any{"principal_id": c.PrincipalID, "tenant": c.Tenant},
	}, "read")
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// maxUnapplied is how many commands that wait to be applied are looked through
// for one that this instance has not accepted itself.
const maxUnapplied = 4096

// findCommand looks where a command may be: in SQL once it is done, in this
// instance's memory, else among those on the ledger that are not applied yet.
func (s *Server) findCommand(ctx context.Context, id string) (*command, error) {
	row, err := s.Store.Command(ctx, id)
	if err == nil {
		return fromRow(row), nil
	}
	if !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	if c, ok := s.recent.get(id); ok {
		return c, nil
	}
	positions, err := s.Store.Positions(ctx)
	if err != nil {
		return nil, err
	}
	waiting, complete, err := s.Ledger.Waiting(ctx, positions, maxUnapplied)
	if err != nil {
		return nil, err
	}
	for _, r := range waiting {
		if events.IDOf(r.Data) != id {
			continue
		}
		e, err := events.Parse(r.Data)
		if err == nil {
			err = e.Verify(s.Keys, r.Subject)
		}
		if err == nil {
			return fromEvent(e), nil
		}
		return nil, fault.Missing("command", id) // a forgery: it will be a dead letter
	}
	// It may have been applied while we looked.
	if row, err = s.Store.Command(ctx, id); err == nil {
		return fromRow(row), nil
	}
	if !complete {
		return nil, fault.Unreachable("worker", context.DeadlineExceeded)
	}
	return nil, err
}

// recentCommands is how many accepted commands an instance remembers.
const recentCommands = 16384

// recent remembers the commands that this instance accepted last.
type recent struct {
	mu   sync.Mutex
	byID map[string]*command // by id, and by idempotency key
	ring []string
	next int
}

func newRecent(n int) *recent {
	return &recent{byID: make(map[string]*command, n), ring: make([]string, n)}
}

func (r *recent) add(c *command) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.byID[r.ring[r.next]]; old != nil {
		delete(r.byID, old.ID)
		if r.byID[old.Key] == old {
			delete(r.byID, old.Key)
		}
	}
	r.ring[r.next], r.byID[c.ID] = c.ID, c
	if c.Key != "" && r.byID[c.Key] == nil { // of two at the same moment the worker most likely takes the first
		r.byID[c.Key] = c
	}
	r.next = (r.next + 1) % len(r.ring)
}

// byKey gives the command that an idempotency key stands for.
func (r *recent) byKey(key string) (*command, bool) { return r.get(key) }

func (r *recent) get(id string) (*command, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.byID[id]
	return c, ok
}
