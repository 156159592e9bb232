package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

var errEnough = errors.New("enough")

// follow reads from an address until it has n events, checking their order.
func follow(t *testing.T, l *ledger.Ledger, from events.Address, n int) []ledger.Record {
	t.Helper()
	var have []ledger.Record
	err := l.Follow(within(t, patience), from, func(_ context.Context, batch []ledger.Record) error {
		have = append(have, batch...)
		if len(have) >= n {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("%v after %d events of %d", err, len(have), n)
	}
	for i, r := range have {
		if r.Address < from || i > 0 && !follows(have[i-1], r) {
			t.Fatalf("event %d is at %d, after %d", i, r.Address, have[max(i-1, 0)].Address)
		}
	}
	return have
}

// follows reports whether no event can stand between two.
func follows(a, b ledger.Record) bool {
	if a.Last {
		return b.Address == events.End(events.SequenceOf(a.Address))+1
	}
	return b.Address == a.Address+1
}

func TestFollowReadsEverythingInOrderFromAnywhere(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	const n = 1500 // in messages of 256 but for the last of each 1,024
	appendAll(t, l, messages("m", n))
	all := follow(t, l, 0, n)
	for i, r := range all {
		if id := events.IDOf(r.Data); id != fmt.Sprintf("m-%d", i) {
			t.Fatalf("event %d is %s", i, id)
		}
	}
	for _, i := range []int{0, 1, 255, 256, 300, n - 1} { // the middle of messages, too
		if have := follow(t, l, all[i].Address, n-i); have[0].Address != all[i].Address || string(have[0].Data) != string(all[i].Data) {
			t.Errorf("from event %d: the first is at %d, want %d", i, have[0].Address, all[i].Address)
		}
	}
	// What comes later is handed over as it comes.
	got := make(chan ledger.Record, 1)
	ctx, cancel := context.WithCancel(within(t, patience))
	ended := make(chan error, 1)
	go func() {
		ended <- l.Follow(ctx, all[n-1].Address+1, func(_ context.Context, batch []ledger.Record) error {
			got <- batch[0]
			return nil
		})
	}()
	address := appendOne(t, l, message("later", "r"))
	select {
	case r := <-got:
		if r.Address != address {
			t.Errorf("got %d, want %d", r.Address, address)
		}
	case <-time.After(patience):
		t.Error("nothing came")
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v, want its context's error", err)
	}
}

func TestFollowHoldsABoundedAmount(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	large := messages("large", 40)
	for i := range large {
		large[i].Data = event(large[i].ID, 1<<20)
	}
	appendAll(t, l, large)
	n := 0
	err := l.Follow(within(t, patience), 1, func(_ context.Context, batch []ledger.Record) error {
		size := 0
		for _, r := range batch {
			size += len(r.Data)
		}
		if size > 10<<20 {
			t.Errorf("a batch of %d bytes, want 8 MiB and one message at most", size)
		}
		if n += len(batch); n == len(large) {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Error(err)
	}
}

func TestFollowShardReadsItsShardOnly(t *testing.T) {
	const shards = 4
	l := open(t, testkit.NATS(t).URL(), ledger.Config{Shards: shards})
	var all []events.Message
	want := map[int][]string{}
	for i := range 400 {
		shard := i * 7 % shards
		all = append(all, message(fmt.Sprint(i), inShard(shard, shards)), on(events.SubjectDecisions, fmt.Sprint("d", i)))
		want[shard] = append(want[shard], fmt.Sprint(i))
	}
	appendAll(t, l, all)
	for shard := range shards {
		var have []ledger.Record
		read := func(from events.Address, n int) {
			have = nil
			err := l.FollowShard(within(t, patience), shard, from, func(_ context.Context, batch []ledger.Record) error {
				if have = append(have, batch...); len(have) >= n {
					return errEnough
				}
				return nil
			})
			if !errors.Is(err, errEnough) {
				t.Fatal(err)
			}
		}
		read(0, len(want[shard]))
		if !slices.Equal(ids(have), want[shard]) {
			t.Errorf("shard %d: %v, want %v", shard, ids(have), want[shard])
		}
		read(have[50].Address, len(want[shard])-50)
		if !slices.Equal(ids(have), want[shard][50:]) {
			t.Errorf("shard %d from its command 50: %v, want %v", shard, ids(have), want[shard][50:])
		}
	}
}

// TestFollowHasNoGapOverARestart: the server is killed while the reader reads
// and others append.
func TestFollowHasNoGapOverARestart(t *testing.T) {
	server := testkit.NATSProcess(t, testkit.NATSSyncAlways())
	l := open(t, server.URL(), ledger.Config{})
	read := make(chan []ledger.Record)
	ctx, cancel := context.WithCancel(within(t, 2*patience))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		next := events.Address(0)
		for ctx.Err() == nil { // as the auditor does
			_ = l.Follow(ctx, next, func(ctx context.Context, batch []ledger.Record) error {
				select {
				case read <- batch:
					next = batch[len(batch)-1].Address + 1
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
		}
	}()
	defer func() {
		cancel()
		<-ended
	}()
	var seen ledger.Record
	seen.Last = true // of a message 0
	upTo := func(want events.Address) {
		t.Helper()
		deadline := time.After(patience)
		for seen.Address < want {
			select {
			case batch := <-read:
				for _, r := range batch {
					if !follows(seen, r) {
						t.Fatalf("%d follows %d", r.Address, seen.Address)
					}
					seen = r
				}
			case <-deadline:
				t.Fatalf("read up to %d, want %d", seen.Address, want)
			}
		}
	}
	for round := range 2 {
		appendAll(t, l, messages(fmt.Sprintf("round-%d", round), 1500))
		upTo(seen.Address + 10)
		server.Kill()
		server.Start(t)
		var end events.Address
		testkit.Eventually(t, patience, func() (err error) {
			end, err = l.Append(within(t, time.Second), message(fmt.Sprintf("after-%d", round), "r"))
			return err
		})
		upTo(end)
	}
}

func TestFollowEndsWithTheErrorOfItsReader(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	appendEach(t, l, "m", "r", 3)
	broken := errors.New("Redis is away")
	if err := l.Follow(within(t, patience), 1, func(context.Context, []ledger.Record) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("%v, want %v", err, broken)
	}
}

// foreign makes the ledger's stream before writ does, so that things can be done
// to it that writ's forbids.
func foreign(t *testing.T, url string) jetstream.Stream {
	t.Helper()
	nc, err := ledger.Connect(url, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.CreateStream(within(t, patience), jetstream.StreamConfig{Name: events.StreamLedger,
		Subjects: []string{events.AllCommands, events.SubjectDecisions, events.AllOutcomes, events.AllCheckpoints},
		Metadata: map[string]string{"writ-shards": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		m := ledger.NewMsg(events.CommandSubject(0), messages(fmt.Sprint(i), 2))
		if _, err := js.PublishMsg(within(t, patience), m); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// TestFollowReportsAGap: a message that is gone from between others was deleted
// by somebody; what the ledger no longer reaches back to is no gap.
func TestFollowReportsAGap(t *testing.T) {
	url := testkit.NATS(t).URL()
	s := foreign(t, url)
	if err := s.DeleteMsg(within(t, patience), 4); err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(within(t, patience), jetstream.WithPurgeSequence(2)); err != nil {
		t.Fatal(err)
	}
	l := open(t, url, ledger.Config{})
	for _, from := range []events.Address{0, events.At(2, 1), events.At(3, 0)} {
		err := l.Follow(within(t, patience), from, func(context.Context, []ledger.Record) error { return nil })
		if err == nil || !strings.Contains(err.Error(), "gap: 5 follows 3") {
			t.Errorf("from %d: %v, want the gap between 3 and 5", from, err)
		}
	}
	follow(t, l, events.At(5, 0), 4)
}

// TestAMessageThatCannotBeSplitIsOneUnreadableEvent: so it becomes a dead letter
// and its neighbours are read.
func TestAMessageThatCannotBeSplitIsOneUnreadableEvent(t *testing.T) {
	l, nc := openConn(t, testkit.NATS(t).URL(), ledger.Config{})
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	bad := map[uint64]string{}
	for _, lengths := range []string{"", "1,1", "4294967295", strings.Repeat("1,", 300) + "1"} {
		appendEach(t, l, "good", "r", 1)
		m := ledger.NewMsg(events.CommandSubject(0), messages("bad", 2))
		m.Header.Set(events.HeaderLengths, lengths)
		ack, err := js.PublishMsg(within(t, patience), m)
		if err != nil {
			t.Fatal(err)
		}
		bad[ack.Sequence] = string(m.Data)
	}
	for _, r := range follow(t, l, 0, 8) {
		want, isBad := bad[events.SequenceOf(r.Address)]
		if !r.Last || events.IndexOf(r.Address) != 0 || isBad && string(r.Data) != want || isBad != (events.IDOf(r.Data) == "") {
			t.Errorf("%d: last %v, %.60s; want one event, which is all of the message", r.Address, r.Last, r.Data)
		}
	}
	if lag, err := l.Lag(within(t, patience), nil); err != nil || lag[0] != 9 { // lengths "1,1" say two
		t.Errorf("a lag of %v (%v), want 9", lag, err)
	}
}
