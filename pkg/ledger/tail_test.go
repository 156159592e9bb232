package ledger_test

import (
	"context"
	"testing"

	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestTailIsTheEndNewestFirst(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{})
	read := func(limit int, until uint64) (seen []uint64) {
		t.Helper()
		looked, err := l.Tail(t.Context(), limit, func(r ledger.Record) bool {
			seen = append(seen, r.Sequence)
			return r.Sequence != until
		})
		if err != nil || looked != len(seen) {
			t.Fatalf("looked at %d of %d: %v", looked, len(seen), err)
		}
		return seen
	}
	if got := read(10, 0); len(got) != 0 {
		t.Errorf("an empty ledger ends with %v", got)
	}
	const n = 600 // more than two stretches
	large := make([]byte, 100<<10)
	all := messages("m", n)
	ctxs := make([]context.Context, n)
	for i := range all {
		ctxs[i] = t.Context()
		if i >= n-100 { // more than fits one answer
			all[i].Data = large
		}
	}
	if err := l.AppendAll(within(t, patience), ctxs, all); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		limit int
		until uint64
		first uint64 // the oldest that is looked at
	}{{1, 0, n}, {300, 0, n - 299}, {n, 0, 1}, {10 * n, 0, 1}, {n, n - 20, n - 20}} {
		got := read(c.limit, c.until)
		if uint64(len(got)) != n-c.first+1 {
			t.Fatalf("limit %d: %d messages, want %d", c.limit, len(got), n-c.first+1)
		}
		for i, seq := range got {
			if seq != n-uint64(i) {
				t.Fatalf("limit %d: %d at place %d", c.limit, seq, i)
			}
		}
	}
}
