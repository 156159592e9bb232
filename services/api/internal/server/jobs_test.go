package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

// TestADeadJobIsItsTenantsDeadLetter: a job that failed for ever is seen, believed and discarded by an admin of the tenant
// whose job it was, and by nobody else; a forged one is the installation's own.
func TestADeadJobIsItsTenantsDeadLetter(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	_, admin := s.person("alice", "admin")
	ann, annToken := s.member("ann", in("acme", nil, "admin"))
	nc := need(ledger.Connect(s.direct, "worker"))(t)
	t.Cleanup(nc.Close)
	worker := need(jobs.Open(t.Context(), nc, jobs.Config{Keys: s.keys, Bury: s.ledger.Bury}))(t)
	jobs.Handle(worker, jobs.Queue{Name: "q", Attempts: 1}, func(context.Context, jobs.Job, string) error { return errors.New("no luck") })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx) }()
	t.Cleanup(func() { cancel(); must(t, <-done) })
	job, _, err := s.jobs.Enqueue(t.Context(), jobs.Spec{Queue: "q", Tenant: "acme", Payload: "acme's own"})
	must(t, err)
	list := func(token, tenant string) []DeadLetter {
		t.Helper()
		a := s.do("GET", s.api+"/v1/dead", token, "", "Writ-Tenant", tenant)
		var page struct{ Items []DeadLetter }
		if must(t, json.Unmarshal(a.body, &page)); a.status != 200 {
			t.Fatalf("the dead letters of %s: %d %s", tenant, a.status, a.body)
		}
		return page.Items
	}
	testkit.Eventually(t, soon, func() error {
		if n := len(list(annToken, "acme")); n != 1 {
			return fmt.Errorf("acme has %d dead letters, want 1", n)
		}
		return nil
	})
	one := list(annToken, "acme")[0]
	if !one.Believed || one.Resource == nil || *one.Resource != (ResourceRef{"job", job}) || !strings.Contains(one.Unreplayable, job) {
		t.Errorf("the letter is %+v, want it believed and about job %s", one, job)
	}
	if n := len(list(admin, user.DefaultTenant)); n != 0 {
		t.Errorf("the tenant default has %d dead letters of acme's, want none", n)
	}
	path := s.api + "/v1/dead/" + one.ID
	if a := s.do("GET", path, admin, ""); a.status != 404 {
		t.Errorf("acme's letter as default's admin: %d %s, want 404", a.status, a.body)
	}
	if a := s.do("POST", path+"/replay", annToken, because, "Writ-Tenant", "acme"); a.status != 409 || a.problem(t).Code != "not-replayable" {
		t.Errorf("a job replayed as a command: %d %s, want 409 not-replayable", a.status, a.body)
	}

	// The same message under another subject, and with another payload: neither is believed.
	buried := need(s.ledger.Letter(t.Context(), one.ID))(t)
	for i, change := range []func(*ledger.Record){
		func(r *ledger.Record) { r.Subject = events.JobSubject("other", job) },
		func(r *ledger.Record) { r.Data = []byte(strings.Replace(string(r.Data), "own", "due", 1)) },
		func(r *ledger.Record) { r.Header = nil },
	} {
		forged := buried.DeadLetter
		forged.Record.Address = 1000 + uint64(i)
		change(&forged.Record)
		must(t, s.ledger.Bury(t.Context(), forged))
	}
	for _, l := range list(admin, user.DefaultTenant) {
		if l.Believed || l.Resource != nil || !strings.Contains(l.Unreplayable, "seal") {
			t.Errorf("a forgery is told as %+v", l)
		}
	}
	if n := len(list(admin, user.DefaultTenant)); n != 3 {
		t.Errorf("%d forgeries are the installation's own, want 3", n)
	}

	if a := s.do("DELETE", path+"?reason=x", annToken, "", "Writ-Tenant", "acme"); a.status != 204 {
		t.Errorf("discarded by acme's admin: %d %s, want 204", a.status, a.body)
	}
	if n := len(list(annToken, "acme")); n != 0 {
		t.Errorf("acme has %d dead letters after that, want none", n)
	}
	all := s.events()
	for _, e := range all {
		if e.Decision.Action == "discard" && (e.Decision.Tenant != "acme" || e.Decision.Principal.ID != ann) {
			t.Errorf("the discard is recorded as %+v", e.Decision)
		}
	}
}

func TestAdminsLookAfterJobs(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	_, admin := s.person("alice", "admin")
	_, token := s.person("sam", "user")
	nc := need(ledger.Connect(s.direct, "worker"))(t)
	t.Cleanup(nc.Close)
	worker := need(jobs.Open(t.Context(), nc, jobs.Config{Keys: s.keys, Bury: s.ledger.Bury}))(t)
	jobs.Handle(worker, jobs.Queue{Name: "q", Attempts: 1}, func(_ context.Context, _ jobs.Job, what string) error {
		if what == "fail" {
			return errors.New("no luck")
		}
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx) }()
	t.Cleanup(func() { cancel(); must(t, <-done) })
	enqueue := func(spec jobs.Spec) string {
		id, _, err := s.jobs.Enqueue(t.Context(), spec)
		must(t, err)
		return id
	}
	dead := enqueue(jobs.Spec{Queue: "q", Tenant: user.DefaultTenant, Payload: "fail"})
	later := enqueue(jobs.Spec{Queue: "q", Tenant: user.DefaultTenant, Payload: "", NotBefore: time.Now().Add(time.Hour)})
	foreign := enqueue(jobs.Spec{Queue: "q", Tenant: "acme", Payload: "", NotBefore: time.Now().Add(time.Hour)})
	testkit.Eventually(t, soon, func() error {
		if j, err := s.jobs.Show(t.Context(), dead); err != nil || j.Status != jobs.Dead {
			return fmt.Errorf("%+v, %v", j, err)
		}
		return nil
	})
	list := func(query string) (ids []string) {
		a := s.do("GET", s.api+"/v1/jobs"+query, admin, "")
		var page struct{ Items []Job }
		must(t, json.Unmarshal(a.body, &page))
		for _, j := range page.Items {
			ids = append(ids, j.ID)
		}
		return ids
	}
	if ids := list(""); len(ids) != 2 {
		t.Errorf("the tenant's jobs are %v", ids)
	}
	if ids := list("?status=dead&queue=q"); len(ids) != 1 || ids[0] != dead {
		t.Errorf("the dead ones are %v", ids)
	}
	var first, second struct {
		Items      []Job
		NextCursor string `json:"next_cursor"`
	}
	must(t, json.Unmarshal(s.do("GET", s.api+"/v1/jobs?limit=1", admin, "").body, &first))
	must(t, json.Unmarshal(s.do("GET", s.api+"/v1/jobs?limit=100&cursor="+first.NextCursor, admin, "").body, &second))
	if len(first.Items) != 1 || len(second.Items) != 1 || first.Items[0].ID == second.Items[0].ID || second.NextCursor != "" {
		t.Errorf("%+v, then %+v", first, second)
	}
	var j Job
	a := s.do("GET", s.api+"/v1/jobs/"+dead, admin, "")
	must(t, json.Unmarshal(a.body, &j))
	if a.status != 200 || j.Error != "no luck" || j.Attempt != 1 {
		t.Errorf("%d %s", a.status, a.body)
	}
	for _, c := range []struct {
		who, method, path string
		want              int
	}{
		{token, "GET", "/v1/jobs", 403},
		{token, "GET", "/v1/queues", 403},
		{token, "GET", "/v1/jobs/" + dead, 404},
		{token, "POST", "/v1/jobs/" + later + "/cancel", 404},
		{token, "POST", "/v1/queues/q/pause", 403},
		{admin, "GET", "/v1/jobs/" + foreign, 404},
		{admin, "POST", "/v1/jobs/" + foreign + "/cancel", 404},
		{admin, "GET", "/v1/jobs/" + uuid.NewString(), 404},
		{admin, "POST", "/v1/queues/nobody/pause", 404},
		{admin, "GET", "/v1/jobs?status=odd", 422},
		{admin, "GET", "/v1/jobs?limit=201", 422},
		{admin, "GET", "/v1/jobs?cursor=17", 422},
		{admin, "GET", "/v1/jobs?cursor=s0", 422},
		{admin, "POST", "/v1/queues/q/pause", 200},
		{admin, "POST", "/v1/jobs/" + later + "/retry", 409}, // it has not been tried
		{admin, "POST", "/v1/jobs/" + later + "/cancel", 200},
		{admin, "POST", "/v1/jobs/" + later + "/cancel", 409},
		{admin, "POST", "/v1/jobs/" + dead + "/retry", 200},
		{admin, "GET", "/v1/queues", 200},
		{admin, "POST", "/v1/queues/q/resume", 200},
	} {
		if a := s.do(c.method, s.api+c.path, c.who, ""); a.status != c.want {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, a.status, a.body, c.want)
		}
	}
	var denials int
	for _, e := range s.events() {
		if e.Decision.Resource.Kind == "job" && e.Decision.Effect == events.Deny {
			denials++
		}
	}
	if denials != 5 {
		t.Errorf("%d denials are recorded, want 5", denials)
	}
}
