package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

// heard is what came on the feed.
type heard struct {
	mu  sync.Mutex
	all []string // subject and bytes
}

func (h *heard) got() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.all)
}

func (r *rig) listen() *heard {
	r.t.Helper()
	h := &heard{}
	nc := need(nats.Connect(r.nats))(r.t)
	r.t.Cleanup(nc.Close)
	need(nc.Subscribe("writ.feed.>", func(m *nats.Msg) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.all = append(h.all, m.Subject+" "+string(m.Data))
	}))(r.t)
	must(r.t, nc.Flush())
	return h
}

// told gives what the feed should tell of everything on the ledger, in order.
func (r *rig) told() (all []string) {
	r.t.Helper()
	last := need(r.ledger.Last(r.t.Context()))(r.t)
	enough := errors.New("enough")
	err := r.ledger.Follow(r.t.Context(), 1, func(_ context.Context, batch []ledger.Record) error {
		for _, rec := range batch {
			if e := need(events.Parse(rec.Data))(r.t); e.Type != events.TypeCheckpoint {
				all = append(all, e.FeedSubject()+" "+string(rec.Data))
			}
			if rec.Last && events.SequenceOf(rec.Address) == last {
				return enough
			}
		}
		return nil
	})
	if !errors.Is(err, enough) {
		r.t.Fatal(err)
	}
	return all
}

// TestFeedTellsOfWhatIsNew: each event is told of once, in order and with its bytes,
// when it is in Redis, and not again when Redis is filled again.
func TestFeedTellsOfWhatIsNew(t *testing.T) {
	t.Parallel()
	r := newRig(t, testkit.Redis(t))
	h := r.listen()
	_, stop := r.start()
	r.fill(300)
	check := func() {
		t.Helper()
		want := r.told()
		testkit.Eventually(t, soon, func() error {
			if got := h.got(); len(got) < len(want) {
				return fmt.Errorf("heard of %d events, want %d", len(got), len(want))
			}
			return nil
		})
		if got := h.got(); !slices.Equal(got, want) {
			t.Fatalf("heard of %d events, want %d, the same bytes in the ledger's order", len(got), len(want))
		}
	}
	check()
	must(t, r.rdb.FlushAll(t.Context()).Err())
	r.equal()
	r.verified()
	r.fill(3) // comes after anything that would be told of again
	check()
	stop()
	r.start() // another auditor beside a Redis that has it
	r.fill(3)
	check()
}

// TestFeedLeavesOutWhatIsOld: what was on the ledger for a while is copied and not told of.
func TestFeedLeavesOutWhatIsOld(t *testing.T) {
	t.Parallel()
	r := newRig(t, testkit.Redis(t))
	w := r.writer(0)
	d := events.Decision{ID: newID(), Stage: events.StageRequest, Tenant: "default", Resource: events.Resource{Kind: "contact"}, Action: "read", Effect: events.Allow}
	m := need(events.NewDecision(r.keys, events.SourceAPI, &d))(t)
	for age, want := range map[time.Duration]string{0: "writ.feed.decision.contact.read.allow", 2 * feedAge: ""} {
		got := w.read([]ledger.Record{{Address: events.At(1, 0), Last: true, Subject: m.Subject, Data: m.Data, Time: time.Now().Add(-age)}})
		if got[0].refused != nil || got[0].feed != want {
			t.Errorf("an event of %s ago is told of on %q, want %q (%v)", age, got[0].feed, want, got[0].refused)
		}
	}
}

// TestFeedHoldsNothingUp: a feed that cannot be told of anything, since nobody takes
// what it is given, neither stops nor fails the copying.
func TestFeedHoldsNothingUp(t *testing.T) {
	t.Parallel()
	r := newRig(t, testkit.Redis(t))
	w := r.writer(0)
	w.feed = nil // takes nothing, ever
	r.run(w)
	r.fill(100)
	r.equal()
	r.verified()
}
