package webhooks

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/kind/webhook"
	"github.com/writ-project/writ/pkg/testkit"
)

// TestTooManyEventsDisableTheirWebhook: once, and no other hears less.
func TestTooManyEventsDisableTheirWebhook(t *testing.T) {
	r := newRig(t)
	r.most = 20
	stuck := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stuck }))
	defer slow.Close()
	defer close(stuck)
	var heard atomic.Int64
	good := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { heard.Add(1) }))
	defer good.Close()
	h := r.hook(slow.URL)
	r.hook(good.URL)
	r.run()
	const all, step = 60, 5
	for n := 0; n < all; n += step {
		for i := range step {
			r.happens(n + i)
		}
		testkit.Eventually(t, 20*time.Second, func() error {
			if got := heard.Load(); got != int64(n+step) {
				return fmt.Errorf("the other heard %d of %d", got, n+step)
			}
			return nil
		})
	}
	if trouble := r.disabled(h); trouble.Reason != webhook.Overflow || trouble.LastError == "" {
		t.Errorf("%+v", trouble)
	}
	if n := need(r.Jobs.Waiting(t.Context(), queueOf(h.ID)))(t); n == 0 || n > 20 {
		t.Errorf("%d events wait", n)
	}
	// Nobody applies commands here, so it stays active and goes on to overflow: it was told once for its version.
	js := need(jetstream.New(need(nats.Connect(r.nats))(t)))(t)
	defer js.Conn().Close()
	info := need(need(js.Stream(t.Context(), events.StreamLedger))(t).Info(t.Context(), jetstream.WithSubjectFilter("writ.cmd.>")))(t)
	if n := info.State.Subjects[events.CommandSubject(0)]; n != 1 || len(info.State.Subjects) != 1 {
		t.Errorf("the commands are %v", info.State.Subjects)
	}
}

// TestWithoutRoomEventsWaitOnTheLedger: while too many jobs wait no event is dispatched, none is lost, and none disables
// a webhook.
func TestWithoutRoomEventsWaitOnTheLedger(t *testing.T) {
	r := sizedRig(t, 64<<10)
	var heard atomic.Int64
	good := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { heard.Add(1) }))
	defer good.Close()
	r.hook(good.URL)
	for n, full := 0, false; !full; n++ {
		_, _, err := r.Jobs.Enqueue(t.Context(), jobs.Spec{Queue: "filler", Key: fmt.Sprint(n), Payload: strings.Repeat("x", 1000)})
		if full = fault.Is(err, fault.Unavailable); !full {
			must(t, err)
		}
	}
	r.run()
	for n := range 10 {
		r.happens(n)
	}
	js := need(jetstream.New(need(nats.Connect(r.nats))(t)))(t)
	defer js.Conn().Close()
	testkit.Eventually(t, 20*time.Second, func() error {
		c, err := js.Consumer(t.Context(), events.StreamLedger, consumer)
		if err != nil {
			return err
		}
		if i := c.CachedInfo(); i.NumRedelivered == 0 || i.AckFloor.Stream > 0 {
			return fmt.Errorf("%d came again, acknowledged up to %d", i.NumRedelivered, i.AckFloor.Stream)
		}
		return nil
	})
	if n := heard.Load(); n != 0 {
		t.Errorf("%d were sent", n)
	}
	must(t, r.Jobs.Drop(t.Context(), "filler"))
	testkit.Eventually(t, 20*time.Second, func() error {
		if n := heard.Load(); n != 10 {
			return fmt.Errorf("heard %d of 10", n)
		}
		return nil
	})
	if _, found, err := r.Ledger.LastOn(t.Context(), events.CommandSubject(0)); err != nil || found {
		t.Errorf("the webhook was disabled: %t, %v", found, err)
	}
}

// TestAnEventIsTriedForADay: the real schedule, on a clock that is moved by hand.
func TestAnEventIsTriedForADay(t *testing.T) {
	w := New(Config{})
	attempts := len(w.Schedule) + 1 // as start has it
	hook := &webhook.Webhook{}
	hook.CreatedAt = time.Now().Add(-1000 * time.Hour)
	failure := errors.New("the connection was refused")
	// try goes through an event's attempts, all of which end with err, and tells when each began.
	try := func(err error) (began []time.Duration, made int) {
		at := time.Duration(0)
		for n := 1; len(began) < 1000; {
			began = append(began, at)
			made = n
			got := w.verdict(jobs.Job{Attempt: n, Attempts: attempts, EnqueuedAt: time.Now().Add(-at)}, hook, err)
			switch fmt.Sprintf("%T", got) {
			case "*jobs.exhausted":
				return began, made
			case "*jobs.snoozed":
				at += time.Hour // the attempt does not count
			default:
				if n == attempts {
					return began, made
				}
				at += w.pause(n)
				n++
			}
		}
		t.Fatal("there is no end")
		return nil, 0
	}
	for range 200 {
		began, made := try(failure)
		last := began[len(began)-1]
		if made != 9 || len(began) != 9 || last < 24*time.Hour*9/10 || last > 24*time.Hour*11/10 {
			t.Fatalf("%d attempts, begun at %v", made, began)
		}
		if began[1] > 6*time.Second || began[4] > time.Hour || began[5] < 2*time.Hour {
			t.Errorf("begun at %v", began)
		}
	}
	// One that asks for an hour each time gets it, and no more than a day either.
	began, _ := try(&refused{answer{status: http.StatusTooManyRequests, retryAfter: time.Hour}})
	if last := began[len(began)-1]; len(began) != 25 || last != 24*time.Hour {
		t.Errorf("begun at %v", began)
	}
}
