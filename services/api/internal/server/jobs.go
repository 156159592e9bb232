package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/kind/user"
)

// The kind of jobs in policies, and what is done to them beside list and read.
const (
	jobKind      = "job"
	actionCancel = "cancel"
	actionRetry  = "retry"
	actionPause  = "pause"
	actionResume = "resume"
)

// Job is a background job as the api tells it.
type Job struct {
	ID         string          `json:"id" format:"uuid"`
	Queue      string          `json:"queue"`
	Key        string          `json:"key,omitempty" doc:"While a job of this key waits or runs there is no second one"`
	Status     jobs.Status     `json:"status" enum:"queued,running,retrying,paused,done,cancelled,dead"`
	Attempt    int             `json:"attempt" doc:"Attempts that were begun"`
	Attempts   int             `json:"attempts,omitempty" doc:"How many there may be"`
	Error      string          `json:"error,omitempty" doc:"What the last attempt ended with"`
	NotBefore  *time.Time      `json:"not_before,omitempty" doc:"When it may run, or run again"`
	EnqueuedAt time.Time       `json:"enqueued_at"`
	StartedAt  *time.Time      `json:"started_at,omitempty" doc:"When the last attempt began"`
	FinishedAt *time.Time      `json:"finished_at,omitempty"`
	Payload    json.RawMessage `json:"payload,omitempty" doc:"What it is about"`
}

// Queue is a queue of jobs as the api tells it.
type Queue struct {
	Name    string `json:"name"`
	Waiting uint64 `json:"waiting" doc:"Jobs that wait or run"`
	Paused  bool   `json:"paused"`
}

func told(j jobs.Job) Job {
	at := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	return Job{
		ID: j.ID, Queue: j.Queue, Key: j.Key, Status: j.Status, Attempt: j.Attempt, Attempts: j.Attempts, Error: j.Error,
		NotBefore: at(j.NotBefore), EnqueuedAt: j.EnqueuedAt, StartedAt: at(j.StartedAt), FinishedAt: at(j.FinishedAt), Payload: j.Payload,
	}
}

type jobsInput struct {
	Queue  string `query:"queue" maxLength:"31" pattern:"^[a-z0-9-]*$" doc:"Only those of this queue"`
	Status string `query:"status" enum:"queued,running,retrying,paused,done,cancelled,dead" doc:"Only those in this state"`
	Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50" doc:"At most this many"`
	Cursor string `query:"cursor" maxLength:"21" pattern:"^([ws][0-9]+)?$" doc:"next_cursor of the page before"`
}

type jobsOutput struct {
	Body struct {
		Items      []Job  `json:"items" doc:"First those that wait for their first attempt, the newest first, then those that changed last first. There may be none on a page that is not the last"`
		NextCursor string `json:"next_cursor,omitempty" doc:"Absent on the last page"`
	}
}

type jobInput struct {
	ID string `path:"id" format:"uuid" doc:"The job's id"`
}

type jobOutput struct{ Body Job }

type queueInput struct {
	Name string `path:"name" maxLength:"31" pattern:"^[a-z0-9][a-z0-9-]*$" doc:"The queue's name"`
}

type queueOutput struct{ Body Queue }

type queuesOutput struct {
	Body struct {
		Items []Queue `json:"items"`
	}
}

func (s *Server) registerJobs() {
	if s.Jobs == nil {
		return
	}
	tags := []string{"jobs"}
	register(s, huma.Operation{
		OperationID: "list-jobs", Method: http.MethodGet, Path: "/v1/jobs", Tags: tags,
		Summary: "List background jobs of the tenant", Errors: []int{401, 403, 422},
	}, s.listJobs)
	register(s, huma.Operation{
		OperationID: "get-job", Method: http.MethodGet, Path: "/v1/jobs/{id}", Tags: tags,
		Summary: "Show a background job", Errors: []int{401, 404, 422},
	}, s.getJob)
	for _, a := range []struct {
		action, summary string
		do              func(context.Context, string, string) (jobs.Job, error)
	}{
		{actionCancel, "End a job that waits or runs", s.Jobs.Cancel},
		{actionRetry, "Run a job that is over, or waits for its next attempt, at once", func(ctx context.Context, id, _ string) (jobs.Job, error) { return s.Jobs.Retry(ctx, id) }},
	} {
		register(s, huma.Operation{
			OperationID: a.action + "-job", Method: http.MethodPost, Path: "/v1/jobs/{id}/" + a.action, Tags: tags,
			Summary: a.summary, Errors: []int{401, 403, 404, 409, 422},
		}, s.jobAction(a.action, a.do))
	}
	register(s, huma.Operation{
		OperationID: "list-queues", Method: http.MethodGet, Path: "/v1/queues", Tags: tags,
		Summary: "List the queues of background jobs", Errors: []int{401, 403, 422},
	}, s.listQueues)
	for _, a := range []struct {
		action, summary string
		do              func(context.Context, string) error
	}{
		{actionPause, "Stop giving out a queue's jobs; those that run go on", s.Jobs.Pause},
		{actionResume, "Give out a queue's jobs again", s.Jobs.Resume},
	} {
		register(s, huma.Operation{
			OperationID: a.action + "-queue", Method: http.MethodPost, Path: "/v1/queues/{name}/" + a.action, Tags: tags,
			Summary: a.summary, Errors: []int{401, 403, 404, 422},
		}, s.queueAction(a.action, a.do))
	}
}

// mayJobs decides about jobs and records that; a denial is the error.
func (s *Server) mayJobs(ctx context.Context, res events.Resource, action string) (*gate.Caller, error) {
	c := gate.CallerOf(ctx)
	all, err := s.decide(ctx, c, res, action)
	if err != nil {
		return nil, err
	}
	if err := s.record(ctx, all[0]); err != nil {
		return nil, err
	}
	if all[0].Effect != events.Allow {
		return nil, denied(all[0])
	}
	return c, nil
}

func (s *Server) listJobs(ctx context.Context, in *jobsInput) (*jobsOutput, error) {
	attr := map[string]any{"tenant": gate.CallerOf(ctx).Tenant}
	if in.Queue != "" {
		attr["queue"] = in.Queue
	}
	c, err := s.mayJobs(ctx, events.Resource{Kind: jobKind, ID: "*", Attr: attr}, actionList)
	if err != nil {
		return nil, err
	}
	found, next, err := s.Jobs.List(ctx, jobs.Filter{Queue: in.Queue, Status: jobs.Status(in.Status), Tenant: c.Tenant, Limit: in.Limit, Cursor: in.Cursor})
	if errors.Is(err, jobs.ErrCursor) {
		return nil, fault.InvalidField("query.cursor", "want next_cursor of another page")
	}
	if err != nil {
		return nil, err
	}
	out := &jobsOutput{}
	out.Body.Items, out.Body.NextCursor = make([]Job, len(found)), next
	for i, j := range found {
		out.Body.Items[i] = told(j)
	}
	return out, nil
}

// findJob loads a job of the caller's tenant and decides about it.
func (s *Server) findJob(ctx context.Context, id, action string) error {
	j, err := s.Jobs.Show(ctx, id)
	if err != nil {
		return err
	}
	if j.Tenant != gate.CallerOf(ctx).Tenant {
		return fault.Missing(jobKind, id)
	}
	all, err := s.decide(ctx, gate.CallerOf(ctx), events.Resource{
		Kind: jobKind, ID: id, Attr: map[string]any{"tenant": j.Tenant, "queue": j.Queue, "status": string(j.Status)},
	}, action, actionRead)
	if err != nil {
		return err
	}
	if err := s.record(ctx, all[0]); err != nil {
		return err
	}
	switch {
	case all[0].Effect == events.Allow:
		return nil
	case all[1].Effect != events.Allow: // not even to be known of
		return fault.Missing(jobKind, id)
	}
	return denied(all[0])
}

func (s *Server) getJob(ctx context.Context, in *jobInput) (*jobOutput, error) {
	if err := s.findJob(ctx, in.ID, actionRead); err != nil {
		return nil, err
	}
	j, err := s.Jobs.Show(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &jobOutput{told(j)}, nil
}

func (s *Server) jobAction(action string, do func(context.Context, string, string) (jobs.Job, error)) func(context.Context, *jobInput) (*jobOutput, error) {
	return func(ctx context.Context, in *jobInput) (*jobOutput, error) {
		if err := s.findJob(ctx, in.ID, action); err != nil {
			return nil, err
		}
		j, err := do(ctx, in.ID, gate.CallerOf(ctx).ID)
		if err != nil {
			return nil, err
		}
		return &jobOutput{told(j)}, nil
	}
}

// queueResource is a queue as policies see it: all tenants' jobs are on it, so it
// is the default tenant's to look after.
func queueResource(name string) events.Resource {
	r := events.Resource{Kind: jobKind, ID: name, Attr: map[string]any{"tenant": user.DefaultTenant}}
	if name != "*" {
		r.Attr["queue"] = name
	}
	return r
}

func (s *Server) listQueues(ctx context.Context, _ *struct{}) (*queuesOutput, error) {
	if _, err := s.mayJobs(ctx, queueResource("*"), actionList); err != nil {
		return nil, err
	}
	found, err := s.Jobs.Queues(ctx)
	if err != nil {
		return nil, err
	}
	out := &queuesOutput{}
	out.Body.Items = make([]Queue, len(found))
	for i, q := range found {
		out.Body.Items[i] = Queue(q)
	}
	return out, nil
}

func (s *Server) queueAction(action string, do func(context.Context, string) error) func(context.Context, *queueInput) (*queueOutput, error) {
	return func(ctx context.Context, in *queueInput) (*queueOutput, error) {
		if _, err := s.mayJobs(ctx, queueResource(in.Name), action); err != nil {
			return nil, err
		}
		if err := do(ctx, in.Name); err != nil {
			return nil, err
		}
		found, err := s.Jobs.Queues(ctx)
		if err != nil {
			return nil, err
		}
		for _, q := range found {
			if q.Name == in.Name {
				return &queueOutput{Queue(q)}, nil
			}
		}
		return nil, fault.Missing("queue", in.Name)
	}
}
