package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

var errEnough = errors.New("enough")

// follow reads from a sequence until it has n records, checking that none is missing.
func follow(t *testing.T, l *ledger.Ledger, from uint64, n int) []ledger.Record {
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
		t.Fatalf("%v after %d records of %d", err, len(have), n)
	}
	for i, r := range have {
		if want := max(from, 1) + uint64(i); r.Sequence != want {
			t.Fatalf("record %d is %d, want %d", i, r.Sequence, want)
		}
	}
	return have
}

func TestFollowReadsEverythingInOrderFromAnywhere(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	const n = 1500
	if err := l.AppendAll(within(t, patience), background(n), messages("m", n)); err != nil {
		t.Fatal(err)
	}
	for _, from := range []uint64{0, 1, 2, n / 2, n} {
		want := n - int(max(from, 1)) + 1
		have := follow(t, l, from, want)
		if id, want := have[0].Header.Get(nats.MsgIdHdr), fmt.Sprintf("m-%d", max(from, 1)-1); id != want || len(have[0].Data) == 0 {
			t.Errorf("from %d: the first is %s, want %s", from, id, want)
		}
	}
	// What comes later is handed over as it comes.
	got := make(chan uint64, 1)
	ctx, cancel := context.WithCancel(within(t, patience))
	ended := make(chan error, 1)
	go func() {
		ended <- l.Follow(ctx, n+1, func(_ context.Context, batch []ledger.Record) error {
			got <- batch[0].Sequence
			return nil
		})
	}()
	a := appendOne(t, l, message("later", 0))
	select {
	case s := <-got:
		if s != a.Sequence {
			t.Errorf("got %d, want %d", s, a.Sequence)
		}
	case <-time.After(patience):
		t.Error("nothing came")
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

func background(n int) []context.Context {
	out := make([]context.Context, n)
	for i := range out {
		out[i] = context.Background()
	}
	return out
}

func TestFollowHoldsABoundedAmount(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	large := messages("large", 40)
	for i := range large {
		large[i].Data = bytes.Repeat([]byte("x"), 1<<20)
	}
	if err := l.AppendAll(within(t, patience), background(len(large)), large); err != nil {
		t.Fatal(err)
	}
	n := 0
	err := l.Follow(within(t, patience), 1, func(_ context.Context, batch []ledger.Record) error {
		size := 0
		for _, r := range batch {
			size += len(r.Data)
		}
		if size > 10<<20 {
			t.Errorf("a batch of %d bytes", size)
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
		next := uint64(1)
		for ctx.Err() == nil { // as the auditor does
			_ = l.Follow(ctx, next, func(ctx context.Context, batch []ledger.Record) error {
				select {
				case read <- batch:
					next = batch[len(batch)-1].Sequence + 1
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
	var seen uint64
	upTo := func(want uint64) {
		t.Helper()
		deadline := time.After(patience)
		for seen < want {
			select {
			case batch := <-read:
				for _, r := range batch {
					if r.Sequence != seen+1 {
						t.Fatalf("%d follows %d", r.Sequence, seen)
					}
					seen = r.Sequence
				}
			case <-deadline:
				t.Fatalf("read up to %d, want %d", seen, want)
			}
		}
	}
	for round := range 2 {
		if err := l.AppendAll(within(t, patience), background(300), messages(fmt.Sprintf("round-%d", round), 300)); err != nil {
			t.Fatal(err)
		}
		upTo(seen + 10)
		server.Kill()
		server.Start(t)
		var end uint64
		testkit.Eventually(t, patience, func() error {
			a, err := l.Append(within(t, time.Second), message(fmt.Sprintf("after-%d", round), 0))
			end = a.Sequence
			return err
		})
		upTo(end)
	}
}

func TestFollowEndsWithTheErrorOfItsReader(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	appendEach(t, l, "m", 0, 3)
	broken := errors.New("Redis is away")
	if err := l.Follow(within(t, patience), 1, func(context.Context, []ledger.Record) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

func TestContains(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	subjects := []string{events.AllDecisions, events.AllOutcomes}
	wanted := map[string]bool{"d-3": true, "o-5": true, "o-99": true, "c-1": true}
	if found, err := l.Contains(within(t, patience), 1, subjects, wanted); err != nil || len(found) > 0 {
		t.Errorf("empty ledger: %v (%v)", found, err)
	}
	for i := range 10 {
		appendOne(t, l, message(fmt.Sprintf("c-%d", i), i))
		appendOne(t, l, events.Message{ID: fmt.Sprintf("d-%d", i), Subject: events.DecisionSubject("contact", "read", events.Allow), Data: []byte("{}")})
		appendOne(t, l, events.Message{ID: fmt.Sprintf("o-%d", i), Subject: events.OutcomeSubject("contact", "update", events.StatusApplied), Data: []byte("{}")})
	}
	for name, c := range map[string]struct {
		from uint64
		ids  map[string]bool
		want string
	}{
		"all":                 {0, wanted, "map[d-3:true o-5:true]"},
		"later ones":          {15, wanted, "map[o-5:true]"},
		"the last":            {30, map[string]bool{"o-9": true}, "map[o-9:true]"},
		"beyond the end":      {31, wanted, "map[]"},
		"none asked":          {1, nil, "map[]"},
		"none found":          {1, map[string]bool{"x": true}, "map[]"},
		"asked, but not true": {1, map[string]bool{"d-3": false, "d-4": true}, "map[d-4:true]"},
	} {
		found, err := l.Contains(within(t, patience), c.from, subjects, c.ids)
		if err != nil || fmt.Sprint(found) != c.want {
			t.Errorf("%s: %v, want %s (%v)", name, found, c.want, err)
		}
	}
	if found, err := l.Contains(within(t, patience), 30, []string{events.AllDecisions}, wanted); err != nil || len(found) > 0 {
		t.Errorf("no message left on the subjects: %v (%v)", found, err)
	}
}

func TestUnapplied(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	for i := range 20 {
		appendOne(t, l, message(fmt.Sprintf("c-%d", i), i%4))
	}
	for name, c := range map[string]struct {
		positions       map[int]uint64
		id              string
		limit           int
		found, complete bool
	}{
		"there":                {nil, "c-13", 100, true, true},
		"the first":            {nil, "c-0", 100, true, true},
		"the last":             {nil, "c-19", 100, true, true},
		"not there":            {nil, "c-99", 100, false, true},
		"applied":              {map[int]uint64{1: 14}, "c-13", 100, false, true},
		"right after":          {map[int]uint64{1: 13}, "c-13", 100, true, true},
		"everything applied":   {map[int]uint64{0: 20, 1: 20, 2: 20, 3: 20}, "c-13", 100, false, true},
		"too many to look at":  {nil, "c-19", 3, false, false},
		"within what is asked": {nil, "c-8", 3, true, true},
	} {
		r, found, complete, err := l.Unapplied(within(t, patience), c.positions, c.id, c.limit)
		if err != nil || found != c.found || complete != c.complete {
			t.Errorf("%s: found %v, complete %v (%v)", name, found, complete, err)
		}
		if found && r.Header.Get(nats.MsgIdHdr) != c.id {
			t.Errorf("%s: found %s", name, r.Header.Get(nats.MsgIdHdr))
		}
	}
}

func TestBuryKeepsOneLetterWithEverything(t *testing.T) {
	l, nc := openConn(t, testkit.NATS(t).URL(), ledger.Config{})
	m := message("bad", 3)
	m.Data = []byte("\x00 not JSON \xff")
	r := record(t, l, appendOne(t, l, m).Sequence)
	letter := ledger.DeadLetter{
		Service: "worker", Code: "malformed", Deliveries: 3, Record: r,
		Reason: "line one\r\nNats-Msg-Id: forged\n" + strings.Repeat("é", 2000),
	}
	for range 3 {
		if err := l.Bury(within(t, patience), letter); err != nil {
			t.Fatal(err)
		}
	}
	letter.Service = "auditor"
	if err := l.Bury(within(t, patience), letter); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	dead, err := js.Stream(within(t, patience), events.StreamDead)
	if err != nil {
		t.Fatal(err)
	}
	if n := dead.CachedInfo().State.Msgs; n != 2 {
		t.Errorf("%d dead letters, want one for each service", n)
	}
	have, err := dead.GetLastMsgForSubject(within(t, patience), events.DeadSubject("worker", events.StreamLedger, r.Sequence))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have.Data, m.Data) {
		t.Errorf("body %q, want the original's bytes", have.Data)
	}
	for name, want := range map[string]string{
		ledger.HeaderService: "worker", ledger.HeaderCode: "malformed", ledger.HeaderSubject: m.Subject, ledger.HeaderSequence: "1",
		ledger.HeaderDeliveries: "3", ledger.HeaderOriginal + nats.MsgIdHdr: "bad", ledger.HeaderOriginal + "Content-Type": events.ContentType,
	} {
		if got := have.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if at, err := time.Parse(time.RFC3339Nano, have.Header.Get(ledger.HeaderDeadAt)); err != nil || time.Since(at) > patience {
		t.Errorf("dead at %s (%v)", at, err)
	}
	reason := have.Header.Get(ledger.HeaderReason)
	if !strings.HasPrefix(reason, "line one  Nats-Msg-Id: forged é") || len(reason) > 2<<10 || strings.ToValidUTF8(reason, "") != reason {
		t.Errorf("reason of %d bytes: %.60q", len(reason), reason)
	}
	if got := have.Header.Get(nats.MsgIdHdr); got != "" {
		t.Errorf("the reason became a header: %s", got)
	}
}
