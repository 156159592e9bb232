package ledger_test

import (
	"fmt"
	"maps"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

// TestLagCountsEvents: of messages that are half applied the rest.
func TestLagCountsEvents(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{Shards: 2})
	lag := func(positions map[int]events.Address, zero, one uint64) {
		t.Helper()
		have, err := l.Lag(within(t, patience), positions)
		if err != nil || !maps.Equal(have, map[int]uint64{0: zero, 1: one}) {
			t.Errorf("at %v: %v (%v), want %d and %d", positions, have, err, zero, one)
		}
	}
	lag(nil, 0, 0)
	add := func(shard, n int) {
		var all []events.Message
		for i := range n {
			all = append(all, message(fmt.Sprint(i), inShard(shard, 2)))
		}
		appendAll(t, l, all)
	}
	add(0, 10) // message 1
	add(1, 3)  // 2
	appendAll(t, l, []events.Message{on(events.SubjectDecisions, "d"), on(events.OutcomeSubject(0), "o")})
	add(0, 5) // 5
	lag(nil, 15, 3)
	lag(nil, 15, 3) // it was counted before
	lag(map[int]events.Address{0: events.At(1, 3)}, 11, 3)
	lag(map[int]events.Address{0: events.At(1, 9), 1: events.At(2, 2)}, 5, 0)
	lag(map[int]events.Address{0: events.End(1), 1: events.End(2)}, 5, 0)
	add(0, 300) // 6 and 7
	lag(map[int]events.Address{0: events.At(5, 3), 1: events.End(2)}, 301, 0)
	lag(map[int]events.Address{0: events.At(6, 255), 1: events.End(2)}, 44, 0)
	lag(map[int]events.Address{0: events.At(7, 43), 1: events.End(2)}, 0, 0)
	lag(map[int]events.Address{0: events.End(99), 1: events.End(99)}, 0, 0)
	// A database that was restored is behind where it was.
	lag(map[int]events.Address{0: events.At(7, 1), 1: events.End(2)}, 42, 0)
	lag(map[int]events.Address{0: events.At(1, 3)}, 311, 3)
}

// TestLagReadsWhatIsNewOnly: a worker that is far behind is asked again and again.
func TestLagReadsWhatIsNewOnly(t *testing.T) {
	l, nc := openConn(t, testkit.NATS(t).URL(), ledger.Config{})
	appendEach(t, l, "m", "r", 200)
	if lag, err := l.Lag(within(t, patience), nil); err != nil || lag[0] != 200 {
		t.Fatalf("%v (%v), want 200", lag, err)
	}
	appendEach(t, l, "n", "r", 3)
	before := received(nc)
	if lag, err := l.Lag(within(t, patience), nil); err != nil || lag[0] != 203 {
		t.Fatalf("%v (%v), want 203", lag, err)
	}
	if n := received(nc) - before; n > 50 {
		t.Errorf("%d messages were received to count 3 more", n)
	}
}

func received(nc *nats.Conn) uint64 { return nc.Stats().InMsgs }
