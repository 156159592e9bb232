package stream

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"testing"

	"github.com/writ-project/writ/pkg/testkit"
)

// One stream alone is lost: the other one's position must not hide it.
func TestOneLostStreamIsFilledAgain(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string][]string{
		"decisions":           {Decisions},
		"outcomes":            {Outcomes},
		"decisions and marks": {Decisions, MarksKey},
		"outcomes and marks":  {Outcomes, MarksKey},
	} {
		for _, traffic := range []int{0, 30} {
			t.Run(fmt.Sprintf("%s/running/traffic %d", name, traffic), func(t *testing.T) {
				t.Parallel()
				redises(t, func(t *testing.T, r *rig) {
					r.start()
					if len(keys) == 1 {
						r.start() // a new one would trust streams without marks
					}
					r.fill(90)
					r.equal()
					before := need(r.streams())(t)
					must(t, r.rdb.Del(t.Context(), keys...).Err())
					r.fill(traffic)
					r.equal()
					if after := need(r.streams())(t); traffic == 0 && fmt.Sprint(before) != fmt.Sprint(after) {
						t.Fatal("the bytes differ")
					}
				})
			})
			if len(keys) > 1 {
				continue // with the marks gone only a running auditor knows
			}
			t.Run(fmt.Sprintf("%s/stopped/traffic %d", name, traffic), func(t *testing.T) {
				t.Parallel()
				redises(t, func(t *testing.T, r *rig) {
					_, stop := r.start()
					r.fill(90)
					r.equal()
					stop()
					must(t, r.rdb.Del(t.Context(), keys...).Err())
					r.fill(traffic)
					r.start()
					r.equal()
				})
			})
		}
	}
}

// Streams of before the marks are trusted, and the next append marks them.
func TestMissingMarksAreWritten(t *testing.T) {
	t.Parallel()
	redises(t, func(t *testing.T, r *rig) {
		_, stop := r.start()
		r.fill(30)
		r.equal()
		stop()
		must(t, r.rdb.Del(t.Context(), MarksKey).Err())
		first := need(r.rdb.XRange(t.Context(), Decisions, "-", "+").Result())(t)[0]
		must(t, r.rdb.XDel(t.Context(), Decisions, first.ID).Err()) // stays away unless all is filled again
		r.fill(3)
		r.start()
		testkit.Eventually(t, soon, func() error {
			p, err := New(r.rdb).Position(t.Context())
			if err != nil || p.Sequence() != 33 || p.Marks != (Marks{p.Decisions, p.Outcomes}) {
				return fmt.Errorf("%+v: %w", p, err)
			}
			return nil
		})
		if again := need(r.rdb.XRange(t.Context(), Decisions, first.ID, first.ID).Result())(t); len(again) != 0 {
			t.Fatal("filled from the beginning")
		}
	})
}

// Of two auditors that find a loss, the slower must not delete what the faster
// has filled again.
func TestResetOnlyWhatWasRead(t *testing.T) {
	t.Parallel()
	redises(t, func(t *testing.T, r *rig) {
		log := New(r.rdb)
		read := foreign(t, log, 1, 2)
		must(t, r.rdb.Del(t.Context(), Decisions).Err())
		read.Decisions = ID{}
		if p := need(log.Reset(t.Context(), read))(t); p != (Position{}) {
			t.Fatalf("%+v", p)
		}
		filled := foreign(t, log, 1, 2)
		for _, old := range []Position{read, {Decisions: filled.Decisions, Outcomes: filled.Outcomes}} {
			if got, err := log.Reset(t.Context(), old); !errors.Is(err, ErrMoved) || got != filled {
				t.Fatalf("%+v, %v", got, err)
			}
		}
	})
}

// Redis holds more than the ledger: they do not belong together, and nothing
// of it is deleted, also when one stream is lost. With both deleted, as the
// runbook says, the auditor fills them.
func TestRedisAheadOfTheLedger(t *testing.T) {
	t.Parallel()
	redises(t, func(t *testing.T, r *rig) {
		r.fill(10)
		foreign(t, New(r.rdb), 1000, 5)
		ahead := func() {
			t.Helper()
			before := need(r.streams())(t)
			w := need(NewWriter(r.connect(), New(r.rdb), r.keys, slog.New(slog.NewTextHandler(io.Discard, nil)), r.tel))(t)
			if err := w.Run(t.Context()); !errors.Is(err, ErrAhead) {
				t.Fatal(err)
			}
			if after := need(r.streams())(t); fmt.Sprint(before) != fmt.Sprint(after) {
				t.Fatalf("%v, then %v", before, after)
			}
		}
		ahead()
		must(t, r.rdb.Del(t.Context(), Decisions).Err())
		ahead()
		must(t, r.rdb.Del(t.Context(), Outcomes).Err())
		r.start()
		r.equal()
	})
}

// foreign appends one entry to each empty stream, with these sequences.
func foreign(t *testing.T, log *Log, decision, outcome uint64) Position {
	t.Helper()
	return need(log.Append(t.Context(), need(log.Position(t.Context()))(t), []Entry{
		{Stream: Decisions, ID: ID{1000, decision}, Field: "decision", Record: []byte("a"), Seal: "k.m"},
		{Stream: Outcomes, ID: ID{1000, outcome}, Field: "outcome", Record: []byte("b"), Seal: "k.m"},
	}))(t)
}
