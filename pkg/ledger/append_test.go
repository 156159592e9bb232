package ledger_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/telemetry"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestAppendsAreNumberedInOrder(t *testing.T) {
	l := open(t, testkit.NATS(t, testkit.NATSSyncAlways()).URL(), ledger.Config{})
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}})
	ctx := trace.ContextWithSpanContext(within(t, patience), span)
	for i := range 20 {
		m := message(fmt.Sprintf("m-%d", i), i%events.Partitions)
		ack, err := l.Append(ctx, m)
		if err != nil || ack.Duplicate || ack.Sequence != uint64(i)+1 {
			t.Fatalf("%+v (%v), want sequence %d", ack, err, i+1)
		}
		r := record(t, l, ack.Sequence)
		if string(r.Data) != string(m.Data) || r.Subject != m.Subject || r.Sequence != ack.Sequence || r.Time.IsZero() ||
			r.Header.Get(nats.MsgIdHdr) != m.ID || r.Header.Get("Content-Type") != events.ContentType {
			t.Errorf("%+v", r)
		}
		if got := trace.SpanContextFromContext(telemetry.Extract(t.Context(), r.Header)); got.TraceID() != span.TraceID() {
			t.Errorf("trace %s, want %s", got.TraceID(), span.TraceID())
		}
	}
	_, err := l.Get(within(t, patience), 99)
	unavailable(t, "a message that is not there", err)
}

// meter counts groups.
func meter() (metric.Meter, func(t *testing.T) (groups uint64, largest int64)) {
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	return provider.Meter("test"), func(t *testing.T) (groups uint64, largest int64) {
		var all metricdata.ResourceMetrics
		if err := reader.Collect(context.Background(), &all); err != nil {
			t.Fatal(err)
		}
		for _, scope := range all.ScopeMetrics {
			for _, m := range scope.Metrics {
				if h, ok := m.Data.(metricdata.Histogram[int64]); ok && m.Name == "writ.ledger.append.group" {
					for _, p := range h.DataPoints {
						groups += p.Count
						if n, ok := p.Max.Value(); ok {
							largest = max(largest, n)
						}
					}
				}
			}
		}
		return groups, largest
	}
}

func TestConcurrentAppendsGoTogether(t *testing.T) {
	m, groups := meter()
	l, _, proxy := through(t, testkit.NATS(t, testkit.NATSSyncAlways()).URL(), ledger.Config{Meter: m})
	release := holdUp(t, l, proxy)
	msgs := messages("m", 3*ledger.MaxGroup)
	done := make(chan []appended, 1)
	ctx := within(t, patience)
	go func() { done <- appendTogether(ctx, l, msgs) }()
	waitQueued(t, l, len(msgs))
	if held := release(); held.err != nil || held.ack.Sequence != 1 {
		t.Fatalf("%+v", held)
	}
	seen := map[uint64]bool{}
	for i, r := range <-done {
		if r.err != nil || r.ack.Duplicate {
			t.Fatalf("%s: %+v", msgs[i].ID, r)
		}
		if seen[r.ack.Sequence] || r.ack.Sequence < 2 || r.ack.Sequence > uint64(len(msgs))+1 {
			t.Fatalf("%s: sequence %d", msgs[i].ID, r.ack.Sequence)
		}
		seen[r.ack.Sequence] = true
		if i%50 == 0 { // each caller is told its own sequence
			if got := record(t, l, r.ack.Sequence); got.Header.Get(nats.MsgIdHdr) != msgs[i].ID {
				t.Errorf("sequence %d holds %s, %s was told", r.ack.Sequence, got.Header.Get(nats.MsgIdHdr), msgs[i].ID)
			}
		}
	}
	if n, largest := groups(t); n != 4 || largest != ledger.MaxGroup {
		t.Errorf("%d groups, the largest of %d; want 4 and %d", n, largest, ledger.MaxGroup)
	}
	if l.QueuedBytes() != 0 {
		t.Errorf("%d bytes are still counted as queued", l.QueuedBytes())
	}
}

func TestDuplicatesAreToldTheFirstOnesSequence(t *testing.T) {
	l, _, proxy := through(t, testkit.NATS(t).URL(), ledger.Config{})
	first := appendOne(t, l, message("a", 3))
	if again := appendOne(t, l, message("a", 3)); !again.Duplicate || again.Sequence != first.Sequence {
		t.Errorf("%+v after %+v", again, first)
	}
	// In a group that is large enough to go as one: the server refuses it whole.
	for _, size := range []int{ledger.AtomicFrom / 2, 2 * ledger.AtomicFrom} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			before := last(t, l)
			release := holdUp(t, l, proxy)
			msgs := messages(fmt.Sprintf("group-%d", size), size)
			msgs[size/2] = message("a", 3)
			msgs[1], msgs[size-1] = message(fmt.Sprintf("twin-%d", size), 5), message(fmt.Sprintf("twin-%d", size), 5)
			done := make(chan []appended, 1)
			ctx := within(t, patience)
			go func() { done <- appendTogether(ctx, l, msgs) }()
			waitQueued(t, l, size)
			held := release()
			results := <-done
			for i, r := range results {
				if r.err != nil {
					t.Fatalf("%s: %v", msgs[i].ID, r.err)
				}
				if i != size/2 && i != 1 && i != size-1 && r.ack.Duplicate {
					t.Errorf("%s is called a duplicate", msgs[i].ID)
				}
			}
			if r := results[size/2].ack; !r.Duplicate || r.Sequence != first.Sequence {
				t.Errorf("%+v after %+v", r, first)
			}
			if x, y := results[1].ack, results[size-1].ack; x.Duplicate == y.Duplicate || x.Sequence != y.Sequence {
				t.Errorf("twins: %+v and %+v", x, y)
			}
			want := uint64(size) - 2
			if !held.ack.Duplicate { // "held" itself is new the first time only
				want++
			}
			if n := last(t, l) - before; n != want {
				t.Errorf("%d records were added, want %d", n, want)
			}
		})
	}
}

func TestAppendsGoOneByOneWhenTheServerTakesNoMoreBatches(t *testing.T) {
	l, nc, proxy := through(t, testkit.NATS(t).URL(), ledger.Config{})
	// 50 batches of one stream may be open (NATS' max_batch_inflight_per_stream);
	// one that its client left open stays so for ten seconds.
	for i := range 50 {
		m := &nats.Msg{Subject: events.CommandSubject("contact", 0, "update"), Header: nats.Header{
			"Nats-Batch-Id": {fmt.Sprintf("left-open-%d", i)}, "Nats-Batch-Sequence": {"1"},
		}}
		if _, err := nc.RequestMsgWithContext(within(t, patience), m); err != nil {
			t.Fatal(err)
		}
	}
	release := holdUp(t, l, proxy)
	msgs := messages("m", 2*ledger.AtomicFrom)
	done := make(chan []appended, 1)
	ctx := within(t, patience)
	go func() { done <- appendTogether(ctx, l, msgs) }()
	waitQueued(t, l, len(msgs))
	release()
	for i, r := range <-done {
		if r.err != nil {
			t.Fatalf("%s: %v", msgs[i].ID, r.err)
		}
	}
}

func TestAppendAllKeepsTheOrderAndDropsWhatIsThere(t *testing.T) {
	server := testkit.NATS(t)
	l := open(t, server.URL(), ledger.Config{})
	for _, n := range []int{0, 3, ledger.MaxGroup + 50} {
		before := last(t, l)
		msgs := messages(fmt.Sprintf("all-%d", n), n)
		ctxs := make([]context.Context, n)
		for i := range ctxs {
			ctxs[i] = t.Context()
		}
		for range 2 { // the repeat adds nothing
			if err := l.AppendAll(within(t, patience), ctxs, msgs); err != nil {
				t.Fatal(err)
			}
		}
		if added := last(t, l) - before; added != uint64(n) {
			t.Fatalf("%d records, want %d", added, n)
		}
		for i := 0; i < n; i += 25 {
			if id := record(t, l, before+uint64(i)+1).Header.Get(nats.MsgIdHdr); id != msgs[i].ID {
				t.Errorf("record %d is %s, want %s", i, id, msgs[i].ID)
			}
		}
	}
	server.Stop(t)
	unavailable(t, "server stopped", l.AppendAll(within(t, patience), []context.Context{t.Context()}, messages("late", 1)))
}

// TestFullLedgerRefusesAndForgetsNothing: 503 for everything, whether it comes
// alone or in a group, until there is room again.
func TestFullLedgerRefusesAndForgetsNothing(t *testing.T) {
	server := testkit.NATS(t)
	l, nc, proxy := through(t, server.URL(), ledger.Config{MaxBytes: 64 << 10})
	var acked uint64
	full := func(prefix string, size int) {
		for i := 0; ; i++ {
			m := message(fmt.Sprintf("%s-%d", prefix, i), 3)
			m.Data = make([]byte, size)
			ack, err := l.Append(within(t, patience), m)
			if err != nil {
				unavailable(t, "full", err)
				return
			}
			if acked = ack.Sequence; i > 1000 {
				t.Fatal("it is never full")
			}
		}
	}
	full("large", 4000)
	// What is left takes a few more small ones, but not a group of them.
	release := holdUp(t, l, proxy)
	msgs := messages("group", 10*ledger.AtomicFrom)
	done := make(chan []appended, 1)
	ctx := within(t, patience)
	go func() { done <- appendTogether(ctx, l, msgs) }()
	waitQueued(t, l, len(msgs))
	if held := release(); held.err == nil {
		acked = held.ack.Sequence
	}
	for i, r := range <-done {
		unavailable(t, msgs[i].ID, r.err)
	}
	full("small", 10)
	if n := last(t, l); n != acked {
		t.Errorf("last is %d, the last one that was acknowledged %d", n, acked)
	}
	if id := record(t, l, 1).Header.Get(nats.MsgIdHdr); id != "large-0" {
		t.Errorf("the first record is %s", id)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), events.StreamLedger)
	if err != nil {
		t.Fatal(err)
	}
	if state := stream.CachedInfo().State; state.FirstSeq != 1 || state.Msgs != acked {
		t.Errorf("%d records from %d, want %d from 1", state.Msgs, state.FirstSeq, acked)
	}
	open(t, server.URL(), ledger.Config{MaxBytes: 1 << 20})
	for i, r := range appendTogether(within(t, patience), l, msgs) { // the same ids: retries
		if r.err != nil || r.ack.Duplicate {
			t.Fatalf("%s: %+v, with room again", msgs[i].ID, r)
		}
	}
}

func TestTooLargeAMessageIsRefusedAlone(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	m := message("large", 3)
	m.Data = make([]byte, events.MaxEvent+16<<10)
	_, err := l.Append(within(t, patience), m)
	unavailable(t, "too large", err)
	m = message("largest", 3)
	m.Data = make([]byte, events.MaxEvent)
	if _, err := l.Append(within(t, patience), m); err != nil {
		t.Errorf("the largest event: %v", err)
	}
}

func TestOpenNeedsRoomForTheLargestEvent(t *testing.T) {
	small, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	small.Start()
	defer small.WaitForShutdown()
	defer small.Shutdown()
	if !small.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	nc, err := ledger.Connect(small.ClientURL(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := ledger.Open(within(t, patience), nc, ledger.Config{}); err == nil || !strings.Contains(err.Error(), "max_payload") {
		t.Errorf("%v, on a server that takes 1 MiB", err)
	}
}
