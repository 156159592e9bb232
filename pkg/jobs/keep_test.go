package jobs_test

import (
	"context"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/jobs"
)

// TestWhatIsSoIsLeftAlone: a start changes no stream and no consumer that is as
// it should be. A consumer of other settings is changed, and stays paused.
func TestWhatIsSoIsLeftAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	start := func(q jobs.Queue) (end func()) {
		t.Helper()
		c := r.client()
		ran := make(chan struct{}, 1)
		jobs.Handle(c, q, func(context.Context, jobs.Job, string) error { ran <- struct{}{}; return nil })
		stop := r.run(c)
		r.enqueue(c, jobs.Spec{Queue: q.Name, Payload: ""})
		<-ran
		return stop
	}
	start(queue("kept"))()
	nc := r.connect()
	changes, err := nc.SubscribeSync("$JS.API.*.UPDATE.>")
	if err != nil {
		t.Fatal(err)
	}
	made, err := nc.SubscribeSync("$JS.API.CONSUMER.CREATE.JOBS.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	start(queue("kept"))()
	if m, err := changes.NextMsg(100 * time.Millisecond); err == nil {
		t.Errorf("%s although nothing is new", m.Subject)
	}
	if m, err := made.NextMsg(100 * time.Millisecond); err == nil {
		t.Errorf("%s although nothing is new", m.Subject)
	}
	other := queue("kept")
	other.AckWait *= 2
	start(other)()
	if _, err := made.NextMsg(soon); err != nil {
		t.Error("the consumer was not changed")
	}
}
