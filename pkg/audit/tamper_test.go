package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/writ-project/writ/pkg/events"
)

// TestVerifyNamesTheEntry: whoever holds Redis changes something, and verify
// tells what.
func TestVerifyNamesTheEntry(t *testing.T) {
	t.Parallel()
	const n = 1300 // events of the ledger: 780 decisions, 390 outcomes
	const bad = 300
	// A log's entries once filled.
	all := func(r *rig) []Entry {
		var out []Entry
		for k := int64(0); k*BundleSize < r.trees.Decisions.Size(); k++ {
			out = append(out, need(r.read.Entries(r.Context(), Decisions, k, BundleSize))(r.T)...)
		}
		return out
	}
	// rewrite puts the entries from index on into the stream again, changed.
	rewrite := func(r *rig, from int, change func([]Entry) []Entry) {
		entries := all(r)[from:]
		for _, e := range entries {
			r.do("XDEL", Decisions.Stream(), e.ID.String())
		}
		r.do("XSETID", Decisions.Stream(), ID{entries[0].ID.Ms, entries[0].ID.Sequence - 1}.String())
		for _, e := range change(entries) {
			r.do("XADD", Decisions.Stream(), e.ID.String(), "decision", e.Record, SealField, e.Seal)
		}
	}
	redisOnly := map[string]bool{"an edited entry": true, "a swapped pair": true}
	for name, c := range map[string]struct {
		damage func(r *rig)
		index  int64
		reason string
	}{
		"XDEL": {func(r *rig) { r.do("XDEL", Decisions.Stream(), all(r)[bad].ID.String()) }, bad, "missing"},
		"XDEL of the last": {func(r *rig) {
			r.do("XDEL", Decisions.Stream(), all(r)[r.trees.Decisions.Size()-1].ID.String())
		}, 779, "missing"},
		"XDEL of the first of a bundle": {func(r *rig) { r.do("XDEL", Decisions.Stream(), all(r)[256].ID.String()) }, 256, "missing"},
		"an edited entry": {func(r *rig) {
			rewrite(r, bad, func(e []Entry) []Entry {
				e[0].Record = []byte(strings.Replace(string(e[0].Record), "allow", "deny!", 1))
				return e
			})
		}, bad, "not the one in the tree"},
		"a swapped pair": {func(r *rig) {
			rewrite(r, bad, func(e []Entry) []Entry {
				e[0].Record, e[1].Record = e[1].Record, e[0].Record
				return e
			})
		}, bad, "changed places"},
		"an entry slipped in": {func(r *rig) {
			e := all(r)[779]
			r.do("XADD", Decisions.Stream(), ID{e.ID.Ms, e.ID.Sequence + 1}.String(), "decision", e.Record, SealField, e.Seal)
		}, 780, "not in the tree"},
		"an edited tile":  {func(r *rig) { r.do("SETRANGE", Decisions.tileKey(0, 1), (bad-256)*tlog.HashSize, "xxxx") }, bad, "hash in the tiles"},
		"a tile of tiles": {func(r *rig) { r.do("SETRANGE", Decisions.tileKey(1, 0), 40, "xxxx") }, 0, "tile/1/000"},
		"a lost tile":     {func(r *rig) { r.do("DEL", Decisions.tileKey(0, 2)) }, 512, "tile"},
		"lost bundles":    {func(r *rig) { r.do("DEL", Decisions.bundlesKey()) }, 0, "bundle"},
		"a forged checkpoint": {func(r *rig) {
			other := need(GenerateKey("test"))(r.T)
			r.do("HSET", CheckpointKey, "decisions", need(other.Sign(Decisions, r.trees.Decisions.Tree()))(r.T).Note)
		}, -1, "not signed"},
		"another log's checkpoint": {func(r *rig) {
			r.do("HSET", CheckpointKey, "decisions", need(r.key.Sign(Outcomes, r.trees.Decisions.Tree()))(r.T).Note)
		}, -1, "not signed"},
		"a truncated tail signed with another key": {func(r *rig) {
			truncate(r, 700, need(GenerateKey("test"))(r.T))
		}, -1, "not signed"},
		"a truncated tail signed with the key": {func(r *rig) { truncate(r, 700, r.key) }, 700, "missing"},
		"an unexplained sequence": {func(r *rig) {
			r.do("DEL", explained(0).key())
		}, -1, "message 1, index 5)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redises(t, func(t *testing.T, r *rig) {
				if redisOnly[name] && strings.Contains(t.Name(), "miniredis") {
					return // has no XSETID; the log was written the same way
				}
				r.fill(n)
				d, o := r.sign()
				report := need(r.verify(d, o))(t)
				if !report.Sequences || report.LastSequence != events.End(n/perMessage) || report.Explained[WhyRefused] != n/10 || !report.Decisions.Seals || report.Decisions.Entries != 780 {
					t.Fatalf("%+v", report)
				}
				c.damage(r)
				_, err := r.verify(d, o)
				var b *Bad
				if !errors.As(err, &b) || b.Index != c.index || !strings.Contains(err.Error(), c.reason) {
					t.Fatalf("%v (%+v), want entry %d, %q", err, b, c.index, c.reason)
				}
				t.Log(err)
			})
		})
	}
}

// truncate rewrites the log of decisions to its first n entries, as thoroughly
// as can be done with Redis alone, and signs.
func truncate(r *rig, n int64, key *Key) {
	tree := &Tree{}
	for k := int64(0); k*BundleSize < n; k++ {
		for _, e := range need(r.read.Entries(r.Context(), Decisions, k, int(min(n-k*BundleSize, BundleSize))))(r.T) {
			for _, w := range tree.Append(e.LeafHash()) {
				r.do("SETRANGE", Decisions.tileKey(w.Level, w.N), w.Offset*tlog.HashSize, string(w.Hashes[0][:]))
			}
		}
	}
	r.do("HSET", CheckpointKey, "decisions", need(key.Sign(Decisions, tree.Tree()))(r.T).Note)
	r.do("HSET", MarksKey, "decisions_size", n)
}

// A message that is repeated on the ledger under another id is sealed, and in
// the tree: only that its record stands twice gives it away.
func TestReplayedRecordIsNamed(t *testing.T) {
	t.Parallel()
	redises(t, func(t *testing.T, r *rig) {
		r.fill(900)
		old := need(r.read.At(t.Context(), Decisions, 17))(t)
		r.ms++
		r.append(Batch{Sequence: address(901), Items: []Item{{Entry: Entry{Log: Decisions, ID: ID{r.ms, address(901)}, Record: old.Record, Seal: old.Seal}, DecisionID: r.ids[17]}}})
		r.sign()
		_, err := r.verify()
		var b *Bad
		if !errors.As(err, &b) || b.ID.Sequence != address(901) || !strings.Contains(b.Reason, old.ID.String()) {
			t.Fatal(err)
		}
	})
}

// History rewritten and signed with the stolen key fits itself, but not what the
// ledger, or somebody else, remembers.
func TestRewrittenHistoryContradictsTheRemembered(t *testing.T) {
	t.Parallel()
	redises(t, func(t *testing.T, r *rig) {
		r.fill(500)
		d, o := r.sign()
		r.fill(500)
		r.sign()
		need(r.verify(d, o))(t)
		other := newRigLike(r)
		other.fill(1000)
		other.sign()
		need(other.verify())(t)
		_, err := other.verify(d, o)
		var b *Bad
		if !errors.As(err, &b) || !strings.Contains(b.Reason, fmt.Sprintf("the first %d entries", d.Tree.N)) {
			t.Fatal(err)
		}
	})
}

// newRigLike empties the Redis and begins anew with the same keys.
func newRigLike(r *rig) *rig {
	r.do("FLUSHALL")
	n := *r
	n.n, n.trees, n.head = 0, Trees{&Tree{}, &Tree{}}, need(r.log.Head(r.Context()))(r.T)
	return &n
}

func TestTrimmedLogIsProven(t *testing.T) {
	t.Parallel()
	redises(t, func(t *testing.T, r *rig) {
		r.fill(1300)
		r.sign()
		e := need(r.read.At(t.Context(), Decisions, 600))(t)
		full := strings.HasSuffix(t.Name(), "/redis") // a full Redis is trimmed, too
		if full {
			r.do("CONFIG", "SET", "maxmemory", "1")
		}
		removed, more, err := r.log.Trim(t.Context(), Decisions, time.UnixMilli(int64(e.ID.Ms)))
		if err != nil || removed != 512 || more {
			t.Fatal(removed, more, err)
		}
		must(t, r.log.TrimExplained(t.Context()))
		if full {
			r.do("CONFIG", "SET", "maxmemory", "0")
		}
		report := need(r.verify())(t)
		if report.Decisions.First != 512 || report.Decisions.Entries != 268 || report.Outcomes.First != 0 || !report.Sequences || report.FirstSequence < address(512) {
			t.Fatalf("%+v", report)
		}
		if head := need(r.log.Head(t.Context()))(t); head.Damaged != "" {
			t.Fatal(head.Damaged) // trimming is no loss
		}
		if _, err := r.read.At(t.Context(), Decisions, 511); !errors.Is(err, ErrTrimmed) {
			t.Fatal(err)
		}
		// It grows on.
		r.fill(300)
		r.sign()
		need(r.verify())(t)
		// The newest bundle stays, however old; what is gone beyond is a loss.
		if _, _, err := r.log.Trim(t.Context(), Decisions, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		report = need(r.verify())(t)
		if report.Decisions.Entries == 0 {
			t.Fatalf("%+v", report)
		}
		r.do("XDEL", Decisions.Stream(), need(r.read.At(t.Context(), Decisions, report.Decisions.First))(t).ID.String())
		var b *Bad
		if _, err := r.verify(); !errors.As(err, &b) || b.Index != report.Decisions.First {
			t.Fatal(err)
		}
	})
}

// trimming is a source of which something is trimmed while it is read.
type trimming struct {
	*Reader
	trim func()
}

func (s *trimming) Entries(ctx context.Context, l Log, n int64, width int) ([]Entry, error) {
	if l == Decisions && n == 1 {
		s.trim()
	}
	return s.Reader.Entries(ctx, l, n, width)
}

func TestTrimmedWhileVerified(t *testing.T) {
	t.Parallel()
	redises(t, func(t *testing.T, r *rig) {
		r.fill(1300)
		r.sign()
		report := need(Verify(t.Context(), &trimming{r.read, func() {
			_, _, err := r.log.Trim(t.Context(), Decisions, time.UnixMilli(int64(need(r.read.At(t.Context(), Decisions, 600))(t).ID.Ms)))
			must(t, err)
			must(t, r.log.TrimExplained(t.Context()))
			r.do("DEL", explained(0).key())
		}}, VerifyOptions{Key: r.key.PublicKey}))(t)
		if report.Decisions.First != 512 || report.Decisions.Entries != 268 || !report.Sequences || report.FirstSequence < address(512) {
			t.Fatalf("%+v", report)
		}
	})
}
