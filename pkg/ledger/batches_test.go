package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

// TestBatchesComeAtLeastOnce: to two readers of one name, one of which fails now and then, from the time that the
// first of them gave.
func TestBatchesComeAtLeastOnce(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	const n = 300
	send := func(prefix string, n int) {
		t.Helper()
		var msgs []events.Message
		var ctxs []context.Context
		for i := range n {
			msgs = append(msgs, message(fmt.Sprintf("%s-%d", prefix, i), i%events.Partitions))
			ctxs = append(ctxs, t.Context())
		}
		if err := l.AppendAll(within(t, patience), ctxs, msgs); err != nil {
			t.Fatal(err)
		}
	}
	send("early", 5)
	r, err := l.Get(within(t, patience), 5)
	if err != nil {
		t.Fatal(err)
	}
	since := r.Time.Add(time.Microsecond)

	var mu sync.Mutex
	got, calls := map[uint64]int{}, 0
	read := func(_ context.Context, records []ledger.Record) error {
		mu.Lock()
		defer mu.Unlock()
		if calls++; calls == 2 {
			return errors.New("an outage")
		}
		for _, r := range records {
			got[r.Sequence]++
		}
		return nil
	}
	ctx, stop := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	for i := range 2 {
		readers.Go(func() {
			_ = l.ConsumeBatches(ctx, "batches", []string{events.AllCommands}, since.Add(time.Duration(-i)*time.Nanosecond), read)
		})
	}
	defer readers.Wait()
	defer stop()
	send("late", n)
	testkit.Eventually(t, patience, func() error {
		mu.Lock()
		defer mu.Unlock()
		for seq := uint64(6); seq <= n+5; seq++ {
			if got[seq] == 0 {
				return fmt.Errorf("message %d has not come", seq)
			}
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	for seq := range got {
		if seq <= 5 {
			t.Errorf("message %d is from before", seq)
		}
	}
}
