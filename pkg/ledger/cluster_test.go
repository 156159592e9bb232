package ledger_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

// TestClusterLosesANodeUnderLoad stops the server that leads the ledger, twice,
// while writers append and readers read: what was acknowledged is there, once,
// and every reader sees it in order.
func TestClusterLosesANodeUnderLoad(t *testing.T) {
	const writers, each = 16, 400
	cluster := testkit.NATSClustered(t, 3, testkit.NATSSyncAlways())
	cfg := ledger.Config{Replicas: 3, AppendTimeout: 2 * time.Second}
	var l *ledger.Ledger
	testkit.Eventually(t, patience, func() (err error) { l, err = tryOpen(t, cluster.URL(), cfg); return err })
	reader := open(t, cluster.URL(), cfg)

	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var acked atomic.Int64
	sequences := make([]map[string]uint64, writers)
	var writing sync.WaitGroup
	for w := range writers {
		sequences[w] = make(map[string]uint64, each)
		writing.Go(func() {
			for i := range each {
				m := message(fmt.Sprintf("w%d-%d", w, i), w)
				for ctx.Err() == nil { // as a client does: the same id until there is an answer
					one, done := context.WithTimeout(ctx, 3*time.Second)
					ack, err := l.Append(one, m)
					done()
					if err == nil {
						sequences[w][m.ID] = ack.Sequence
						acked.Add(1)
						break
					}
				}
			}
		})
	}
	deliveries, stop := read(t, reader)
	applied := make(chan int, 1)
	go func() { applied <- collect(ctx, deliveries, writers*each) }()

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
	if n := acked.Load(); n != writers*each {
		t.Fatalf("%d of %d appends were acknowledged in the end", n, writers*each)
	}

	// A new leader may deliver again, and older ones after newer: the worker
	// goes by position. Here it counts that each was delivered.
	if n := <-applied; n != writers*each {
		t.Errorf("%d commands were delivered, want %d", n, writers*each)
	}
	stop()
	end := last(t, l)
	if end != writers*each {
		t.Errorf("the ledger holds %d messages for %d that were acknowledged", end, writers*each)
	}
	records := follow(t, reader, 1, int(end))
	where := make(map[string]uint64, end)
	for i, r := range records {
		if r.Sequence != uint64(i)+1 {
			t.Fatalf("record %d has sequence %d", i+1, r.Sequence)
		}
		where[r.Header.Get(nats.MsgIdHdr)] = r.Sequence
	}
	for w := range writers {
		previous := uint64(0)
		for i := range each {
			id := fmt.Sprintf("w%d-%d", w, i)
			if where[id] != sequences[w][id] {
				t.Fatalf("%s was acknowledged at %d and is at %d", id, sequences[w][id], where[id])
			}
			if where[id] <= previous {
				t.Fatalf("%s is at %d, before what its writer sent earlier (%d)", id, where[id], previous)
			}
			previous = where[id]
		}
	}
}

// TestTwoAppendsOfOneIDAtOnceInACluster: a cluster refuses an id that it is
// still replicating; both callers must be told the one sequence.
func TestTwoAppendsOfOneIDAtOnceInACluster(t *testing.T) {
	cluster := testkit.NATSClustered(t, 3)
	cfg := ledger.Config{Replicas: 3}
	var a *ledger.Ledger
	testkit.Eventually(t, patience, func() (err error) { a, err = tryOpen(t, cluster.URL(), cfg); return err })
	b := open(t, cluster.URL(), cfg)
	const rounds = 40
	for round := range rounds {
		msgs := messages(fmt.Sprintf("r%d", round), 24) // enough for an atomic batch
		var all sync.WaitGroup
		results := make([][]appended, 2)
		for i, l := range []*ledger.Ledger{a, b} {
			all.Go(func() { results[i] = appendTogether(within(t, patience), l, msgs) })
		}
		all.Wait()
		for i, m := range msgs {
			x, y := results[0][i], results[1][i]
			if x.err != nil || y.err != nil {
				t.Fatalf("%s: %v, %v", m.ID, x.err, y.err)
			}
			if x.ack.Sequence != y.ack.Sequence || x.ack.Duplicate == y.ack.Duplicate {
				t.Fatalf("%s: %+v and %+v", m.ID, x.ack, y.ack)
			}
		}
	}
	if n := last(t, a); n != rounds*24 {
		t.Errorf("%d messages, want %d", n, rounds*24)
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

// collect acknowledges what is delivered until it has seen n different
// commands, and counts them.
func collect(ctx context.Context, deliveries <-chan ledger.Delivery, n int) int {
	seen := make(map[uint64]bool, n)
	for len(seen) < n {
		select {
		case d := <-deliveries:
			seen[d.Sequence] = true
			_ = d.Ack() // one that is lost is delivered again
		case <-ctx.Done():
			return len(seen)
		}
	}
	return len(seen)
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
