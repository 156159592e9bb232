package ledger_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

// openWith opens a ledger with a number of shards, or reports why not.
func openWith(t *testing.T, url string, shards int) error {
	t.Helper()
	nc, err := ledger.Connect(url, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	l, err := ledger.Open(within(t, patience), nc, ledger.Config{Shards: shards})
	if err != nil {
		return err
	}
	if l.Shards() != shards {
		t.Errorf("%d shards, want %d", l.Shards(), shards)
	}
	return l.Close(within(t, patience))
}

func TestOpenRefusesAnotherNumberOfShards(t *testing.T) {
	url := testkit.NATS(t).URL()
	for _, shards := range []int{-1, 0, 1} { // 0 means 1
		open(t, url, ledger.Config{Shards: shards})
	}
	for _, shards := range []int{2, 16, events.MaxShards} {
		if err := openWith(t, url, shards); !errors.Is(err, ledger.ErrShards) || !strings.Contains(err.Error(), fmt.Sprintf("%d here, 1 there", shards)) {
			t.Errorf("%d shards of a ledger of 1: %v, want %v", shards, err, ledger.ErrShards)
		}
	}
	if err := openWith(t, url, events.MaxShards+1); err == nil || !strings.Contains(err.Error(), "WRIT_LEDGER_SHARDS") {
		t.Errorf("more shards than there may be: %v, want the setting's name", err)
	}
}

// TestOfTwoOpensWithDifferentNumbersOneIsRefused: they make the ledger at the same moment.
func TestOfTwoOpensWithDifferentNumbersOneIsRefused(t *testing.T) {
	for range 5 {
		url := testkit.NATS(t).URL()
		var both sync.WaitGroup
		results := make([]error, 2)
		for i := range results {
			both.Go(func() { results[i] = openWith(t, url, 2+i) })
		}
		both.Wait()
		if (results[0] == nil) == (results[1] == nil) || !errors.Is(errors.Join(results...), ledger.ErrShards) {
			t.Errorf("%v and %v, want one of them refused", results[0], results[1])
		}
	}
}

func TestReshardRefusesWhileACommandIsNotApplied(t *testing.T) {
	url := testkit.NATS(t).URL()
	l, nc := openConn(t, url, ledger.Config{Shards: 2})
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	appendAll(t, l, []events.Message{message("a", inShard(0, 2)), message("b", inShard(0, 2)), message("c", inShard(1, 2))})
	appendAll(t, l, []events.Message{on(events.SubjectDecisions, "d")})
	reshard := func(shards int, positions map[int]events.Address) (events.Address, error) {
		return ledger.Reshard(within(t, patience), js, positions, shards)
	}
	for _, shards := range []int{-1, 0, events.MaxShards + 1} {
		if _, err := reshard(shards, map[int]events.Address{0: events.End(9), 1: events.End(9)}); err == nil {
			t.Errorf("changed to %d shards", shards)
		}
	}
	for _, positions := range []map[int]events.Address{nil, {0: events.At(1, 0), 1: events.At(2, 0)}, {0: events.At(1, 1)}, {1: events.At(2, 0)}} {
		if _, err := reshard(4, positions); err == nil || !strings.Contains(err.Error(), "not applied") {
			t.Errorf("at %v: %v, want that commands are not applied", positions, err)
		}
		if err := openWith(t, url, 2); err != nil {
			t.Errorf("refused, and yet the ledger has changed: %v", err)
		}
	}
	begin, err := reshard(4, map[int]events.Address{0: events.At(1, 1), 1: events.At(2, 0)})
	if err != nil || begin != events.End(3) {
		t.Fatalf("every shard begins after %d (%v), want %d: the end", begin, err, events.End(3))
	}
	if err := openWith(t, url, 2); !errors.Is(err, ledger.ErrShards) {
		t.Errorf("the old number: %v, want %v", err, ledger.ErrShards)
	}
	wide := open(t, url, ledger.Config{Shards: 4})
	appendAll(t, wide, []events.Message{message("e", inShard(3, 4))})
	waiting, _, err := wide.Waiting(within(t, patience), map[int]events.Address{0: begin, 1: begin, 2: begin, 3: begin}, 10)
	if err != nil || len(waiting) != 1 || waiting[0].Subject != events.CommandSubject(3) {
		t.Errorf("%v wait (%v), want the new command alone", ids(waiting), err)
	}
}

// TestReshardThatWasKilledIsRunAgain: before SQL had the positions of the shards
// that came back, which have commands of earlier times.
func TestReshardThatWasKilledIsRunAgain(t *testing.T) {
	url := testkit.NATS(t).URL()
	l, nc := openConn(t, url, ledger.Config{Shards: 2})
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	reshard := func(shards int, positions map[int]events.Address) events.Address {
		t.Helper()
		begin, err := ledger.Reshard(within(t, patience), js, positions, shards)
		if err != nil {
			t.Fatal(err)
		}
		return begin
	}
	appendAll(t, l, []events.Message{message("a", inShard(0, 2)), message("b", inShard(1, 2))})
	one := reshard(1, map[int]events.Address{0: events.At(1, 0), 1: events.At(2, 0)})
	appendAll(t, open(t, url, ledger.Config{}), []events.Message{message("c", "r")})
	applied := map[int]events.Address{0: events.At(3, 0)}
	if _, err := ledger.Reshard(within(t, patience), js, map[int]events.Address{0: one}, 2); err == nil {
		t.Error("changed while c is not applied")
	}
	first, again := reshard(2, applied), reshard(2, applied) // SQL has one shard's position still
	if first != events.End(3) || again != first {
		t.Errorf("every shard begins after %d, and after the second run %d, want %d", first, again, events.End(3))
	}
	appendAll(t, l, []events.Message{message("d", inShard(1, 2))})
	if _, err := ledger.Reshard(within(t, patience), js, map[int]events.Address{0: first}, 4); err == nil {
		t.Error("changed while d, of a shard that SQL does not know, is not applied")
	}
}
