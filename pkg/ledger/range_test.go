package ledger_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestRange(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	var three []uint64
	for i := range 10 {
		three = append(three, appendOne(t, l, message(fmt.Sprintf("three-%d", i), 3)).Sequence)
		appendOne(t, l, message(fmt.Sprintf("four-%d", i), 4))
	}
	end := three[9]
	for name, c := range map[string]struct {
		from, to uint64
		limit    int
		want     []uint64
		more     bool
	}{
		"all":                      {1, end, 100, three, false},
		"limit":                    {1, end, 4, three[:4], true},
		"limit met at the end":     {1, end, 10, three, false},
		"one less":                 {1, end, 9, three[:9], true},
		"from the middle":          {three[5], end, 100, three[5:], false},
		"from between":             {three[5] + 1, end, 100, three[6:], false},
		"to the middle":            {1, three[5], 100, three[:6], false},
		"to between":               {1, three[5] + 1, 100, three[:6], false},
		"one":                      {three[5], three[5], 100, three[5:6], false},
		"another partition's only": {three[5] + 1, three[5] + 1, 100, nil, false},
		"nothing":                  {5, 4, 100, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			records, more, err := l.Range(within(t, patience), 3, c.from, c.to, c.limit)
			if err != nil {
				t.Fatal(err)
			}
			var have []uint64
			for _, r := range records {
				have = append(have, r.Sequence)
			}
			if !slices.Equal(have, c.want) || more != c.more {
				t.Errorf("%v, more %v; want %v, more %v", have, more, c.want, c.more)
			}
		})
	}
	// What is not there yet is an error: a replica that lags behind must not look like a gap.
	for _, r := range [][2]uint64{{end + 1, end + 5}, {end + 2, end + 2}} {
		records, more, err := l.Range(within(t, patience), 3, r[0], r[1], 100)
		if !fault.Is(err, fault.Unavailable) || more || len(records) > 0 {
			t.Errorf("%d to %d: %d records, more %v (%v)", r[0], r[1], len(records), more, err)
		}
	}
	records, more, err := l.Range(within(t, patience), 3, three[8], end+5, 100)
	if err != nil || !more || len(records) != 2 {
		t.Errorf("beyond the end: %d records, more %v (%v)", len(records), more, err)
	}
}

func TestRangeIsCutBySize(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	var sequences []uint64
	for i := range 20 {
		m := message(fmt.Sprintf("m-%d", i), 3)
		m.Data = make([]byte, 1<<20)
		sequences = append(sequences, appendOne(t, l, m).Sequence)
	}
	var have []uint64
	from, calls := uint64(1), 0
	for more := true; more; calls++ {
		var records []ledger.Record
		var err error
		if records, more, err = l.Range(within(t, patience), 3, from, sequences[19], 100); err != nil {
			t.Fatal(err)
		}
		size := 0
		for _, r := range records {
			have = append(have, r.Sequence)
			size += len(r.Data)
		}
		if size > 10<<20 {
			t.Errorf("%d bytes at once", size)
		}
		from = have[len(have)-1] + 1
	}
	if !slices.Equal(have, sequences) || calls < 2 {
		t.Errorf("%v in %d calls", have, calls)
	}
}

// What is settled while it is asked is not missing.
func TestLacks(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	mine := appendEach(t, l, "mine", 3, 2)
	others := appendEach(t, l, "others", 4, 3)
	deliveries, _ := read(t, l)
	for range len(mine) + len(others) {
		ack(t, next(t, deliveries))
	}
	settled(t, l, 3, 4)
	lacks := func(positions func() map[int]uint64) bool {
		t.Helper()
		got, err := l.Lacks(within(t, patience), func(context.Context) (map[int]uint64, error) { return positions(), nil })
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	has := map[int]uint64{3: mine[1], 4: others[2]}
	if lacks(func() map[int]uint64 { return has }) {
		t.Error("it has everything and is said to lack something")
	}
	if lacks(func() map[int]uint64 {
		before := maps.Clone(has)
		has[3] = appendEach(t, l, "late", 3, 1)[0]
		ack(t, next(t, deliveries))
		settled(t, l, 3)
		return before
	}) {
		t.Error("what was settled while it was asked is said to lack")
	}
	has[3] = mine[0]
	if !lacks(func() map[int]uint64 { return has }) {
		t.Error("a command that was settled lacks, and it is not noticed")
	}
}

// TestAMessageThatIsGoneIsToldFromOneToCome: what was deleted or trimmed is gone; what is there, or never was, is not.
func TestAMessageThatIsGoneIsToldFromOneToCome(t *testing.T) {
	t.Parallel()
	ctx := within(t, 30*time.Second)
	url := testkit.NATS(t).URL()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	early, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: events.StreamLedger, Subjects: []string{events.AllCommands}}) // before it forbids deleting
	if err != nil {
		t.Fatal(err)
	}
	for range 4 {
		if _, err := js.Publish(ctx, events.CommandSubject("contact", 1, "create"), nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := early.DeleteMsg(ctx, 3); err != nil {
		t.Fatal(err)
	}
	if err := early.Purge(ctx, jetstream.WithPurgeSequence(2)); err != nil {
		t.Fatal(err)
	}
	l := open(t, url, ledger.Config{})
	for sequence, want := range map[uint64]bool{1: true, 2: false, 3: true, 4: false, 5: false, 99: false} {
		if gone, err := l.Gone(ctx, sequence); err != nil || gone != want {
			t.Errorf("message %d: %v, %v", sequence, gone, err)
		}
	}
}
