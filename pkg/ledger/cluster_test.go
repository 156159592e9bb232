package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

// TestClusterLosesANodeUnderLoad stops the server that leads the ledger, twice,
// while writers append, outcomes are appended and readers read: what was
// acknowledged is there, once, and every reader sees it in order.
func TestClusterLosesANodeUnderLoad(t *testing.T) {
	const writers, each = 16, 300
	cluster := testkit.NATSClustered(t, 3, testkit.NATSSyncAlways())
	cfg := ledger.Config{Replicas: 3, AppendTimeout: 2 * time.Second}
	var l *ledger.Ledger
	testkit.Eventually(t, patience, func() (err error) { l, err = tryOpen(t, cluster.URL(), cfg); return err })
	reader := open(t, cluster.URL(), cfg)

	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var acked atomic.Int64
	addresses := make([]map[string]events.Address, writers)
	var writing sync.WaitGroup
	for w := range writers {
		addresses[w] = make(map[string]events.Address, each)
		writing.Go(func() {
			for i := range each {
				for try := 0; ctx.Err() == nil; try++ {
					m := message(fmt.Sprintf("w%d-%d-%d", w, i, try), fmt.Sprint(w))
					one, done := context.WithTimeout(ctx, 3*time.Second)
					address, err := l.Append(one, m)
					done()
					if err == nil {
						addresses[w][m.ID] = address
						acked.Add(1)
						break
					}
				}
			}
		})
	}
	// A worker that answers one command after the other, whatever happens.
	answered := make(chan int, 1)
	loading, loaded := context.WithCancel(ctx)
	go func() {
		var end ledger.Outcomes
		n := 0
		for known := true; loading.Err() == nil || !known; {
			var err error
			if !known {
				if end, err = l.LastOutcomes(ctx, events.OutcomeSubject(0)); err != nil {
					pauseFor(ctx)
					continue
				}
				n, known = int(end.Answered), true
			}
			next := ledger.Answer{Command: events.Address(n + 1), Events: []events.Message{on("", fmt.Sprintf("o-%d", n+1))}}
			if end, err = l.AppendOutcomes(ctx, events.OutcomeSubject(0), end, []ledger.Answer{next}); err != nil {
				known = ctx.Err() != nil
				continue
			}
			n++
		}
		answered <- n
	}()
	// A reader that begins again where it was.
	read := make(chan ledger.Record, writers*each)
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		next := events.Address(0)
		for ctx.Err() == nil {
			_ = reader.FollowShard(ctx, 0, next, func(_ context.Context, batch []ledger.Record) error {
				for _, r := range batch {
					read <- r
				}
				next = batch[len(batch)-1].Address + 1
				return nil
			})
		}
	}()
	defer func() {
		cancel()
		for {
			select {
			case <-read:
			case <-reading:
				return
			}
		}
	}()

	for n := range 2 {
		reached(t, &acked, int64((n+1)*writers*each/4))
		node := cluster.Leader(events.StreamLedger)
		if node == nil {
			t.Fatal("nobody leads the ledger")
		}
		before := acked.Load()
		node.Stop(t)
		reached(t, &acked, before+writers*each/8) // two of three go on
		node.Start(t)
	}
	writing.Wait()
	loaded()
	outcomes := <-answered
	if n := acked.Load(); n != writers*each {
		t.Fatalf("%d of %d appends were acknowledged in the end", n, writers*each)
	}
	final := appendOne(t, l, message("final", "r"))

	// The commands as a worker sees them.
	where := map[string]events.Address{}
	previous := events.Address(0)
	for previous < final {
		select {
		case r := <-read:
			id := events.IDOf(r.Data)
			if _, twice := where[id]; twice || r.Address <= previous {
				t.Fatalf("%s at %d was read after %d (twice: %v)", id, r.Address, previous, twice)
			}
			where[id], previous = r.Address, r.Address
		case <-ctx.Done():
			t.Fatalf("read up to %d of %d", previous, final)
		}
	}
	for w := range writers {
		previous := events.Address(0)
		for i := range each {
			for try := 0; ; try++ {
				id := fmt.Sprintf("w%d-%d-%d", w, i, try)
				told, ok := addresses[w][id]
				if !ok && try < 1000 {
					continue // it was not acknowledged: there or not
				}
				if where[id] != told || told <= previous {
					t.Fatalf("%s was acknowledged at %d and is at %d, after %d", id, told, where[id], previous)
				}
				previous = told
				break
			}
		}
	}
	// Everything, as the auditor sees it: each outcome once, in order.
	n := 0
	err := reader.Follow(within(t, patience), 0, func(_ context.Context, batch []ledger.Record) error {
		for _, r := range batch {
			if r.Subject == events.OutcomeSubject(0) {
				if n++; events.IDOf(r.Data) != fmt.Sprintf("o-%d", n) {
					return fmt.Errorf("outcome %d is %s", n, events.IDOf(r.Data))
				}
			}
			if r.Address == final {
				return errEnough
			}
		}
		return nil
	})
	if !errors.Is(err, errEnough) || n != outcomes || n == 0 {
		t.Errorf("%d outcomes on the ledger (%v), %d were appended", n, err, outcomes)
	}
}

// pauseFor waits a moment while a cluster elects.
func pauseFor(ctx context.Context) {
	select {
	case <-time.After(50 * time.Millisecond):
	case <-ctx.Done():
	}
}

// tryOpen is open for a cluster that may still be electing who leads it.
func tryOpen(t *testing.T, url string, cfg ledger.Config) (*ledger.Ledger, error) {
	nc, err := ledger.Connect(url, "test")
	if err != nil {
		return nil, err
	}
	l, err := ledger.Open(within(t, patience), nc, cfg)
	if err != nil {
		nc.Close()
		return nil, err
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := l.Close(ctx); err != nil {
			t.Error(err)
		}
		nc.Close()
	})
	return l, nil
}

func reached(t *testing.T, count *atomic.Int64, want int64) {
	t.Helper()
	testkit.Eventually(t, 2*time.Minute, func() error {
		if n := count.Load(); n < want {
			return fmt.Errorf("%d acknowledged, waiting for %d", n, want)
		}
		return nil
	})
}
