package jobs_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestStopLeavesTheJobToAnother(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	begun := make(chan jobs.Job, 2)
	handler := func(ctx context.Context, j jobs.Job, _ string) error {
		begun <- j
		<-ctx.Done()
		return ctx.Err()
	}
	c := r.client()
	jobs.Handle(c, queue("stop"), handler)
	stop := r.run(c)
	r.enqueue(c, jobs.Spec{Queue: "stop", Payload: ""})
	<-begun
	started := time.Now()
	stop()
	if took := time.Since(started); took > 8*time.Second {
		t.Errorf("the stop took %s", took)
	}
	other := r.client()
	jobs.Handle(other, queue("stop"), handler)
	r.run(other)
	if j := <-begun; j.Attempt != 1 {
		t.Errorf("a stop counted as an attempt: %d", j.Attempt)
	}
}

func TestKilledWorkersJobIsDoneOnceMore(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	log := filepath.Join(t.TempDir(), "log")
	spec := testkit.Spec{Path: os.Args[0], Env: append(os.Environ(), workerURL+"="+r.url, workerLog+"="+log)}
	c := r.client()
	id := r.enqueue(c, jobs.Spec{Queue: "kill", Key: "one", Payload: ""})
	for n := 1; n <= 2; n++ {
		p := testkit.StartProcess(t, spec)
		testkit.Eventually(t, soon, func() error {
			b, _ := os.ReadFile(log)
			if strings.Count(string(b), "begun") < n {
				return fmt.Errorf("log: %q", b)
			}
			return nil
		})
		p.Signal(t, syscall.SIGKILL)
		p.Wait(t, soon)
	}
	if j, err := c.Show(t.Context(), id); err != nil || j.Status != jobs.Running || j.Attempt != 2 {
		t.Fatalf("after two deaths: %+v, %v", j, err)
	}
	// Two workers, as in production: it is done once.
	var done atomic.Int32
	for range 2 {
		w := r.client()
		jobs.Handle(w, queue("kill"), func(context.Context, jobs.Job, string) error { done.Add(1); return nil })
		r.run(w)
	}
	if j := r.until(c, id, jobs.Done); j.Attempt != 3 || done.Load() != 1 {
		t.Errorf("attempt %d, done %d times", j.Attempt, done.Load())
	}
}
