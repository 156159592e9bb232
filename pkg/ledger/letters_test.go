package ledger_test

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestDeadLettersAreReadAndRemoved(t *testing.T) {
	ctx := within(t, patience)
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	if found, next, err := l.Letters(ctx, 0, 10); err != nil || len(found) != 0 || next != 0 {
		t.Fatalf("%v, %d, %v", found, next, err)
	}
	big := bytes.Repeat([]byte("x"), 1<<20)
	for i := range 20 {
		d := ledger.DeadLetter{Service: "worker", Code: "failed", Reason: "reason " + strconv.Itoa(i), Deliveries: 3, Record: ledger.Record{
			Address: uint64(100 + i), Subject: "writ.cmd.3", Header: nats.Header{"Content-Type": {events.BatchContentType}}, Data: big[:1+i*50_000]}}
		if err := l.Bury(ctx, d); err != nil {
			t.Fatal(err)
		}
	}
	var all []ledger.Letter
	for from := uint64(1); from != 0; {
		page, next, err := l.Letters(ctx, from, 7)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 || len(page) > 7 {
			t.Fatalf("a page of %d", len(page))
		}
		all, from = append(all, page...), next
	}
	if len(all) != 20 {
		t.Fatalf("%d letters", len(all))
	}
	for i, d := range all {
		if d.ID != "worker.LEDGER."+strconv.Itoa(100+i) || d.Code != "failed" || d.Reason != "reason "+strconv.Itoa(i) || d.Deliveries != 3 || d.Died.IsZero() ||
			d.Record.Address != uint64(100+i) || d.Record.Subject != "writ.cmd.3" || len(d.Record.Data) != 1+i*50_000 || d.Record.Header.Get("Content-Type") != events.BatchContentType {
			t.Errorf("%d: %+v", i, d.ID)
		}
	}
	one, err := l.Letter(ctx, "worker.LEDGER.107")
	if err != nil || one.At != all[7].At || !bytes.Equal(one.Record.Data, all[7].Record.Data) {
		t.Fatalf("%+v, %v", one.ID, err)
	}
	for range 2 { // removed twice: by two people, or by one who had no answer
		if err := l.Remove(ctx, one); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"worker.LEDGER.107", "worker.LEDGER.*", "worker.>", "", "a.b.c", "worker.LEDGER.1 ", "worker.LEDGER.-1"} {
		if _, err := l.Letter(ctx, id); !fault.Is(err, fault.NotFound) {
			t.Errorf("%q: %v", id, err)
		}
	}
	rest, _, err := l.Letters(ctx, 0, 100)
	if err != nil || slices.ContainsFunc(rest, func(d ledger.Letter) bool { return d.ID == one.ID }) {
		t.Errorf("%d, %v", len(rest), err)
	}
}

func TestBuryKeepsOneLetterWithEverything(t *testing.T) {
	l, nc := openConn(t, testkit.NATS(t).URL(), ledger.Config{})
	m := message("bad", "r")
	m.Data = []byte("\x00 not JSON \xff")
	appendAll(t, l, []events.Message{message("good", "r"), m, message("good", "r")})
	r := record(t, l, events.At(1, 1))
	letter := ledger.DeadLetter{
		Service: "worker", Code: "malformed", Deliveries: 3, Record: r,
		Reason: "line one\r\nForged: yes\n" + strings.Repeat("é", 2000),
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
	have, err := dead.GetLastMsgForSubject(within(t, patience), events.DeadSubject("worker", events.StreamLedger, r.Address))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have.Data, m.Data) {
		t.Errorf("body %q, want the original's bytes", have.Data)
	}
	for name, want := range map[string]string{
		ledger.HeaderService: "worker", ledger.HeaderCode: "malformed", ledger.HeaderSubject: events.CommandSubject(0), ledger.HeaderSequence: "257",
		ledger.HeaderDeliveries: "3", ledger.HeaderOriginal + "Content-Type": events.BatchContentType, ledger.HeaderOriginal + events.HeaderLengths: "",
	} {
		if got := have.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if at, err := time.Parse(time.RFC3339Nano, have.Header.Get(ledger.HeaderDeadAt)); err != nil || time.Since(at) > patience {
		t.Errorf("dead at %s (%v)", at, err)
	}
	reason := have.Header.Get(ledger.HeaderReason)
	if !strings.HasPrefix(reason, "line one  Forged: yes é") || len(reason) > 2<<10 || strings.ToValidUTF8(reason, "") != reason {
		t.Errorf("reason of %d bytes: %.60q", len(reason), reason)
	}
	if got := have.Header.Get("Forged"); got != "" {
		t.Errorf("the reason became a header: %s", got)
	}
}
