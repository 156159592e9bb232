package stream

import (
	"errors"
	"fmt"
	"testing"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
)

// One stream alone is lost: the other one's position must not hide it.
func TestOneLostStreamIsFilledAgain(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string][]string{
		"decisions":           {decisions},
		"outcomes":            {outcomes},
		"decisions and marks": {decisions, audit.MarksKey},
		"outcomes and marks":  {outcomes, audit.MarksKey},
	} {
		for _, traffic := range []int{0, 30} {
			t.Run(fmt.Sprintf("%s/running/traffic %d", name, traffic), func(t *testing.T) {
				t.Parallel()
				redises(t, func(t *testing.T, r *rig) {
					r.start()
					r.start()
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

// Streams of before the trees, and any whose marks were lost, are filled again.
func TestMissingMarksFillAgain(t *testing.T) {
	t.Parallel()
	redises(t, func(t *testing.T, r *rig) {
		_, stop := r.start()
		r.fill(30)
		r.equal()
		stop()
		must(t, r.rdb.Del(t.Context(), audit.MarksKey).Err())
		first := need(r.rdb.XRange(t.Context(), decisions, "-", "+").Result())(t)[0]
		must(t, r.rdb.XDel(t.Context(), decisions, first.ID).Err()) // only filling again brings it back
		r.fill(3)
		r.start()
		r.equal()
		r.verified()
	})
}

// Redis holds more than the ledger: they do not belong together, and nothing
// of it is deleted, also when one stream is lost. With both deleted, as the
// runbook says, the auditor fills them.
func TestRedisAheadOfTheLedger(t *testing.T) {
	t.Parallel()
	redises(t, func(t *testing.T, r *rig) {
		r.fill(10)
		foreign(t, r, events.At(1000, 0), events.At(5, 0))
		ahead := func() {
			t.Helper()
			before := need(r.streams())(t)
			if err := r.writer(0).Run(t.Context()); !errors.Is(err, ErrAhead) {
				t.Fatal(err)
			}
			if after := need(r.streams())(t); fmt.Sprint(before) != fmt.Sprint(after) {
				t.Fatalf("%v, then %v", before, after)
			}
		}
		ahead()
		must(t, r.rdb.Del(t.Context(), decisions).Err())
		ahead()
		must(t, r.rdb.Del(t.Context(), outcomes).Err())
		r.start()
		r.equal()
		r.verified()
	})
}

// foreign appends one entry to each empty log, with these addresses.
func foreign(t *testing.T, r *rig, decision, outcome events.Address) {
	t.Helper()
	log := audit.NewAppender(r.rdb, 0)
	need(log.Append(t.Context(), need(log.Head(t.Context()))(t), audit.Trees{Decisions: &audit.Tree{}, Outcomes: &audit.Tree{}}, audit.Batch{
		Items: []audit.Item{
			{Entry: audit.Entry{Log: audit.Decisions, ID: audit.ID{Ms: 1000, Sequence: decision}, Record: []byte("a"), Seal: "k.m"}},
			{Entry: audit.Entry{Log: audit.Outcomes, ID: audit.ID{Ms: 1000, Sequence: outcome}, Record: []byte("b"), Seal: "k.m"}},
		}, Sequence: max(decision, outcome), Start: events.At(1, 0),
	}))(t)
}
