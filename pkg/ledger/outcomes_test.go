package ledger_test

import (
	"errors"
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

// answers are n of them, for the commands at 1, 2, …, of so many events each.
func answers(from, n, each int) []ledger.Answer {
	var out []ledger.Answer
	for i := from; i < from+n; i++ {
		a := ledger.Answer{Command: events.Address(i)}
		for e := range each {
			a.Events = append(a.Events, events.Message{ID: fmt.Sprintf("o-%d-%d", i, e), Data: event(fmt.Sprintf("o-%d-%d", i, e), 0)})
		}
		out = append(out, a)
	}
	return out
}

var shard0 = events.OutcomeSubject(0)

func lastOutcomes(t testing.TB, l *ledger.Ledger) ledger.Outcomes {
	t.Helper()
	o, err := l.LastOutcomes(within(t, patience), shard0)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestOutcomesOfOneMessageAreOneMessageThatNamesTheLastCommand(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	if o := lastOutcomes(t, l); o != (ledger.Outcomes{}) {
		t.Errorf("outcomes of a new ledger end at %+v", o)
	}
	appendEach(t, l, "c", "r", 1)
	end, err := l.AppendOutcomes(within(t, patience), shard0, ledger.Outcomes{}, answers(1, 100, 2))
	if err != nil || end != (ledger.Outcomes{Sequence: 2, Answered: 100}) || lastOutcomes(t, l) != end {
		t.Fatalf("%+v (%v), LastOutcomes says %+v; want message 2 that answers 100", end, err, lastOutcomes(t, l))
	}
	r := record(t, l, events.At(2, 199))
	if id := events.IDOf(r.Data); id != "o-100-1" || !r.Last || r.Header.Get(events.HeaderAnswers) != "100" {
		t.Errorf("the last of the message is %s, %s %s; want o-100-1 and 100", id, events.HeaderAnswers, r.Header.Get(events.HeaderAnswers))
	}
	// Of a database that was restored the same commands are answered again.
	again, err := l.AppendOutcomes(within(t, patience), shard0, end, answers(3, 1, 1))
	if err != nil || again != (ledger.Outcomes{Sequence: 3, Answered: 100}) {
		t.Errorf("%+v (%v), want that 100 stays answered", again, err)
	}
	none, err := l.AppendOutcomes(within(t, patience), shard0, again, nil)
	if err != nil || none != again || last(t, l) != 3 {
		t.Errorf("no answers: %+v (%v), %d messages; want nothing appended", none, err, last(t, l))
	}
}

// TestAnOvertakenWorkerAppendsNothing: another one has appended since it looked.
func TestAnOvertakenWorkerAppendsNothing(t *testing.T) {
	url := testkit.NATS(t).URL()
	l, woken := open(t, url, ledger.Config{}), open(t, url, ledger.Config{})
	before := lastOutcomes(t, woken)
	end, err := l.AppendOutcomes(within(t, patience), shard0, before, answers(1, 10, 1))
	if err != nil {
		t.Fatal(err)
	}
	for _, old := range []ledger.Outcomes{before, {Sequence: end.Sequence + 1}} {
		got, err := woken.AppendOutcomes(within(t, patience), shard0, old, answers(1, 300, 1))
		if !errors.Is(err, ledger.ErrOvertaken) || got != old {
			t.Errorf("from %+v: %+v (%v), want %v and nothing moved", old, got, err, ledger.ErrOvertaken)
		}
	}
	if err := woken.Ready(within(t, patience)); err != nil {
		t.Errorf("one that was overtaken is not ready: %v", err)
	}
	if n := last(t, l); n != 1 {
		t.Errorf("%d messages, want 1", n)
	}
	// Other subjects do not matter.
	appendEach(t, l, "c", "r", 3)
	if _, err := woken.AppendOutcomes(within(t, patience), shard0, end, answers(11, 1, 1)); err != nil {
		t.Errorf("after messages on other subjects: %v", err)
	}
}

// TestOutcomesThatNeedSeveralMessagesAreSplitBetweenCommands: a second decision
// stands beside its outcome.
func TestOutcomesThatNeedSeveralMessagesAreSplitBetweenCommands(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	for name, c := range map[string]struct{ n, each, size, messages, first int }{
		"256 events":           {300, 1, 0, 2, 256},
		"three of one command": {100, 3, 0, 2, 85},
		"MaxBody":              {10, 1, events.MaxBody / 3, 5, 2},
	} {
		t.Run(name, func(t *testing.T) {
			start := lastOutcomes(t, l)
			all := answers(int(start.Answered)+1, c.n, c.each)
			for i := range all {
				for e := range all[i].Events {
					all[i].Events[e].Data = event(all[i].Events[e].ID, c.size)
				}
			}
			end, err := l.AppendOutcomes(within(t, patience), shard0, start, all)
			want := ledger.Outcomes{Sequence: start.Sequence + uint64(c.messages), Answered: start.Answered + uint64(c.n)}
			if err != nil || end != want || lastOutcomes(t, l) != want {
				t.Fatalf("%+v (%v), LastOutcomes says %+v; want %+v", end, err, lastOutcomes(t, l), want)
			}
			r := record(t, l, events.At(start.Sequence+1, c.first*c.each-1))
			if answered := fmt.Sprint(int(start.Answered) + c.first); r.Header.Get(events.HeaderAnswers) != answered || !r.Last {
				t.Errorf("the first message answers %s, want %s and no more events in it", r.Header.Get(events.HeaderAnswers), answered)
			}
			i := 0
			for _, r := range follow(t, l, events.At(start.Sequence+1, 0), c.n*c.each) {
				if id := all[i/c.each].Events[i%c.each].ID; events.IDOf(r.Data) != id {
					t.Fatalf("event %d is %s, want %s", i, events.IDOf(r.Data), id)
				}
				i++
			}
		})
	}
}

// TestAfterACutBetweenTwoMessagesOfOutcomesTheLedgerTellsWhatIsThere: the worker
// goes on from what LastOutcomes says, and each outcome is there once.
func TestAfterACutBetweenTwoMessagesOfOutcomesTheLedgerTellsWhatIsThere(t *testing.T) {
	url := testkit.NATS(t).URL()
	watch := open(t, url, ledger.Config{})
	all := answers(1, 3*events.MaxBatch, 1)
	for i := range all {
		all[i].Events[0].Data = event(all[i].Events[0].ID, 1000)
	}
	l, _, proxy := through(t, url, ledger.Config{AppendTimeout: 400 * time.Millisecond})
	var end ledger.Outcomes
	proxy.Delay(30 * time.Millisecond) // so that a cut falls between messages, or their acks
	for round := 0; end.Answered < events.Address(len(all)); round++ {
		cut := time.AfterFunc(time.Duration(20+25*round)*time.Millisecond, proxy.Cut)
		told, err := l.AppendOutcomes(within(t, patience), shard0, end, all[end.Answered:])
		cut.Stop()
		proxy.Restore()
		if round < 30 {
			proxy.Delay(30 * time.Millisecond)
		}
		truth := lastOutcomes(t, watch)
		if told.Answered > truth.Answered || err == nil && told != truth {
			t.Fatalf("round %d: told %+v (%v), the ledger says %+v", round, told, err, truth)
		}
		testkit.Eventually(t, patience, func() (err error) {
			end, err = l.LastOutcomes(within(t, time.Second), shard0)
			return err
		})
	}
	var want, have []string
	for _, a := range all {
		want = append(want, a.Events[0].ID)
	}
	var told []string // of each message what it says of itself
	for _, r := range follow(t, watch, 0, len(all)) {
		if have = append(have, events.IDOf(r.Data)); r.Last {
			told = append(told, fmt.Sprintf("%d ends with %s, answers %s, was to follow %s", events.SequenceOf(r.Address), events.IDOf(r.Data),
				r.Header.Get(events.HeaderAnswers), r.Header.Get(jetstream.ExpectedLastSubjSeqHeader)))
		}
	}
	if !slices.Equal(have, want) {
		t.Errorf("the messages are %q, want each outcome once", told)
	}
}

// TestCheckpointOfTwoAuditorsIsThereOnce: signed alike at the same moment, and again later.
func TestCheckpointOfTwoAuditorsIsThereOnce(t *testing.T) {
	srv := testkit.NATS(t)
	auditors := []*ledger.Ledger{open(t, srv.URL(), ledger.Config{}), open(t, srv.URL(), ledger.Config{})}
	subject := events.CheckpointSubject("k")
	for n := range 20 {
		id := fmt.Sprintf("k.%d.checkpoint", n)
		var signing sync.WaitGroup
		for _, l := range append(auditors, auditors...) {
			signing.Go(func() {
				if err := l.AppendNext(within(t, patience), events.Message{ID: id, Subject: subject, Data: event(id, 0)}); err != nil {
					t.Errorf("%s: %v", id, err)
				}
			})
		}
		signing.Wait()
		if last, err := auditors[0].Last(within(t, patience)); err != nil || last != uint64(n+1) {
			t.Fatalf("after %d checkpoints the ledger holds %d messages, %v", n+1, last, err)
		}
	}
}
