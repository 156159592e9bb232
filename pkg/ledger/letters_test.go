package ledger_test

import (
	"bytes"
	"slices"
	"strconv"
	"testing"

	"github.com/nats-io/nats.go"

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
			Sequence: uint64(100 + i), Subject: "writ.cmd.contact.03.create", Header: nats.Header{"Traceparent": {"00-1"}}, Data: big[:1+i*50_000]}}
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
			d.Record.Sequence != uint64(100+i) || d.Record.Subject != "writ.cmd.contact.03.create" || len(d.Record.Data) != 1+i*50_000 || d.Record.Header.Get("Traceparent") != "00-1" {
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

func TestWaitingCommandsAreFound(t *testing.T) {
	ctx := within(t, patience)
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	positions := map[int]uint64{}
	for i := range 40 {
		p := i % events.Partitions
		ack, err := l.Append(ctx, events.Message{ID: strconv.Itoa(i), Subject: events.CommandSubject("contact", p, "create"), Data: []byte("{}")})
		if err != nil {
			t.Fatal(err)
		}
		if i < 10 { // applied
			positions[p] = ack.Sequence
		}
	}
	found, complete, err := l.Waiting(ctx, positions, 100)
	if err != nil || !complete || len(found) != 30 {
		t.Fatalf("%d, %v, %v", len(found), complete, err)
	}
	if found, complete, err := l.Waiting(ctx, positions, 7); err != nil || complete || len(found) != 7 {
		t.Errorf("%d, %v, %v", len(found), complete, err)
	}
}
