package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

// TestWhileTheServerIsGoneNothingIsAppendedNowOrLater kills the server.
func TestWhileTheServerIsGoneNothingIsAppendedNowOrLater(t *testing.T) {
	server := testkit.NATSProcess(t, testkit.NATSSyncAlways())
	l, nc := openConn(t, server.URL(), ledger.Config{})
	appendEach(t, l, "before", "r", 20)
	gone := make(chan struct{})
	once := sync.OnceFunc(func() { close(gone) })
	nc.SetDisconnectErrHandler(func(*nats.Conn, error) { once() })
	server.Kill()
	select {
	case <-gone:
	case <-time.After(patience):
		t.Fatal("the client does not notice")
	}

	goroutines, subscriptions := runtime.NumGoroutine(), nc.NumSubscriptions()
	refused := map[string]bool{}
	for round := range 10 {
		msgs := messages(fmt.Sprintf("refused-%d", round), 200)
		began := time.Now()
		for i, r := range appendTogether(within(t, 2*time.Second), l, msgs) {
			unavailable(t, msgs[i].ID, r.err)
			refused[msgs[i].ID] = true
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("refused after %s, the deadline was 2s", took)
		}
		ctx := within(t, 100*time.Millisecond)
		_, err := l.Last(ctx)
		unavailable(t, "last", err)
		_, err = l.Get(ctx, 1)
		unavailable(t, "get", err)
		_, err = l.Commands(ctx, 0, 1, 20, 20)
		unavailable(t, "commands", err)
		_, err = l.Lag(ctx, nil)
		unavailable(t, "lag", err)
		_, _, err = l.Waiting(ctx, nil, 10)
		unavailable(t, "waiting", err)
		_, err = l.Find(ctx, 1, []string{events.AllCommands}, map[string]bool{"x": true})
		unavailable(t, "find", err)
		_, err = l.Tail(ctx, 10, func(ledger.Record) bool { return true })
		unavailable(t, "tail", err)
		_, err = l.LastOutcomes(ctx, events.OutcomeSubject(0))
		unavailable(t, "last outcomes", err)
		_, err = l.AppendOutcomes(ctx, events.OutcomeSubject(0), ledger.Outcomes{}, []ledger.Answer{{Command: 1, Events: messages("o", 1)}})
		unavailable(t, "append outcomes", err)
		unavailable(t, "ready", l.Ready(ctx))
		unavailable(t, "bury", l.Bury(ctx, ledger.DeadLetter{Service: "worker", Record: ledger.Record{Address: 1}}))
	}
	testkit.Eventually(t, patience, func() error {
		if n := runtime.NumGoroutine(); n > goroutines+10 {
			return fmt.Errorf("%d goroutines, there were %d", n, goroutines)
		}
		return nil
	})
	if n := nc.NumSubscriptions(); n > subscriptions {
		t.Errorf("%d subscriptions, there were %d", n, subscriptions)
	}

	server.Start(t)
	testkit.Eventually(t, patience, func() error {
		_, err := l.Append(within(t, 2*time.Second), message("after", "r"))
		return err
	})
	found, err := l.Find(within(t, patience), 1, []string{events.AllCommands}, refused)
	if err != nil || len(found) > 0 {
		t.Errorf("%d appends were answered with an error and done later (%v)", len(found), err)
	}
	if n := last(t, l); n != 21 {
		t.Errorf("last is %d, want 21", n)
	}
}

// TestHungServerHoldsNobodyUp: bytes go nowhere and the connection stays open.
func TestHungServerHoldsNobodyUp(t *testing.T) {
	l, _, proxy := through(t, testkit.NATS(t).URL(), ledger.Config{AppendTimeout: time.Second})
	goroutines := runtime.NumGoroutine()
	proxy.Stall()
	// More than the buffers of the network hold, so that writing blocks, too.
	msgs := messages("hung", 48)
	for i := range msgs {
		msgs[i].Data = event(msgs[i].ID, 1<<20)
	}
	began := time.Now()
	for i, r := range appendTogether(within(t, 3*time.Second), l, msgs) {
		unavailable(t, msgs[i].ID, r.err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("refused after %s, the deadline was 3s", took)
	}
	// What the connection's own lock holds up is released soon, too.
	began = time.Now()
	unavailable(t, "ready", l.Ready(within(t, 300*time.Millisecond)))
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("ready answered after %s", took)
	}
	testkit.Eventually(t, patience, func() error {
		if n := l.Queued(); n > 0 {
			return fmt.Errorf("%d appends are still queued", n)
		}
		return nil
	})
	proxy.Restore()
	testkit.Eventually(t, patience, func() error {
		_, err := l.Append(within(t, 2*time.Second), message("after", "r"))
		return err
	})
	testkit.Eventually(t, patience, func() error {
		if n := runtime.NumGoroutine(); n > goroutines+10 {
			return fmt.Errorf("%d goroutines, there were %d", n, goroutines)
		}
		return nil
	})
}

func TestWhatIsStillQueuedWhenItsCallerLeavesIsNotAppended(t *testing.T) {
	l, _, proxy := through(t, testkit.NATS(t).URL(), ledger.Config{})
	release := holdUp(t, l, proxy)
	ctx, cancel := context.WithCancel(within(t, patience))
	left := make(chan []appended, 1)
	go func() { left <- appendTogether(ctx, l, messages("left", 30)) }()
	waitQueued(t, l, 30)
	stayed := inBackground(t, l, messages("stayed", 2))
	waitQueued(t, l, 32)
	cancel()
	for _, r := range <-left {
		unavailable(t, "its caller left", r.err)
	}
	if held := release(); held.err != nil {
		t.Fatal(held.err)
	}
	for _, r := range <-stayed {
		if r.err != nil {
			t.Error(r.err)
		}
	}
	for _, id := range ids(follow(t, l, 0, 3)) {
		if strings.HasPrefix(id, "left") {
			t.Errorf("%s is on the ledger, its caller had left", id)
		}
	}
	if n := last(t, l); n != 2 {
		t.Errorf("%d messages, want 2: the one in flight, and one of what stayed", n)
	}
}

// TestAnAppendWithoutAnAckIsOnTheLedgerOrNot: the caller is told neither, and a
// retry is another event; who reads goes by the event's id.
func TestAnAppendWithoutAnAckIsOnTheLedgerOrNot(t *testing.T) {
	url := testkit.NATS(t).URL()
	watch := open(t, url, ledger.Config{})
	l, _, proxy := through(t, url, ledger.Config{AppendTimeout: time.Second})
	for i := range 5 {
		m := message(fmt.Sprintf("lost-%d", i), "r")
		proxy.Delay(50 * time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*30*time.Millisecond)
		_, err := l.Append(ctx, m)
		cancel()
		if i < 2 {
			unavailable(t, m.ID, err)
		}
		proxy.Cut()
		proxy.Restore()
		var address events.Address
		testkit.Eventually(t, patience, func() (err error) {
			address, err = l.Append(within(t, 2*time.Second), m)
			return err
		})
		if id := events.IDOf(record(t, watch, address).Data); id != m.ID {
			t.Errorf("%s was told address %d, which holds %s", m.ID, address, id)
		}
	}
}

func TestQueueIsBounded(t *testing.T) {
	l, _, proxy := through(t, testkit.NATS(t).URL(), ledger.Config{})
	t.Run("messages", func(t *testing.T) {
		release := holdUp(t, l, proxy)
		defer release()
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		defer all.Wait()
		defer cancel()
		for _, m := range messages("m", ledger.MaxQueue) {
			all.Go(func() { _, _ = l.Append(ctx, m) })
		}
		waitQueued(t, l, ledger.MaxQueue)
		began := time.Now()
		_, err := l.Append(within(t, patience), message("one too many", "r"))
		unavailable(t, "one too many", err)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("told after %s", took)
		}
	})
	waitQueued(t, l, 0)
	t.Run("bytes", func(t *testing.T) {
		release := holdUp(t, l, proxy)
		defer release()
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		defer all.Wait()
		defer cancel()
		large := make([]byte, 1<<20)
		for i := range ledger.MaxQueueBytes / len(large) {
			m := message(fmt.Sprintf("b-%d", i), "r")
			m.Data = large
			all.Go(func() { _, _ = l.Append(ctx, m) })
		}
		waitQueued(t, l, ledger.MaxQueueBytes/len(large))
		_, err := l.Append(within(t, patience), message("one too many", "r"))
		unavailable(t, "one too many", err)
	})
	waitQueued(t, l, 0)
	testkit.Eventually(t, patience, func() error {
		if n := l.QueuedBytes(); n != 0 {
			return fmt.Errorf("%d bytes are counted as queued", n)
		}
		return nil
	})
	appendOne(t, l, message("after", "r"))
}

func TestCloseAppendsWhatIsQueued(t *testing.T) {
	l, _, proxy := through(t, testkit.NATS(t).URL(), ledger.Config{})
	release := holdUp(t, l, proxy)
	msgs := messages("m", ledger.MaxGroup+20)
	done, ctx := inBackground(t, l, msgs), within(t, patience)
	waitQueued(t, l, len(msgs))
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := l.Close(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("close while stalled: %v", err)
	}
	_, err := l.Append(within(t, patience), message("after", "r"))
	unavailable(t, "closed", err)
	closed := make(chan error, 1)
	go func() { closed <- l.Close(ctx) }()
	release()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	for i, r := range <-done {
		if r.err != nil {
			t.Fatalf("%s: %v", msgs[i].ID, r.err)
		}
	}
	if have := follow(t, l, 0, len(msgs)+1); len(have) != len(msgs)+1 {
		t.Errorf("%d events, want %d", len(have), len(msgs)+1)
	}
}

// TestNobodyWaitsForALedgerThatCloses: an append that slips in as the ledger
// closes is answered, and at once.
func TestNobodyWaitsForALedgerThatCloses(t *testing.T) {
	nc, err := ledger.Connect(testkit.NATS(t).URL(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for round := range 100 {
		l, err := ledger.Open(within(t, patience), nc, ledger.Config{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		done := make(chan []appended, 1)
		go func() { done <- appendTogether(ctx, l, messages(fmt.Sprintf("round-%d", round), 8)) }()
		if err := l.Close(ctx); err != nil {
			t.Fatal(err)
		}
		for _, r := range <-done {
			if errors.Is(r.err, context.DeadlineExceeded) {
				t.Fatalf("round %d: an append waited for nothing: %v", round, r.err)
			}
		}
		cancel()
	}
}
