package ledger_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestFindGivesTheEventsOfIDs(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	subjects := []string{events.SubjectDecisions, events.AllOutcomes}
	wanted := map[string]bool{"d-3": true, "o-5": true, "o-99": true, "c-1": true}
	if found, err := l.Find(within(t, patience), 1, subjects, wanted); err != nil || len(found) > 0 {
		t.Errorf("empty ledger: %v (%v), want none", found, err)
	}
	for range 2 { // of one that is there twice the first one is given
		var all []events.Message
		for i := range 10 {
			all = append(all, message(fmt.Sprintf("c-%d", i), "r"), on(events.SubjectDecisions, fmt.Sprintf("d-%d", i)), on(events.OutcomeSubject(0), fmt.Sprintf("o-%d", i)))
		}
		appendAll(t, l, all) // commands are message 1, decisions 2, outcomes 3
	}
	for name, c := range map[string]struct {
		from events.Address
		ids  map[string]bool
		want map[string]events.Address
	}{
		"all":                     {0, wanted, map[string]events.Address{"d-3": events.At(2, 3), "o-5": events.At(3, 5)}},
		"from the event":          {events.At(2, 3), wanted, map[string]events.Address{"d-3": events.At(2, 3), "o-5": events.At(3, 5)}},
		"after it in its message": {events.At(2, 4), wanted, map[string]events.Address{"d-3": events.At(5, 3), "o-5": events.At(3, 5)}},
		"the last":                {events.At(6, 9), map[string]bool{"o-9": true}, map[string]events.Address{"o-9": events.At(6, 9)}},
		"after the last":          {events.At(6, 10), wanted, nil},
		"beyond the end":          {events.At(7, 0), wanted, nil},
		"none asked":              {1, nil, nil},
		"none found":              {1, map[string]bool{"x": true}, nil},
		"asked, but not true":     {1, map[string]bool{"d-3": false, "d-4": true}, map[string]events.Address{"d-4": events.At(2, 4)}},
	} {
		found, err := l.Find(within(t, patience), c.from, subjects, c.ids)
		have := map[string]events.Address{}
		for id, r := range found {
			if have[id] = r.Address; events.IDOf(r.Data) != id {
				t.Errorf("%s: %s is %s", name, id, r.Data)
			}
		}
		if err != nil || !maps.Equal(have, c.want) {
			t.Errorf("%s: %v, want %v (%v)", name, have, c.want, err)
		}
	}
	if found, err := l.Find(within(t, patience), events.At(6, 0), []string{events.SubjectDecisions}, wanted); err != nil || len(found) > 0 {
		t.Errorf("no message left on the subjects: %v (%v)", found, err)
	}
	if _, found, err := l.LastOn(within(t, patience), "writ.outcome.7"); found || err != nil {
		t.Errorf("the last on an empty subject: %v, %v", found, err)
	}
	if r, found, err := l.LastOn(within(t, patience), events.AllOutcomes); !found || err != nil || r.Address != events.At(6, 9) {
		t.Errorf("the last outcome is at %d (%v), want %d", r.Address, err, events.At(6, 9))
	}
}

func TestWaitingCommandsAreFound(t *testing.T) {
	const shards = 4
	l := open(t, testkit.NATS(t).URL(), ledger.Config{Shards: shards})
	var all []events.Message
	for i := range 40 {
		all = append(all, message(fmt.Sprint(i), inShard(i%shards, shards)))
	}
	appendAll(t, l, all) // a message of ten a shard
	positions := map[int]events.Address{}
	if found, complete, err := l.Waiting(within(t, patience), nil, 100); err != nil || !complete || len(found) != 40 {
		t.Errorf("%d found, complete %v (%v); want all 40", len(found), complete, err)
	}
	for shard := range shards { // half of each message is applied
		records, err := l.Commands(within(t, patience), shard, 0, events.At(100, 0), 5)
		if err != nil || len(records) != 5 {
			t.Fatalf("%d commands of shard %d (%v), want 5", len(records), shard, err)
		}
		positions[shard] = records[4].Address
	}
	found, complete, err := l.Waiting(within(t, patience), positions, 20)
	if err != nil || !complete || len(found) != 20 {
		t.Fatalf("%d found, complete %v (%v); want 20, and these are all", len(found), complete, err)
	}
	for i, r := range found { // shard by shard
		if id := fmt.Sprint(20 + i%5*4 + i/5); events.IDOf(r.Data) != id {
			t.Errorf("the %dth is %s, want %s", i, events.IDOf(r.Data), id)
		}
	}
	for _, limit := range []int{0, 7, 19} {
		if found, complete, err := l.Waiting(within(t, patience), positions, limit); err != nil || complete || len(found) != limit {
			t.Errorf("%d found of at most %d, complete %v (%v)", len(found), limit, complete, err)
		}
	}
	for shard := range shards {
		positions[shard] = events.End(4)
	}
	if found, complete, err := l.Waiting(within(t, patience), positions, 7); err != nil || !complete || len(found) != 0 {
		t.Errorf("%d found, complete %v (%v); want none when all is applied", len(found), complete, err)
	}
}

func TestCommandsAreReadFromOneAddressToAnother(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{Shards: 2})
	for range 3 {
		var all []events.Message
		for range 10 {
			all = append(all, message("mine", inShard(1, 2)), message("others", inShard(0, 2)))
		}
		appendAll(t, l, all) // shard 1 has the messages 1, 3 and 5
	}
	addresses := func(from, to, n int) (out []events.Address) { // of shard 1's events
		for i := from; i <= to && len(out) < n; i++ {
			out = append(out, events.At(uint64(i/10*2+1), i%10))
		}
		return out
	}
	for name, c := range map[string]struct {
		from, to events.Address
		limit    int
		want     []events.Address
	}{
		"all":                           {0, events.End(6), 100, addresses(0, 29, 100)},
		"limit":                         {0, events.End(6), 4, addresses(0, 3, 4)},
		"within a message":              {events.At(3, 2), events.At(3, 5), 100, addresses(12, 15, 100)},
		"one":                           {events.At(3, 2), events.At(3, 2), 100, addresses(12, 12, 100)},
		"over messages":                 {events.At(1, 9), events.At(5, 0), 100, addresses(9, 20, 100)},
		"to the end of another message": {events.At(1, 8), events.End(2), 100, addresses(8, 9, 100)},
		"another shard's only":          {events.At(2, 0), events.End(2), 100, nil},
		"behind the end of a message":   {events.At(5, 10), events.End(5), 100, nil},
		"not there yet":                 {events.At(9, 0), events.End(9), 100, nil},
		"nothing":                       {events.At(3, 5), events.At(3, 4), 100, nil},
	} {
		records, err := l.Commands(within(t, patience), 1, c.from, c.to, c.limit)
		var have []events.Address
		for _, r := range records {
			have = append(have, r.Address)
		}
		if err != nil || !slices.Equal(have, c.want) {
			t.Errorf("%s: %v (%v), want %v", name, have, err, c.want)
		}
	}
}

// What is answered while it is asked is not missing.
func TestLacksTellsOfADatabaseThatIsBehindTheAnswers(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{Shards: 2})
	answer := func(shard int, last ledger.Outcomes, command events.Address) ledger.Outcomes {
		t.Helper()
		o, err := l.AppendOutcomes(within(t, patience), events.OutcomeSubject(shard), last, []ledger.Answer{{Command: command, Events: messages("o", 1)}})
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	lacks := func(positions func() map[int]events.Address) bool {
		t.Helper()
		got, err := l.Lacks(within(t, patience), func(context.Context) (map[int]events.Address, error) { return positions(), nil })
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if lacks(func() map[int]events.Address { return nil }) {
		t.Error("a new database of a new ledger is said to lack something")
	}
	appendEach(t, l, "c", "r", 8) // what is answered stands before its answer
	first := answer(0, ledger.Outcomes{}, events.At(5, 3))
	answer(1, ledger.Outcomes{}, events.At(6, 0))
	has := map[int]events.Address{0: events.At(5, 3), 1: events.At(6, 0)}
	if lacks(func() map[int]events.Address { return has }) {
		t.Error("it has everything and is said to lack something")
	}
	if lacks(func() map[int]events.Address {
		before := maps.Clone(has)
		has[0] = events.At(7, 0)
		answer(0, first, has[0])
		return before
	}) {
		t.Error("what was answered while it was asked is said to lack")
	}
	for shard, behind := range map[int]events.Address{0: events.At(5, 3), 1: events.At(5, 255)} {
		old := maps.Clone(has)
		old[shard] = behind
		if !lacks(func() map[int]events.Address { return old }) {
			t.Errorf("shard %d stands at %d, before what was answered, and it is not noticed", shard, behind)
		}
	}
}

// TestAMessageThatIsGoneIsToldFromOneToCome: what was deleted or trimmed is gone; what is there, or never was, is not.
func TestAMessageThatIsGoneIsToldFromOneToCome(t *testing.T) {
	url := testkit.NATS(t).URL()
	early := foreign(t, url) // 6 messages of two events
	if err := early.DeleteMsg(within(t, patience), 3); err != nil {
		t.Fatal(err)
	}
	if err := early.Purge(within(t, patience), jetstream.WithPurgeSequence(2)); err != nil {
		t.Fatal(err)
	}
	l := open(t, url, ledger.Config{})
	for sequence, want := range map[uint64]bool{1: true, 2: false, 3: true, 4: false, 6: false, 7: false, 99: false} {
		for _, index := range []int{0, 1} {
			if gone, err := l.Gone(within(t, patience), events.At(sequence, index)); err != nil || gone != want {
				t.Errorf("event %d of message %d: gone %v (%v), want %v", index, sequence, gone, err, want)
			}
		}
	}
}

func TestTailIsTheEndNewestFirst(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	read := func(limit int, until events.Address) (seen []events.Address) {
		t.Helper()
		looked, err := l.Tail(within(t, patience), limit, func(r ledger.Record) bool {
			seen = append(seen, r.Address)
			return r.Address != until
		})
		if err != nil || looked != len(seen) {
			t.Fatalf("looked at %d of %d: %v", looked, len(seen), err)
		}
		return seen
	}
	if got := read(10, 0); len(got) != 0 {
		t.Errorf("an empty ledger ends with %v", got)
	}
	for i := range 100 { // of one event, more than two stretches
		appendOne(t, l, message(fmt.Sprint(i), "r"))
	}
	all := messages("m", 500)
	for i := range all {
		if i >= 400 { // more than fits one answer
			all[i].Data = event(all[i].ID, 100<<10)
		}
	}
	appendAll(t, l, all)
	var order []events.Address // newest first
	for _, r := range follow(t, l, 0, 600) {
		order = append(order, r.Address)
	}
	slices.Reverse(order)
	for _, c := range []struct{ limit, until, want int }{{1, 0, 1}, {300, 0, 300}, {600, 0, 600}, {6000, 0, 600}, {600, 20, 20}, {10, 10, 10}, {600, 333, 333}} {
		until := events.Address(0)
		if c.until > 0 {
			until = order[c.until-1]
		}
		if got := read(c.limit, until); !slices.Equal(got, order[:c.want]) {
			t.Errorf("limit %d, until %d: %d events from %d, want %d", c.limit, until, len(got), got[0], c.want)
		}
	}
}
