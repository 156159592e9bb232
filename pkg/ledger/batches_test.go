package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
	appendAll(t, l, messages("early", 5)) // message 1
	since := record(t, l, events.At(1, 0)).Time.Add(time.Microsecond)

	var mu sync.Mutex
	got, calls := map[events.Address]int{}, 0
	read := func(_ context.Context, records []ledger.Record) error {
		mu.Lock()
		defer mu.Unlock()
		if calls++; calls == 2 {
			return errors.New("an outage")
		}
		for _, r := range records {
			got[r.Address]++
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
	var want []events.Address
	for i := range n { // in messages of one event, and of three
		if i%4 == 0 {
			want = append(want, appendOne(t, l, message(fmt.Sprint(i), "r")))
			continue
		}
		appendAll(t, l, messages(fmt.Sprint(i), 3))
		sequence := last(t, l)
		want = append(want, events.At(sequence, 0), events.At(sequence, 1), events.At(sequence, 2))
	}
	testkit.Eventually(t, patience, func() error {
		mu.Lock()
		defer mu.Unlock()
		for _, a := range want {
			if got[a] == 0 {
				return fmt.Errorf("event %d has not come", a)
			}
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	for a := range got {
		if events.SequenceOf(a) == 1 {
			t.Errorf("event %d is from before", a)
		}
	}
}

// TestConsumeHandsOverEveryEventOfAMessageUntilAllAreTaken: after an error the
// message comes again as a whole.
func TestConsumeHandsOverEveryEventOfAMessageUntilAllAreTaken(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	appendAll(t, l, []events.Message{message("a", "r"), message("b", "r"), message("c", "r")})
	appendAll(t, l, []events.Message{on(events.SubjectDecisions, "d")})
	appendAll(t, l, []events.Message{message("e", "r")})
	ctx, stop := context.WithCancel(within(t, patience))
	seen := make(chan string, 100)
	failed := false
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = l.Consume(ctx, "consumer", []string{events.AllCommands}, func(_ context.Context, r ledger.Record) error {
			id := events.IDOf(r.Data)
			seen <- id
			if id == "b" && !failed {
				failed = true
				return errors.New("an outage")
			}
			return nil
		})
	}()
	var have []string
	for len(have) < 6 {
		select {
		case id := <-seen:
			have = append(have, id)
		case <-ctx.Done():
			t.Fatalf("only %v came", have)
		}
	}
	stop()
	<-ended
	if want := []string{"a", "b", "e", "a", "b", "c"}; !slices.Equal(have, want) {
		t.Errorf("%v came, want %v", have, want)
	}
}
