package jobs_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/jobs"
)

func TestFailedJobIsTriedAgainThenDead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.client()
	var attempts, last atomic.Int32
	q := queue("fails")
	q.Exhausted = func(_ context.Context, j jobs.Job, cause error) error {
		if last.Add(1) == 1 {
			return errors.New("not yet") // it is asked again
		}
		return nil
	}
	jobs.Handle(c, q, func(_ context.Context, j jobs.Job, payload map[string]int) error {
		if (int(attempts.Add(1))-1)%3+1 != j.Attempt || payload["n"] != 7 {
			t.Errorf("attempt %d of payload %v", j.Attempt, payload)
		}
		if j.Attempt == 2 {
			panic("crash")
		}
		return errors.New("no luck")
	})
	r.run(c)
	id := r.enqueue(c, jobs.Spec{Queue: "fails", Payload: map[string]int{"n": 7}})
	j := r.until(c, id, jobs.Dead)
	if j.Attempt != 3 || attempts.Load() != 3 || last.Load() != 2 || j.Error != "no luck" {
		t.Errorf("dead after %d attempts (%d calls, %d last steps): %s", j.Attempt, attempts.Load(), last.Load(), j.Error)
	}
	if n := r.dead(); n != 1 {
		t.Errorf("%d dead letters, want 1", n)
	}
	// By hand it is run again, with all attempts.
	if _, err := c.Retry(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	again := r.until(c, id, jobs.Dead)
	if again.Sequence == j.Sequence || again.Attempt != 3 {
		t.Errorf("the job was not run again: %+v", again)
	}
	if n := r.dead(); n != 2 {
		t.Errorf("%d dead letters, want 2", n)
	}
}

func TestIntentsOfHandlers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.client()
	var snoozed atomic.Int32
	jobs.Handle(c, queue("intents"), func(_ context.Context, j jobs.Job, what string) error {
		switch what {
		case "cancel":
			return jobs.Cancel(errors.New("makes no sense"))
		case "snooze":
			if snoozed.Add(1) < 6 { // more often than there are attempts
				return jobs.Snooze(time.Millisecond)
			}
		}
		return nil
	})
	r.run(c)
	if j := r.until(c, r.enqueue(c, jobs.Spec{Queue: "intents", Payload: "cancel"}), jobs.Cancelled); j.Error != "makes no sense" {
		t.Errorf("cancelled because %q", j.Error)
	}
	if j := r.until(c, r.enqueue(c, jobs.Spec{Queue: "intents", Payload: "snooze"}), jobs.Done); j.Attempt != 1 {
		t.Errorf("a snooze counted as an attempt: %d", j.Attempt)
	}
	r.until(c, r.enqueue(c, jobs.Spec{Queue: "intents", Payload: 5}), jobs.Cancelled) // no string
}

func TestRateIsSharedByWorkers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const jobCount, rate = 8, 10.0
	done := make(chan time.Time, jobCount)
	for range 2 {
		c := r.client()
		q := queue("rate")
		q.Rate, q.Burst, q.Concurrency = rate, 2, 4
		jobs.Handle(c, q, func(context.Context, jobs.Job, string) error { done <- time.Now(); return nil })
		r.run(c)
	}
	c := r.client()
	for range jobCount {
		r.enqueue(c, jobs.Spec{Queue: "rate", Payload: ""})
	}
	first := <-done
	var last time.Time
	for range jobCount - 1 {
		last = <-done
	}
	// Two at once, then one every 100 ms.
	if took, least := last.Sub(first), time.Duration(float64(jobCount-2)/rate*float64(time.Second)); took < least-50*time.Millisecond {
		t.Errorf("%d jobs in %s, the rate allows it in %s", jobCount, took, least)
	}
}

func TestLongJobKeepsItsMessageAndSlowOneIsCut(t *testing.T) {
	r := newRig(t)
	c := r.client()
	var begun atomic.Int32
	q := queue("long")
	q.AckWait, q.Timeout, q.Attempts = 300*time.Millisecond, 1500*time.Millisecond, 1
	jobs.Handle(c, q, func(ctx context.Context, _ jobs.Job, what string) error {
		begun.Add(1)
		wait := time.Second // longer than AckWait
		if what == "slow" {
			wait = time.Minute
		}
		select {
		case <-time.After(wait):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	r.run(c)
	r.until(c, r.enqueue(c, jobs.Spec{Queue: "long", Payload: ""}), jobs.Done)
	if begun.Load() != 1 {
		t.Errorf("begun %d times although it was in work", begun.Load())
	}
	if j := r.until(c, r.enqueue(c, jobs.Spec{Queue: "long", Payload: "slow"}), jobs.Dead); !strings.Contains(j.Error, "longer than 1.5s") {
		t.Errorf("ended with %q", j.Error)
	}
}
