package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/testkit"
)

// filler is a job that nobody works on, of about so many bytes and 300.
func filler(n, size int) jobs.Spec {
	return jobs.Spec{Queue: "filler", Key: fmt.Sprint(n), Payload: strings.Repeat("x", size)}
}

// fill enqueues jobs until there is no room for the smallest and gives their ids.
func (r *rig) fill(c *jobs.Client) (ids []string) {
	r.t.Helper()
	size := 1000
	for n := range 1000 {
		id, added, err := c.Enqueue(r.t.Context(), filler(n, size))
		if err == nil {
			if added {
				ids = append(ids, id)
			}
			continue
		}
		e, ok := errors.AsType[*fault.Error](err)
		if !ok || e.Kind != fault.Unavailable || e.Code != "jobs-full" || e.RetryAfter == 0 || added {
			r.t.Fatalf("a full queue says %v", err)
		}
		if size == 0 {
			return ids
		}
		size = 0
	}
	r.t.Fatal("there is no end to the room")
	return nil
}

// TestFullQueuesRefuseAndForgetNothing: what waits stays, what is new is told to
// come again, and there is room once something is over.
func TestFullQueuesRefuseAndForgetNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.sized(64 << 10)
	tried := make(chan struct{}, 10)
	q := queue("retried")
	q.Backoff, q.MaxBackoff, q.Attempts = time.Hour, time.Hour, 2
	jobs.Handle(c, q, func(_ context.Context, j jobs.Job, _ string) error {
		tried <- struct{}{}
		return errors.New("no luck")
	})
	stop := r.run(c)
	waits := r.enqueue(c, jobs.Spec{Queue: "retried", Payload: ""})
	<-tried
	r.until(c, waits, jobs.Retrying)

	ids := r.fill(c)
	if taken, all, err := c.Room(t.Context()); err != nil || taken < all/10*9 || taken > all {
		t.Errorf("%d of %d are taken, %v", taken, all, err)
	}
	if _, added, err := c.Enqueue(t.Context(), filler(0, 1000)); err != nil || added {
		t.Errorf("one that is there already: %t, %v", added, err)
	}
	for _, id := range ids {
		if j, err := c.Show(t.Context(), id); err != nil || j.Status != jobs.Queued {
			t.Fatalf("%+v, %v", j, err)
		}
	}
	// By hand it cannot be run now, but it is not lost for that.
	if _, err := c.Retry(t.Context(), waits); !fault.Is(err, fault.Unavailable) {
		t.Errorf("retried without room: %v", err)
	}
	if n, err := c.Waiting(t.Context(), "retried"); err != nil || n != 1 {
		t.Errorf("%d wait, %v", n, err)
	}
	r.until(c, waits, jobs.Retrying)

	for _, id := range ids[:3] {
		if _, err := c.Cancel(t.Context(), id, "test"); err != nil {
			t.Fatal(err)
		}
	}
	if j, err := c.Retry(t.Context(), waits); err != nil || j.Status != jobs.Queued || j.Attempt != 0 {
		t.Errorf("%+v, %v", j, err)
	}
	<-tried
	if j := r.until(c, waits, jobs.Retrying); j.Attempt != 1 {
		t.Errorf("%+v", j)
	}
	testkit.Eventually(t, soon, func() error {
		if n, err := c.Waiting(t.Context(), "retried"); err != nil || n != 1 {
			return fmt.Errorf("%d wait, %w", n, errors.Join(err))
		}
		return nil
	})
	stop()

	// More room, as another release or setting has it, is taken at the next start.
	more := r.sized(128 << 10)
	if again := r.fill(more); len(again) < len(ids)/2 {
		t.Errorf("%d more in twice the room of %d", len(again), len(ids))
	}
}
