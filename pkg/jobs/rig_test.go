package jobs_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
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
	c, err := jobs.Open(context.Background(), nc, jobs.Config{Keys: keys, Bury: led.Bury})
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

// keys are the same in the test and in the workers that it kills.
var keys = func() *events.Keyring {
	k, err := events.ParseKeyring("test:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")
	if err != nil {
		panic(err)
	}
	return k
}()

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

func (r *rig) client() *jobs.Client { return r.sized(0) }

// sized is a client where all jobs together have so many bytes.
func (r *rig) sized(maxBytes int64) *jobs.Client {
	r.t.Helper()
	c, err := jobs.Open(r.t.Context(), r.connect(), jobs.Config{Keys: keys, Bury: r.led.Bury, MaxBytes: maxBytes})
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
