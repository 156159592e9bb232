package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

const soon = 20 * time.Second

// workerURL makes the test binary a worker, so that it can be killed.
const workerURL, workerLog = "WRIT_TEST_JOBS_URL", "WRIT_TEST_JOBS_LOG"

func TestMain(m *testing.M) {
	if url := os.Getenv(workerURL); url != "" {
		fmt.Fprintln(os.Stderr, killable(url, os.Getenv(workerLog)))
		os.Exit(1)
	}
	testkit.Main(m)
}

// queue has pauses that a test can wait for.
func queue(name string) jobs.Queue {
	return jobs.Queue{Name: name, Attempts: 3, Timeout: 5 * time.Second, Backoff: 10 * time.Millisecond, MaxBackoff: 50 * time.Millisecond, AckWait: time.Second}
}

// killable is a worker that says what it does and never ends a job of the kind "hang".
func killable(url, log string) error {
	nc, err := ledger.Connect(url, "killable")
	if err != nil {
		return err
	}
	led, err := ledger.Open(context.Background(), nc, ledger.Config{})
	if err != nil {
		return err
	}
	c, err := jobs.Open(context.Background(), nc, jobs.Config{Bury: led.Bury})
	if err != nil {
		return err
	}
	jobs.Handle(c, queue("kill"), func(ctx context.Context, j jobs.Job, _ string) error {
		f, err := os.OpenFile(log, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		fmt.Fprintf(f, "begun %d\n", j.Attempt)
		_ = f.Close()
		<-ctx.Done()
		return ctx.Err()
	})
	return c.Run(context.Background())
}

type rig struct {
	t   *testing.T
	url string
	led *ledger.Ledger
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, url: testkit.NATS(t).URL()}
	nc := r.connect()
	var err error
	if r.led, err = ledger.Open(t.Context(), nc, ledger.Config{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = r.led.Close(ctx)
	})
	return r
}

func (r *rig) connect() *natsConn {
	nc, err := ledger.Connect(r.url, "test")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(nc.Close)
	return nc
}

func (r *rig) client() *jobs.Client {
	r.t.Helper()
	c, err := jobs.Open(r.t.Context(), r.connect(), jobs.Config{Bury: r.led.Bury})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// run works off the client's queues until the test ends or stop is called.
func (r *rig) run(c *jobs.Client) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
	r.t.Cleanup(stop)
	return stop
}

func (r *rig) enqueue(c *jobs.Client, s jobs.Spec) string {
	r.t.Helper()
	id, _, err := c.Enqueue(r.t.Context(), s)
	if err != nil {
		r.t.Fatal(err)
	}
	return id
}

func (r *rig) until(c *jobs.Client, id string, want jobs.Status) (j jobs.Job) {
	r.t.Helper()
	testkit.Eventually(r.t, soon, func() error {
		var err error
		if j, err = c.Show(r.t.Context(), id); err != nil {
			return err
		}
		if j.Status != want {
			return fmt.Errorf("job is %s after %d attempts (%s), want %s", j.Status, j.Attempt, j.Error, want)
		}
		return nil
	})
	return j
}

func TestFailedJobIsTriedAgainThenDead(t *testing.T) {
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

func TestUniqueWhileItWaitsOrRuns(t *testing.T) {
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
	found, complete, err := other.List(t.Context(), jobs.Filter{Status: jobs.Paused})
	if err != nil || !complete || len(found) != 1 || ran.Load() != 0 {
		t.Fatalf("%v, %v, %v; %d ran", found, complete, err, ran.Load())
	}
	if err := other.Resume(t.Context(), "paused"); err != nil {
		t.Fatal(err)
	}
	r.until(other, id, jobs.Done)
}

func TestRateIsSharedByWorkers(t *testing.T) {
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

func TestStopLeavesTheJobToAnother(t *testing.T) {
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
