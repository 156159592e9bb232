package ledger_test

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

// TestFollowLeavesNothingBehindOverRestarts: a reader that outlives many
// restarts of the server has as many goroutines as one that saw none.
func TestFollowLeavesNothingBehindOverRestarts(t *testing.T) {
	server := testkit.NATSProcess(t)
	l := open(t, server.URL(), ledger.Config{})
	ctx, cancel := context.WithCancel(within(t, 3*patience))
	ended := make(chan struct{})
	seen := make(chan events.Address, 1000)
	go func() {
		defer close(ended)
		next := events.Address(0)
		for ctx.Err() == nil { // as the auditor does
			_ = l.Follow(ctx, next, func(_ context.Context, batch []ledger.Record) error {
				next = batch[len(batch)-1].Address + 1
				seen <- next - 1
				return nil
			})
		}
	}()
	defer func() {
		cancel()
		<-ended
	}()
	var counts []int
	for round := range 4 {
		if round > 0 {
			server.Kill()
			server.Start(t)
		}
		var end events.Address
		testkit.Eventually(t, patience, func() (err error) {
			end, err = l.Append(within(t, time.Second), message(fmt.Sprint("after-", round), "r"))
			return err
		})
		for n := events.Address(0); n < end; {
			select {
			case n = <-seen:
			case <-ctx.Done():
				t.Fatal("nothing more is read")
			}
		}
		counts = append(counts, pulls())
		t.Log(counts)
	}
	testkit.Eventually(t, patience, func() error {
		if n := pulls(); n > counts[0] {
			return fmt.Errorf("%d goroutines read, want %d", n, counts[0])
		}
		return nil
	})
}

// pulls counts the goroutines of pull subscriptions.
func pulls() int {
	b := make([]byte, 4<<20)
	return bytes.Count(b[:runtime.Stack(b, true)], []byte("created by github.com/nats-io/nats.go/jetstream."))
}
