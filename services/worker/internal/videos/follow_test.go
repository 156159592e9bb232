package videos

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/kind/video"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/testkit"
)

const soon = 20 * time.Second

// rig is a ledger and a database, and outcomes that become jobs. Nobody works on them but the test.
type rig struct {
	*Videos
	t    *testing.T
	js   jetstream.JetStream
	last uint64 // sequence of the last outcome
}

func newRig(t *testing.T, maxBytes int64) *rig {
	t.Helper()
	ctx := t.Context()
	keys := need(events.ParseKeyring(events.GenerateKey("test")))(t)
	st := need(store.Open(ctx, "sqlite:"+filepath.Join(t.TempDir(), "writ.db")))(t)
	t.Cleanup(func() { _ = st.Close() })
	must(t, st.Migrate(ctx))
	nc := need(ledger.Connect(testkit.NATS(t).URL(), "test"))(t)
	t.Cleanup(nc.Close)
	led := need(ledger.Open(ctx, nc, ledger.Config{}))(t)
	t.Cleanup(func() { _ = led.Close(context.Background()) })
	background := need(jobs.Open(ctx, nc, jobs.Config{Keys: keys, Bury: led.Bury, MaxBytes: maxBytes}))(t)
	return &rig{
		Videos: &Videos{Config{Ledger: led, Store: st, Keys: keys, Jobs: background, Log: slog.New(slog.DiscardHandler)}},
		t:      t, js: need(jetstream.New(nc))(t),
	}
}

// run turns outcomes into jobs until the test ends.
func (r *rig) run() {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.Run(ctx)
	}()
	r.t.Cleanup(func() { stop(); <-done })
}

// uploaded puts a video with a new file into the database.
func (r *rig) uploaded() *video.Video {
	r.t.Helper()
	id := uuid.Must(uuid.NewV7()).String()
	row := need(video.Kind.Create(id, user.DefaultTenant, "sam", []byte(`{"title":"x"}`), time.Now()))(r.t)
	body := need(json.Marshal(video.Upload{ContentID: uuid.NewString(), Size: 5, SHA256: strings.Repeat("a", 64)}))(r.t)
	row = need(video.Kind.Act(row, video.ActionUpload, kind.By{At: time.Now(), Body: body}))(r.t)
	must(r.t, r.Store.Update(r.t.Context(), func(ctx context.Context, tx *store.Tx) error {
		return tx.PutRows(ctx, video.Kind, []kind.Row{row})
	}))
	return row.Value.(*video.Video)
}

// outcome puts the outcome of an upload on the ledger.
func (r *rig) outcome(v *video.Video) {
	r.t.Helper()
	command := uuid.NewString()
	m := need(events.NewOutcome(r.Keys, &events.Outcome{
		ID: events.OutcomeID(command), CommandID: command, Kind: video.Kind.Name, ResourceID: v.ID, Action: video.ActionUpload, Tenant: v.Tenant,
		Status: events.StatusApplied, DecisionID: "d1", Sequence: 1, Attempts: 1, At: time.Now().UTC(),
	}))(r.t)
	m.Subject = events.OutcomeSubject(0)
	r.last = events.SequenceOf(need(r.Ledger.Append(r.t.Context(), m))(r.t))
}

// acknowledged waits until every outcome is acknowledged.
func (r *rig) acknowledged() {
	r.t.Helper()
	testkit.Eventually(r.t, soon, func() error {
		c, err := r.js.Consumer(r.t.Context(), events.StreamLedger, consumer)
		if err != nil {
			return err
		}
		if i := c.CachedInfo(); i.AckFloor.Stream < r.last {
			return fmt.Errorf("acknowledged up to %d, want %d", i.AckFloor.Stream, r.last)
		}
		return nil
	})
}

func (r *rig) jobs(queue string) []jobs.Job {
	r.t.Helper()
	found, next, err := r.Jobs.List(r.t.Context(), jobs.Filter{Queue: queue})
	if err != nil || next != "" {
		r.t.Fatal(next, err)
	}
	return found
}

// TestAFullQueueKeepsOutcomes: an outcome whose jobs find no room is not acknowledged, comes again, and has them then.
func TestAFullQueueKeepsOutcomes(t *testing.T) {
	r := newRig(t, 64<<10)
	for n, size := 0, 1000; ; n++ {
		_, _, err := r.Jobs.Enqueue(t.Context(), jobs.Spec{Queue: "filler", Key: fmt.Sprint(n), Payload: strings.Repeat("x", size)})
		if fault.Is(err, fault.Unavailable) {
			if size == 0 {
				break
			}
			size = 0
			continue
		}
		must(t, err)
	}
	v := r.uploaded()
	r.run()
	r.outcome(v)
	testkit.Eventually(t, soon, func() error {
		c, err := r.js.Consumer(t.Context(), events.StreamLedger, consumer)
		if err != nil {
			return err
		}
		if i := c.CachedInfo(); i.NumRedelivered == 0 || i.AckFloor.Consumer > 0 {
			return fmt.Errorf("%d came again, %d acknowledged", i.NumRedelivered, i.AckFloor.Consumer)
		}
		return nil
	})
	if n := len(r.jobs(QueueProbe)); n != 0 {
		t.Fatalf("%d probes without room", n)
	}
	must(t, r.Jobs.Drop(t.Context(), "filler"))
	r.acknowledged()
	all := r.jobs(QueueProbe)
	if len(all) != 1 || !strings.Contains(string(all[0].Payload), *v.ContentID) {
		t.Errorf("%+v", all)
	}
}

// TestOutcomesOfAVideoShareAJob: those that come before its files are put away, and not those that come after it began.
func TestOutcomesOfAVideoShareAJob(t *testing.T) {
	r := newRig(t, 0)
	r.run()
	v, other := r.uploaded(), r.uploaded()
	of := func(v *video.Video) (n int) {
		for _, j := range r.jobs(QueueContent) {
			if strings.Contains(string(j.Payload), v.ID) {
				n++
			}
		}
		return n
	}
	for range 5 {
		r.outcome(v)
	}
	r.outcome(other)
	r.acknowledged()
	if a, b := of(v), of(other); a != 1 || b != 1 {
		t.Fatalf("%d and %d jobs", a, b)
	}
	// Now both begin, and neither ends.
	began, end := make(chan string, 10), make(chan struct{})
	worker := r.Jobs.Apart()
	jobs.Handle(worker, jobs.Queue{Name: QueueContent, Concurrency: 4}, func(ctx context.Context, _ jobs.Job, s subject) error {
		if s.Video == "" {
			return nil
		}
		began <- s.Video
		select {
		case <-end:
		case <-ctx.Done():
		}
		return nil
	})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- worker.Run(ctx) }()
	defer func() { close(end); stop(); must(t, <-done) }()
	<-began
	<-began
	r.outcome(v)
	r.acknowledged()
	if n := of(v); n != 2 {
		t.Fatalf("%d jobs", n)
	}
	if id := <-began; id != v.ID {
		t.Errorf("%s began", id)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func need[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		must(t, err)
		return v
	}
}
