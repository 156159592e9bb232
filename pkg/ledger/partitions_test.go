package ledger_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

// read runs Partitions until the test ends or stop is called.
func read(t *testing.T, l *ledger.Ledger) (deliveries <-chan ledger.Delivery, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out := make(chan ledger.Delivery)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := l.Partitions(ctx, out); err != nil {
			t.Errorf("partitions: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("Partitions does not end with its context")
		}
	})
	t.Cleanup(stop)
	return out, stop
}

func next(t *testing.T, from <-chan ledger.Delivery) ledger.Delivery {
	t.Helper()
	select {
	case d := <-from:
		return d
	case <-time.After(patience):
		t.Fatal("no delivery")
		return ledger.Delivery{}
	}
}

func ack(t *testing.T, d ledger.Delivery) {
	t.Helper()
	if err := d.Ack(); err != nil {
		t.Error(err)
	}
}

// settled waits until nothing waits to be delivered or acknowledged.
func settled(t *testing.T, l *ledger.Ledger, partitions ...int) {
	t.Helper()
	testkit.Eventually(t, patience, func() error {
		lag, err := l.Lag(within(t, patience))
		if err != nil {
			return err
		}
		for _, p := range partitions {
			if n, ok := lag[p]; !ok || n > 0 {
				return fmt.Errorf("lag of partition %d: %d (%v)", p, n, ok)
			}
		}
		return nil
	})
}

func TestPartitionsDeliverInOrderAndSayWhatCameBefore(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	if lag, err := l.Lag(within(t, patience)); err != nil || len(lag) > 0 {
		t.Errorf("lag before the first reader: %v (%v)", lag, err)
	}
	deliveries, _ := read(t, l)
	want := map[int][]uint64{}
	have := map[int][]uint64{}
	const each = 30
	for i := range each {
		for _, p := range []int{0, 7, 15} {
			a := appendOne(t, l, message(fmt.Sprintf("m-%d-%d", p, i), p))
			want[p] = append(want[p], a.Sequence)
		}
		// Other messages stand between and are not delivered.
		appendOne(t, l, events.Message{ID: fmt.Sprintf("d-%d", i), Subject: events.DecisionSubject("contact", "read", events.Allow), Data: []byte("{}")})
	}
	for range 3 * each {
		d := next(t, deliveries)
		var before uint64
		if n := len(have[d.Partition]); n > 0 {
			before = have[d.Partition][n-1]
		}
		if d.Previous != before || d.Deliveries != 1 {
			t.Errorf("partition %d, sequence %d: previous %d, want %d; deliveries %d", d.Partition, d.Sequence, d.Previous, before, d.Deliveries)
		}
		if r := record(t, l, d.Sequence); r.Subject != d.Subject || string(r.Data) != string(d.Data) || !r.Time.Equal(d.Time) {
			t.Errorf("%+v, the record is %+v", d.Record, r)
		}
		have[d.Partition] = append(have[d.Partition], d.Sequence)
		ack(t, d)
	}
	progress, err := l.Progress(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	for p := range events.Partitions {
		if !slices.Equal(have[p], want[p]) {
			t.Errorf("partition %d: %v, want %v", p, have[p], want[p])
		}
		var end uint64
		if n := len(want[p]); n > 0 {
			end = want[p][n-1]
		}
		if progress[p].Delivered != end {
			t.Errorf("partition %d was delivered up to %d, want %d", p, progress[p].Delivered, end)
		}
	}
	settled(t, l, 0, 7, 15)
	if err := (ledger.Delivery{}).Ack(); err != nil {
		t.Errorf("acknowledging what Range fetched: %v", err)
	}
}

func TestWhatIsNotAcknowledgedComesAgain(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	deliveries, _ := read(t, l)
	appendEach(t, l, "m", 3, 3)
	first := next(t, deliveries) // not acknowledged: its worker failed
	ack(t, next(t, deliveries))
	ack(t, next(t, deliveries))
	again := next(t, deliveries)
	if again.Sequence != first.Sequence || again.Deliveries != 2 || again.Previous != 0 {
		t.Errorf("sequence %d, deliveries %d, previous %d; want sequence %d a second time", again.Sequence, again.Deliveries, again.Previous, first.Sequence)
	}
	appendEach(t, l, "after", 3, 2)
	d := next(t, deliveries)
	if d.Previous != 0 {
		t.Errorf("previous %d right after a redelivery: others may stand between", d.Previous)
	}
	if e := next(t, deliveries); e.Previous != d.Sequence {
		t.Errorf("previous %d, want %d", e.Previous, d.Sequence)
	} else {
		ack(t, e)
	}
	ack(t, d)
	ack(t, again)
	settled(t, l, 3)
}

// TestAnotherProcessTakesOverWithoutAGap: of two readers one holds the
// partition; when it dies with commands unacknowledged, the other goes on
// within seconds and can tell that it must fetch what lies between.
func TestAnotherProcessTakesOverWithoutAGap(t *testing.T) {
	server := testkit.NATS(t)
	survivor := open(t, server.URL(), ledger.Config{})
	victim, _, proxy := through(t, server.URL(), ledger.Config{})
	doomed, _ := read(t, victim)
	sequences := appendEach(t, survivor, "first", 3, 1)
	ack(t, next(t, doomed)) // the partition is the victim's
	settled(t, survivor, 3)

	deliveries, _ := read(t, survivor)
	sequences = append(sequences, appendEach(t, survivor, "held", 3, 10)...)
	for i := range 10 { // delivered and never acknowledged
		if d := next(t, doomed); d.Sequence != sequences[1+i] {
			t.Fatalf("sequence %d, want %d", d.Sequence, sequences[1+i])
		}
	}
	select {
	case d := <-deliveries:
		t.Fatalf("two hold the partition: the second one got %d", d.Sequence)
	case <-time.After(500 * time.Millisecond): // there is no signal for what does not happen
	}

	proxy.Cut()
	died := time.Now()
	sequences = append(sequences, appendEach(t, survivor, "after", 3, 5)...)
	seen := map[uint64]bool{}
	d := next(t, deliveries)
	if took := time.Since(died); took > 10*time.Second {
		t.Errorf("the takeover took %s", took)
	}
	if d.Previous != 0 {
		t.Errorf("the first delivery after the takeover is said to follow %d", d.Previous)
	}
	// The worker has applied the first one only; it fetches up to what it was given.
	position := sequences[0]
	records, more, err := survivor.Range(within(t, patience), 3, position+1, d.Sequence, 256)
	if err != nil || more {
		t.Fatalf("range: more %v (%v)", more, err)
	}
	var have []uint64
	for _, r := range records {
		have = append(have, r.Sequence)
	}
	if want := sequences[1 : slices.Index(sequences, d.Sequence)+1]; !slices.Equal(have, want) {
		t.Errorf("fetched %v, want %v", have, want)
	}
	seen[d.Sequence] = true
	ack(t, d)
	for len(seen) < len(sequences)-1 {
		d := next(t, deliveries)
		if d.Previous != 0 && d.Deliveries == 1 && slices.Index(sequences, d.Previous)+1 != slices.Index(sequences, d.Sequence) {
			t.Errorf("%d is said to follow %d", d.Sequence, d.Previous)
		}
		seen[d.Sequence] = true
		ack(t, d)
	}
	settled(t, survivor, 3)
}

func TestReadersEndWithTheirContextAndOthersGoOn(t *testing.T) {
	server := testkit.NATS(t)
	l := open(t, server.URL(), ledger.Config{})
	first, stop := read(t, l)
	appendEach(t, l, "a", 3, 1)
	ack(t, next(t, first))
	settled(t, l, 3)
	stop()
	second, _ := read(t, open(t, server.URL(), ledger.Config{}))
	began := time.Now()
	appendEach(t, l, "b", 3, 1)
	ack(t, next(t, second))
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the takeover took %s", took)
	}
}

// TestPartitionsOutliveTheServer: it is killed, started again, and every
// command is delivered.
func TestPartitionsOutliveTheServer(t *testing.T) {
	server := testkit.NATSProcess(t, testkit.NATSSyncAlways())
	l := open(t, server.URL(), ledger.Config{})
	deliveries, _ := read(t, l)
	seen := map[uint64]bool{}
	sequences := appendEach(t, l, "before", 3, 20)
	var before uint64
	for range 10 {
		d := next(t, deliveries)
		before = d.Sequence
		seen[d.Sequence] = true
		ack(t, d)
	}
	server.Kill()
	server.Start(t)
	testkit.Eventually(t, patience, func() error {
		a, err := l.Append(within(t, time.Second), message("after", 3))
		if err == nil {
			sequences = append(sequences, a.Sequence)
		}
		return err
	})
	for len(seen) < len(sequences) {
		d := next(t, deliveries)
		if d.Previous != 0 && d.Previous != before {
			t.Errorf("%d is said to follow %d, %d was delivered before it", d.Sequence, d.Previous, before)
		}
		before = d.Sequence
		seen[d.Sequence] = true
		ack(t, d)
	}
}

// TestPartitionIsReadAgainWhenItsConsumerIsGone: deleted by an operator, or
// lost with the server's disk, whether the reader was connected or not.
func TestPartitionIsReadAgainWhenItsConsumerIsGone(t *testing.T) {
	server := testkit.NATS(t)
	admin, nc := openConn(t, server.URL(), ledger.Config{})
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	l, _, proxy := through(t, server.URL(), ledger.Config{})
	deliveries, _ := read(t, l)
	appendEach(t, admin, "a", 3, 1)
	ack(t, next(t, deliveries))
	settled(t, admin, 3)

	for i, away := range []bool{false, true} {
		if away {
			proxy.Cut()
		}
		if err := js.DeleteConsumer(within(t, patience), events.StreamLedger, "worker-03"); err != nil {
			t.Fatal(err)
		}
		proxy.Restore()
		id := fmt.Sprintf("b-%d", i)
		want := appendOne(t, admin, message(id, 3)).Sequence
		for { // a new consumer delivers everything again
			d := next(t, deliveries)
			ack(t, d)
			if d.Sequence == want {
				break
			}
		}
		settled(t, admin, 3)
	}
}
