package webhooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/webhook"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/testkit"
)

// rig is a ledger, a database and one process that sends webhooks. Nobody applies commands.
type rig struct {
	*Webhooks
	t     *testing.T
	nats  string
	store *store.Store
}

func newRig(t *testing.T, schedule ...time.Duration) *rig { return sizedRig(t, 0, schedule...) }

// sizedRig is a rig where all jobs together have so many bytes.
func sizedRig(t *testing.T, maxBytes int64, schedule ...time.Duration) *rig {
	t.Helper()
	ctx := t.Context()
	r := &rig{t: t, nats: testkit.NATS(t).URL()}
	keys := need(events.ParseKeyring(events.GenerateKey("test")))(t)
	r.store = need(store.Open(ctx, "sqlite:"+filepath.Join(t.TempDir(), "writ.db")))(t)
	t.Cleanup(func() { _ = r.store.Close() })
	must(t, r.store.Migrate(ctx))
	az := need(authz.Open(ctx, "embed:../../../../policies"))(t)
	t.Cleanup(func() { _ = az.Close() })
	nc := need(ledger.Connect(r.nats, "test"))(t)
	t.Cleanup(nc.Close)
	led := need(ledger.Open(ctx, nc, ledger.Config{}))(t)
	t.Cleanup(func() { _ = led.Close(context.Background()) })
	background := need(jobs.Open(ctx, nc, jobs.Config{Keys: keys, Bury: led.Bury, MaxBytes: maxBytes}))(t)
	r.Webhooks = New(Config{
		Ledger: led, Store: r.store, Authz: az, Keys: keys, Jobs: background, Log: slog.New(slog.DiscardHandler), AllowPrivate: true,
		Schedule: schedule, Refresh: 50 * time.Millisecond,
	})
	return r
}

// run sends webhooks until the test ends.
func (r *rig) run() {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.Run(ctx)
	}()
	r.t.Cleanup(func() { stop(); <-done })
}

func (r *rig) hook(url string) *webhook.Webhook {
	r.t.Helper()
	id := need(uuid.NewV7())(r.t).String()
	row := need(webhook.Kind.Create(id, "default", "alice", json.RawMessage(fmt.Sprintf(`{"url":%q,"secret_id":"s","secret_key":"test"}`, url)), time.Now()))(r.t)
	must(r.t, r.store.Update(r.t.Context(), func(ctx context.Context, tx *store.Tx) error {
		return tx.PutRows(ctx, webhook.Kind, []kind.Row{row})
	}))
	return row.Value.(*webhook.Webhook)
}

// happens puts an outcome on the ledger.
func (r *rig) happens(n int) {
	r.t.Helper()
	command := fmt.Sprintf("00000000-0000-7000-8000-%012d", n)
	m := need(events.NewOutcome(r.Keys, &events.Outcome{
		ID: events.OutcomeID(command), CommandID: command, Kind: "contact", ResourceID: "c1", Action: "create", Tenant: "default",
		Status: events.StatusApplied, DecisionID: "d1", Sequence: 1, Attempts: 1, At: time.Now().UTC(),
	}))(r.t)
	m.Subject = events.OutcomeSubject(0)
	need(r.Ledger.Append(r.t.Context(), m))(r.t)
}

// disabled waits for the command that disables a webhook.
func (r *rig) disabled(h *webhook.Webhook) (out webhook.Trouble) {
	r.t.Helper()
	testkit.Eventually(r.t, 20*time.Second, func() error {
		rec, found, err := r.Ledger.LastOn(r.t.Context(), events.CommandSubject(0))
		if err != nil || !found {
			return errors.Join(err, errors.New("no command yet"))
		}
		e := need(events.Parse(rec.Data))(r.t)
		must(r.t, e.Verify(r.Keys, rec.Subject))
		if e.Command.ResourceID != h.ID || e.Decision.Principal.ID != "writ" || e.Decision.Effect != events.Allow {
			return fmt.Errorf("it is %+v", e.Command)
		}
		return json.Unmarshal(e.Command.Body, &out)
	})
	return out
}

// TestAnEndpointThatFailsIsDisabledAfterItsTime, with a dead letter, while another one hears everything.
func TestAnEndpointThatFailsIsDisabledAfterItsTime(t *testing.T) {
	r := newRig(t, 20*time.Millisecond, 30*time.Millisecond, 40*time.Millisecond)
	var failed, fine atomic.Int64
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		failed.Add(1)
		w.WriteHeader(http.StatusInternalServerError)
	}))
	defer bad.Close()
	good := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { fine.Add(1) }))
	defer good.Close()
	h := r.hook(bad.URL)
	r.hook(good.URL)
	r.run()
	r.happens(1)
	trouble := r.disabled(h)
	if trouble.Reason != webhook.Exhausted || trouble.Attempts < 2 || trouble.LastError != "the endpoint answered 500" || failed.Load() != trouble.Attempts {
		t.Errorf("%+v after %d", trouble, failed.Load())
	}
	testkit.Eventually(t, 20*time.Second, func() error {
		if dead, _, err := r.Jobs.List(t.Context(), jobs.Filter{Queue: queueOf(h.ID), Status: jobs.Dead}); err != nil || len(dead) != 1 {
			return fmt.Errorf("%d dead jobs, %w", len(dead), errors.Join(err))
		}
		if fine.Load() != 1 {
			return fmt.Errorf("the other heard %d", fine.Load())
		}
		return nil
	})
}

// TestASlowEndpointIsInNobodysWay: more events wait for it than it is sent at once, others hear theirs.
func TestASlowEndpointIsInNobodysWay(t *testing.T) {
	r := newRig(t)
	stuck := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		select {
		case <-stuck:
		case <-q.Context().Done():
		}
	}))
	defer slow.Close()
	defer close(stuck)
	var fine atomic.Int64
	good := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { fine.Add(1) }))
	defer good.Close()
	for range 3 {
		r.hook(slow.URL)
	}
	r.hook(good.URL)
	r.run()
	for n := range 40 {
		r.happens(n)
	}
	testkit.Eventually(t, 20*time.Second, func() error {
		if n := fine.Load(); n != 40 {
			return fmt.Errorf("heard %d of 40", n)
		}
		return nil
	})
}

// TestVerdicts is what follows from an answer, over a day, without waiting for it.
func TestVerdicts(t *testing.T) {
	w := New(Config{Log: slog.New(slog.DiscardHandler)})
	if w.retryFor != 24*time.Hour {
		t.Errorf("tried for %s", w.retryFor)
	}
	now := time.Now()
	hook := &webhook.Webhook{Meta: kind.Meta{CreatedAt: now.Add(-100 * time.Hour)}}
	again := &webhook.Webhook{Meta: hook.Meta, EnabledAt: &now}
	young, old := jobs.Job{Attempt: 1, EnqueuedAt: now.Add(-time.Minute)}, jobs.Job{Attempt: 3, EnqueuedAt: now.Add(-25 * time.Hour)}
	failure := errors.New("the connection was refused")
	busy := func(d time.Duration) error {
		return &refused{answer{status: http.StatusTooManyRequests, retryAfter: d}}
	}
	for what, c := range map[string]struct {
		job  jobs.Job
		hook *webhook.Webhook
		err  error
		want string
	}{
		"delivered":                    {young, hook, nil, "<nil>"},
		"failed":                       {young, hook, failure, failure.Error()},
		"gone":                         {young, hook, errGone, "exhausted " + errGone.Error()},
		"failed for a day":             {old, hook, failure, "exhausted " + failure.Error()},
		"waited while it was disabled": {old, again, failure, failure.Error()},
		"asked to come later":          {young, hook, busy(10 * time.Minute), "come back in 10m0s"},
		"asked to come in a year":      {young, hook, busy(8760 * time.Hour), "come back in 1h0m0s"},
		"asked to come at once":        {young, hook, busy(time.Second), "the endpoint answered 429"},
		"asked to come, for a day":     {old, hook, busy(10 * time.Minute), "exhausted the endpoint answered 429"},
	} {
		got := w.verdict(c.job, c.hook, c.err)
		text := fmt.Sprint(got)
		if got != nil && strings.Contains(fmt.Sprintf("%T", got), "exhausted") {
			text = "exhausted " + text
		}
		if text != c.want {
			t.Errorf("%s: %s, want %s", what, text, c.want)
		}
	}
	for n := range len(w.Schedule) + 3 {
		if d, want := w.pause(n), w.Schedule[min(max(n, 1), len(w.Schedule))-1]; d < want*9/10 || d > want*11/10+1 {
			t.Errorf("the pause after %d is %s", n, d)
		}
	}
}

func TestQueuesNameTheirWebhooks(t *testing.T) {
	id := need(uuid.NewV7())(t).String()
	if got, ok := webhookOf(queueOf(id)); !ok || got != id || len(queueOf(id)) > 31 {
		t.Errorf("%s is the queue of %s", queueOf(id), got)
	}
	for _, other := range []string{"probe", "wh--", "wh--x", "wh--00000000000000000000000000000000"} {
		if id, ok := webhookOf(other); ok {
			t.Errorf("%s is the queue of %s", other, id)
		}
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
