package ledger_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/telemetry"
	"github.com/writ-project/writ/pkg/testkit"
)

// TestALoneAppendIsOneMessageAndWaitsForNobody: that it waits for no timer is
// seen by the number of them.
func TestALoneAppendIsOneMessageAndWaitsForNobody(t *testing.T) {
	l := open(t, testkit.NATS(t, testkit.NATSSyncAlways()).URL(), ledger.Config{})
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	ctx := trace.ContextWithSpanContext(within(t, patience), span)
	for i := range 20 {
		m := message(fmt.Sprintf("m-%d", i), "r")
		address, err := l.Append(ctx, m)
		if err != nil || address != events.At(uint64(i)+1, 0) {
			t.Fatalf("address %d (%v), want the first event of message %d", address, err, i+1)
		}
		r := record(t, l, address)
		if r.Subject != events.CommandSubject(0) || r.Address != address || !r.Last || r.Time.IsZero() || r.Header.Get("Content-Type") != events.BatchContentType {
			t.Errorf("message %d: %+v, want one event of a batch on shard 0", i+1, r)
		}
		if want := strings.Replace(string(m.Data), `"id"`, `"traceparent":"`+telemetry.TraceParent(ctx)+`","id"`, 1); string(r.Data) != want {
			t.Errorf("the event is %s, want %s", r.Data, want)
		}
	}
	_, err := l.Get(within(t, patience), events.At(99, 0))
	unavailable(t, "a message that is not there", err)
	_, err = l.Get(within(t, patience), events.At(1, 1))
	unavailable(t, "a second event of a message of one", err)
}

// meter counts messages.
func meter() (metric.Meter, func(t *testing.T) (messages uint64, largest int64)) {
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	return provider.Meter("test"), func(t *testing.T) (messages uint64, largest int64) {
		var all metricdata.ResourceMetrics
		if err := reader.Collect(context.Background(), &all); err != nil {
			t.Fatal(err)
		}
		for _, scope := range all.ScopeMetrics {
			for _, m := range scope.Metrics {
				if h, ok := m.Data.(metricdata.Histogram[int64]); ok && m.Name == "writ.ledger.append.group" {
					for _, p := range h.DataPoints {
						messages += p.Count
						if n, ok := p.Max.Value(); ok {
							largest = max(largest, n)
						}
					}
				}
			}
		}
		return messages, largest
	}
}

// TestWhatGathersWhileAnAppendIsInFlightIsOneMessagePerSubject: and each caller
// is told where its own event is.
func TestWhatGathersWhileAnAppendIsInFlightIsOneMessagePerSubject(t *testing.T) {
	m, messagesOf := meter()
	l, _, proxy := through(t, testkit.NATS(t, testkit.NATSSyncAlways()).URL(), ledger.Config{Meter: m, Shards: 2})
	release := holdUp(t, l, proxy)
	var msgs []events.Message
	for i := range 60 {
		id := fmt.Sprintf("m-%d", i)
		msgs = append(msgs, [...]events.Message{message(id, inShard(0, 2)), message(id, inShard(1, 2)), on(events.SubjectDecisions, id)}[i%3])
	}
	done := inBackground(t, l, msgs)
	waitQueued(t, l, len(msgs))
	if held := release(); held.err != nil || held.address != events.At(1, 0) {
		t.Fatalf("the one in flight: %+v", held)
	}
	sequences := map[uint64]string{}
	for i, r := range <-done {
		if r.err != nil {
			t.Fatalf("%s: %v", msgs[i].ID, r.err)
		}
		got := record(t, l, r.address)
		if id := events.IDOf(got.Data); id != msgs[i].ID {
			t.Errorf("%s was told address %d, which holds %s", msgs[i].ID, r.address, id)
		}
		if s := sequences[events.SequenceOf(r.address)]; s != "" && s != got.Subject {
			t.Errorf("message %d is on %s and on %s", events.SequenceOf(r.address), s, got.Subject)
		}
		sequences[events.SequenceOf(r.address)] = got.Subject
	}
	if len(sequences) != 3 || last(t, l) != 4 {
		t.Errorf("they are in the messages %v of %d, want one for each of 3 subjects after the first", sequences, last(t, l))
	}
	if n, largest := messagesOf(t); n != 4 || largest != 20 {
		t.Errorf("%d messages, the largest of %d events; want 4 and 20", n, largest)
	}
	if l.QueuedBytes() != 0 {
		t.Errorf("%d bytes are still counted as queued, want 0", l.QueuedBytes())
	}
}

// TestOrderWithinASubjectIsTheCallers: of those who wait for each other, and of
// those whose appends gathered.
func TestOrderWithinASubjectIsTheCallers(t *testing.T) {
	l, _, proxy := through(t, testkit.NATS(t).URL(), ledger.Config{})
	release := holdUp(t, l, proxy)
	var waiting []<-chan []appended
	const n = 300 // more than one message
	for i := range n {
		waiting = append(waiting, inBackground(t, l, []events.Message{message(fmt.Sprint(i), "r")}))
		waitQueued(t, l, i+1)
	}
	release()
	previous := events.Address(0)
	for i, w := range waiting {
		r := (<-w)[0]
		if r.err != nil || r.address <= previous {
			t.Fatalf("append %d is at %d (%v), want it after %d", i, r.address, r.err, previous)
		}
		previous = r.address
	}
}

func TestMoreThanAMessageHoldsIsSplit(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	t.Run("256 events", func(t *testing.T) {
		before := last(t, l)
		var all []events.Message
		for i := range ledger.MaxGroup + 2*events.MaxBatch + 1 {
			all = append(all, message(fmt.Sprint(i), "r"))
		}
		appendAll(t, l, all)
		if n := last(t, l) - before; n != ledger.MaxGroup/events.MaxBatch+3 {
			t.Errorf("%d events are %d messages, want %d", len(all), n, ledger.MaxGroup/events.MaxBatch+3)
		}
		for i := range all {
			if id := events.IDOf(record(t, l, events.At(before+1+uint64(i/events.MaxBatch), i%events.MaxBatch)).Data); id != fmt.Sprint(i) {
				t.Fatalf("event %d is %s, want it in order", i, id)
			}
		}
	})
	t.Run("MaxBody", func(t *testing.T) {
		before := last(t, l)
		var all []events.Message
		for i := range 10 {
			m := message(fmt.Sprint(i), "r")
			m.Data = event(m.ID, events.MaxBody/3)
			all = append(all, m)
		}
		appendAll(t, l, all)
		if n := last(t, l) - before; n != 5 {
			t.Errorf("10 events of a third of a message are %d messages, want 5", n)
		}
	})
	t.Run("a trace", func(t *testing.T) {
		ctx := trace.ContextWithSpanContext(within(t, patience), trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}}))
		m := message("largest", "r")
		m.Data = event(m.ID, events.MaxEvent-len(event(m.ID, 0)))
		address, err := l.Append(ctx, m)
		if err != nil {
			t.Fatal(err)
		}
		if r := record(t, l, address); string(r.Data) != string(m.Data) || len(r.Data) != events.MaxEvent {
			t.Errorf("the largest event came back with %d bytes, want its %d", len(r.Data), len(m.Data))
		}
	})
}

func TestAppendAllOfMixedSubjectsKeepsTheOrderOnEach(t *testing.T) {
	natsServer := testkit.NATS(t)
	l := open(t, natsServer.URL(), ledger.Config{Shards: 2})
	subjects := []string{events.CommandSubject(0), events.CommandSubject(1), events.SubjectDecisions, events.OutcomeSubject(0)}
	var all []events.Message
	want := map[string][]string{}
	for i := range 2000 {
		subject := subjects[i*7%4]
		m := on(subject, fmt.Sprint(i))
		if i%2 == 0 && strings.HasPrefix(subject, "writ.cmd.") { // as the api does it
			m.Subject, m.Resource = "", inShard(int(subject[len(subject)-1]-'0'), 2)
		}
		all, want[subject] = append(all, m), append(want[subject], m.ID)
	}
	copied := slices.Clone(all)
	ctx := trace.ContextWithSpanContext(within(t, patience), trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}}))
	if err := l.AppendAll(ctx, all); err != nil {
		t.Fatal(err)
	}
	for i := range all {
		if all[i].Trace != copied[i].Trace {
			t.Fatal("AppendAll changed the caller's messages")
		}
	}
	have := map[string][]string{}
	for _, r := range follow(t, l, 0, len(all)) {
		have[r.Subject] = append(have[r.Subject], events.IDOf(r.Data))
	}
	for _, subject := range subjects {
		if !slices.Equal(have[subject], want[subject]) {
			t.Errorf("%s holds %v, want %v", subject, have[subject], want[subject])
		}
	}
	if err := l.AppendAll(within(t, patience), nil); err != nil {
		t.Errorf("nothing to append: %v", err)
	}
	natsServer.Stop(t)
	unavailable(t, "server stopped", l.AppendAll(within(t, patience), messages("late", 1)))
}

// TestAnErrorReachesEveryCallerOfTheMessage: and none of another message.
func TestAnErrorReachesEveryCallerOfTheMessage(t *testing.T) {
	l, _, proxy := through(t, testkit.NATS(t).URL(), ledger.Config{})
	release := holdUp(t, l, proxy)
	// Two outcomes fit into one message; a subject that no stream has is refused as a whole.
	lost := []events.Message{on("writ.nowhere", "a"), on("writ.nowhere", "b"), on("writ.nowhere", "c")}
	kept := messages("kept", 3)
	failed, done := inBackground(t, l, lost), inBackground(t, l, kept)
	waitQueued(t, l, 6)
	release()
	for i, r := range <-failed {
		unavailable(t, lost[i].ID, r.err)
	}
	for i, r := range <-done {
		if r.err != nil {
			t.Errorf("%s: %v, want it on the ledger beside a message that failed", kept[i].ID, r.err)
		}
	}
}

// TestFullLedgerRefusesAndForgetsNothing: 503 for everything, whether it comes
// alone or with others, until there is room again.
func TestFullLedgerRefusesAndForgetsNothing(t *testing.T) {
	natsServer := testkit.NATS(t)
	l, nc, proxy := through(t, natsServer.URL(), ledger.Config{MaxBytes: 64 << 10})
	var acked events.Address
	full := func(prefix string, size int) {
		t.Helper()
		for i := range 1000 {
			m := message(fmt.Sprintf("%s-%d", prefix, i), "r")
			m.Data = event(m.ID, size)
			address, err := l.Append(within(t, patience), m)
			if err != nil {
				unavailable(t, "full", err)
				return
			}
			acked = address
		}
		t.Fatal("it is never full")
	}
	full("large", 4000)
	// What is left takes a few more small ones, but not a message of many.
	release := holdUp(t, l, proxy)
	msgs := messages("group", 200)
	done := inBackground(t, l, msgs)
	waitQueued(t, l, len(msgs))
	if held := release(); held.err == nil {
		acked = held.address
	}
	for i, r := range <-done {
		unavailable(t, msgs[i].ID, r.err)
	}
	full("small", 10)
	if n := last(t, l); n != events.SequenceOf(acked) {
		t.Errorf("the last message is %d, the last one that was acknowledged %d", n, events.SequenceOf(acked))
	}
	if id := events.IDOf(record(t, l, events.At(1, 0)).Data); id != "large-0" {
		t.Errorf("the first event is %s, want large-0", id)
	}
	if state := stream(t, nc).CachedInfo().State; state.FirstSeq != 1 || state.Msgs != events.SequenceOf(acked) {
		t.Errorf("%d messages from %d, want %d from 1", state.Msgs, state.FirstSeq, events.SequenceOf(acked))
	}
	open(t, natsServer.URL(), ledger.Config{MaxBytes: 1 << 20})
	for i, r := range appendTogether(within(t, patience), l, msgs) {
		if r.err != nil {
			t.Fatalf("%s: %v, with room again", msgs[i].ID, r.err)
		}
	}
}

func TestTooLargeAMessageIsRefusedAlone(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	m := message("large", "r")
	m.Data = make([]byte, events.MaxEvent+16<<10)
	_, err := l.Append(within(t, patience), m)
	unavailable(t, "too large", err)
	if err := l.Ready(within(t, patience)); err != nil {
		t.Errorf("one append that was too large, and the ledger is not ready: %v", err)
	}
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

// TestAMessageIsStoredAsAWholeOrNotAtAll: its sender is cut off while it sends a
// message of many events, at another moment each time.
func TestAMessageIsStoredAsAWholeOrNotAtAll(t *testing.T) {
	url := testkit.NATS(t).URL()
	watch, nc := openConn(t, url, ledger.Config{})
	const n = 100
	for round := range 20 {
		l, _, proxy := through(t, url, ledger.Config{})
		release := holdUp(t, l, proxy)
		all := messages(fmt.Sprint(round), n)
		for i := range all {
			all[i].Data = event(all[i].ID, 1000)
		}
		ctx, kill := context.WithCancel(within(t, patience))
		done := make(chan []appended, 1)
		go func() { done <- appendTogether(ctx, l, all) }()
		waitQueued(t, l, n)
		go release()
		if round%2 == 0 {
			waitQueued(t, l, 0) // it is on its way, or there
		}
		proxy.Cut()
		kill()
		<-done
		proxy.Restore()
	}
	counts := map[string]int{}
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	end := last(t, watch)
	for sequence := uint64(1); sequence <= end; sequence++ {
		first := record(t, watch, events.At(sequence, 0))
		prefix, _, ok := strings.Cut(events.IDOf(first.Data), "-")
		if !ok {
			continue // the one that was held up
		}
		counts[prefix] += events.Count(first.Header.Get(events.HeaderLengths))
	}
	for round, have := range counts {
		if have != n {
			t.Errorf("%d events of round %s are on the ledger, want all %d or none", have, round, n)
		}
	}
	t.Logf("%d of 20 messages are on the ledger", len(counts))
}

func TestMessagesOfVersion2NeverChange(t *testing.T) {
	keys, err := events.ParseKeyring("k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")
	if err != nil {
		t.Fatal(err)
	}
	all := goldenEvents(t, keys)
	m := ledger.NewMsg(events.CommandSubject(0), all[:1])
	golden(t, "ledger.v2.command", m)
	m = ledger.NewMsg(events.SubjectDecisions, all[1:3])
	golden(t, "ledger.v2.decisions", m)

	// The outcomes' as the server has it.
	l, nc := openConn(t, testkit.NATS(t).URL(), ledger.Config{})
	if _, err := l.AppendOutcomes(within(t, patience), events.OutcomeSubject(0), ledger.Outcomes{}, []ledger.Answer{{Command: events.At(7, 3), Events: all[3:]}}); err != nil {
		t.Fatal(err)
	}
	raw, err := stream(t, nc).GetMsg(within(t, patience), 1)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "ledger.v2.outcomes", natsMsg(raw))
}
