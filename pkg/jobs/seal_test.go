package jobs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/testkit"
)

// sealed is a message as this package writes it.
func sealed(subject string, data []byte) *nats.Msg {
	s := keys.Seal([]byte("writ job\x00" + subject + "\x00" + string(data)))
	return &nats.Msg{Subject: subject, Data: data, Header: nats.Header{"Writ-Seal": {s.KeyID + ":" + s.MAC}}}
}

// TestWhoCanWriteToNATSMakesNoJobs: what is not sealed is not done, is shown by nobody and is a dead letter.
func TestWhoCanWriteToNATSMakesNoJobs(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.client()
	done := make(chan string, 10)
	jobs.Handle(c, queue("acts"), func(_ context.Context, _ jobs.Job, what string) error { done <- what; return nil })
	js, err := jetstream.New(r.connect())
	if err != nil {
		t.Fatal(err)
	}
	job := func(id string) []byte {
		return fmt.Appendf(nil, `{"id":%q,"queue":"acts","tenant":"acme","payload":"forged","enqueued_at":"2026-11-22T00:00:00Z"}`, id)
	}
	const id = "00000000-0000-8000-8000-00000000000%d"
	var forged []string
	for n, m := range []*nats.Msg{
		{Subject: events.JobSubject("acts", fmt.Sprintf(id, 0)), Data: job(fmt.Sprintf(id, 0))},
		// A seal that fits another subject, and one that fits other bytes.
		{Subject: events.JobSubject("acts", fmt.Sprintf(id, 1)), Data: job(fmt.Sprintf(id, 1)), Header: sealed(events.JobSubject("other", fmt.Sprintf(id, 1)), job(fmt.Sprintf(id, 1))).Header},
		{Subject: events.JobSubject("acts", fmt.Sprintf(id, 2)), Data: job(fmt.Sprintf(id, 2)), Header: sealed(events.JobSubject("acts", fmt.Sprintf(id, 2)), nil).Header},
	} {
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		forged = append(forged, fmt.Sprintf(id, n))
	}
	if found, _, err := c.List(t.Context(), jobs.Filter{}); err != nil || len(found) != 0 {
		t.Errorf("%+v, %v", found, err)
	}
	for _, id := range forged {
		if _, err := c.Show(t.Context(), id); !fault.Is(err, fault.NotFound) {
			t.Errorf("%v", err)
		}
	}
	r.run(c)
	r.enqueue(c, jobs.Spec{Queue: "acts", Payload: "genuine"})
	if what := <-done; what != "genuine" {
		t.Errorf("%s was done", what)
	}
	if n := r.dead(); n != 3 {
		t.Errorf("%d dead letters, want 3", n)
	}
}

// TestForgedRecordsCountNothing: a record that says that the last attempt was made is written over, and the job is done.
func TestForgedRecordsCountNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.client()
	q := queue("counted")
	q.Exhausted = func(context.Context, jobs.Job, error) error {
		t.Error("the job was given up")
		return nil
	}
	attempts := make(chan int, 10)
	jobs.Handle(c, q, func(_ context.Context, j jobs.Job, _ string) error { attempts <- j.Attempt; return nil })
	js, err := jetstream.New(r.connect())
	if err != nil {
		t.Fatal(err)
	}
	forge := func(key string) (id string) {
		t.Helper()
		id = r.enqueue(c, jobs.Spec{Queue: q.Name, Key: key, Tenant: "acme", Payload: ""})
		j, err := c.Show(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		j.Status, j.Attempt, j.Attempts, j.Error = jobs.Running, 3, 3, "forged"
		data, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), "writ.jobstate."+q.Name+"."+id, data); err != nil {
			t.Fatal(err)
		}
		return id
	}
	one, two := forge("1"), forge("2")
	if j, err := c.Show(t.Context(), one); err != nil || j.Status != jobs.Queued || j.Error != "" {
		t.Errorf("%+v, %v", j, err)
	}
	if found, _, err := c.List(t.Context(), jobs.Filter{Tenant: "acme"}); err != nil || len(found) != 2 || found[0].Status != jobs.Queued {
		t.Errorf("%+v, %v", found, err)
	}
	if j, err := c.Cancel(t.Context(), two, "test"); err != nil || j.Status != jobs.Cancelled {
		t.Errorf("%+v, %v", j, err)
	}
	r.run(c)
	r.until(c, one, jobs.Done)
	if n := <-attempts; n != 1 {
		t.Errorf("it is attempt %d", n)
	}
	testkit.Eventually(t, soon, func() error {
		n, err := c.Waiting(t.Context(), q.Name)
		if err != nil || n > 0 {
			return fmt.Errorf("%d wait, %w", n, errors.Join(err))
		}
		return nil
	})
	select {
	case <-attempts:
		t.Error("what was cancelled was done")
	case <-time.After(50 * time.Millisecond):
	}
}
