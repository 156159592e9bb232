package jobs_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestUniqueWhileItWaitsOrRuns(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.client()
	begun, end := make(chan struct{}, 10), make(chan struct{})
	jobs.Handle(c, queue("unique"), func(ctx context.Context, _ jobs.Job, _ string) error {
		begun <- struct{}{}
		<-end
		return nil
	})
	spec := jobs.Spec{Queue: "unique", Key: "the one", Payload: ""}
	first, added, err := c.Enqueue(t.Context(), spec)
	if err != nil || !added {
		t.Fatal(added, err)
	}
	second := func() bool {
		id, added, err := c.Enqueue(t.Context(), spec)
		if err != nil || id != first {
			t.Fatal(id, err)
		}
		return added
	}
	if second() {
		t.Error("added twice while it waits")
	}
	r.run(c)
	<-begun
	if second() {
		t.Error("added twice while it runs")
	}
	close(end)
	r.until(c, first, jobs.Done)
	testkit.Eventually(t, soon, func() error { // the message goes right after the record
		if !second() {
			return errors.New("not added after it was done")
		}
		return nil
	})
	<-begun
}

func TestDelayedAndCancelled(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.client()
	ran := make(chan time.Time, 4)
	stopped := make(chan error, 1)
	jobs.Handle(c, queue("delay"), func(ctx context.Context, _ jobs.Job, what string) error {
		if what == "long" {
			ran <- time.Now()
			<-ctx.Done()
			stopped <- context.Cause(ctx)
			return ctx.Err()
		}
		ran <- time.Now()
		return nil
	})
	r.run(c)
	at := time.Now().Add(700 * time.Millisecond)
	r.enqueue(c, jobs.Spec{Queue: "delay", Payload: "", NotBefore: at})
	never := r.enqueue(c, jobs.Spec{Queue: "delay", Payload: "", NotBefore: time.Now().Add(time.Hour)})
	if got := <-ran; got.Before(at.Truncate(time.Millisecond)) {
		t.Errorf("ran %s too early", at.Sub(got))
	}
	if _, err := c.Cancel(t.Context(), never, "test"); err != nil {
		t.Fatal(err)
	}
	if j := r.until(c, never, jobs.Cancelled); j.Error != "cancelled by test" {
		t.Errorf("%+v", j)
	}
	if _, err := c.Cancel(t.Context(), never, "test"); !fault.Is(err, fault.KindConflict) {
		t.Errorf("cancelled twice: %v", err)
	}
	long := r.enqueue(c, jobs.Spec{Queue: "delay", Payload: "long"})
	<-ran
	if _, err := c.Retry(t.Context(), long); !fault.Is(err, fault.KindConflict) {
		t.Errorf("a running job was retried: %v", err)
	}
	if _, err := c.Cancel(t.Context(), long, "test"); err != nil {
		t.Fatal(err)
	}
	if cause := <-stopped; !errors.Is(cause, jobs.ErrCancelled) {
		t.Errorf("the handler ended because of %v", cause)
	}
	r.until(c, long, jobs.Cancelled)
	if _, err := c.Show(t.Context(), "nothing"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a job that is not there: %v", err)
	}
}

func TestPausedQueueWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.client()
	var ran atomic.Int32
	jobs.Handle(c, queue("paused"), func(context.Context, jobs.Job, string) error { ran.Add(1); return nil })
	if err := c.Pause(t.Context(), "nobody"); !fault.Is(err, fault.NotFound) {
		t.Errorf("paused a queue that is not there: %v", err)
	}
	stop := r.run(c)
	testkit.Eventually(t, soon, func() error { return c.Pause(t.Context(), "paused") })
	id := r.enqueue(c, jobs.Spec{Queue: "paused", Payload: ""})
	r.until(c, id, jobs.Paused)
	stop() // it stays paused over a restart
	other := r.client()
	jobs.Handle(other, queue("paused"), func(context.Context, jobs.Job, string) error { ran.Add(1); return nil })
	r.run(other)
	found, next, err := other.List(t.Context(), jobs.Filter{Status: jobs.Paused})
	if err != nil || next != "" || len(found) != 1 || ran.Load() != 0 {
		t.Fatalf("%v, %q, %v; %d ran", found, next, err, ran.Load())
	}
	if err := other.Resume(t.Context(), "paused"); err != nil {
		t.Fatal(err)
	}
	r.until(other, id, jobs.Done)
}
