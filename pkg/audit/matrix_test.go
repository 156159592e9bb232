package audit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
)

// stamped makes a decision's id of this time, as the api does.
func stamped(ms uint64) string {
	id := uuid.Must(uuid.NewV7())
	binary.BigEndian.PutUint16(id[:], uint16(ms>>32))
	binary.BigEndian.PutUint32(id[2:], uint32(ms))
	return id.String()
}

// alone fills the log of decisions with n entries: every other one is the only event of
// its message. It gives the entries.
func (r *rig) alone(n int) (all []Entry) {
	r.Helper()
	r.ms = uint64(time.Now().Add(-time.Hour).UnixMilli())
	sequence := uint64(0)
	for len(all) < n {
		b := Batch{Start: events.At(1, 0)}
		for len(b.Items) < min(2048, n-len(all)) {
			sequence++
			r.ms += 3
			for i := range 1 + sequence%2 {
				id := ID{r.ms, events.At(sequence, int(i))}
				d := events.Decision{ID: stamped(r.ms - 2), Stage: events.StageRequest, Tenant: "default", Principal: events.Principal{ID: "sam"},
					Resource: events.Resource{Kind: "contact", ID: "c"}, Action: "read", Effect: events.Allow}
				raw := need(events.EncodeDecision(&d))(r.T)
				b.Items = append(b.Items, Item{Entry: Entry{Log: Decisions, ID: id, Record: raw, Seal: r.seals.Seal(raw).String()}, DecisionID: d.ID})
			}
			b.Sequence = events.End(sequence)
			b.Explained = append(b.Explained, Range{events.At(sequence, int(1+sequence%2)), b.Sequence, WhyEnd})
		}
		for i := range b.Items {
			all = append(all, b.Items[i].Entry)
			all[len(all)-1].Index = int64(len(all) - 1)
		}
		r.append(b)
	}
	r.sign()
	return all
}

// replace puts the stream's entries from one index on into it again, changed. Tiles and
// everything else stay. What is far behind the change is left out of it.
func (r *rig) replace(all []Entry, from int, change func([]Entry) []Entry) {
	r.Helper()
	r.do("COPY", Decisions.Stream(), "before")
	r.do("XTRIM", Decisions.Stream(), "MAXLEN", 0)
	r.do("XSETID", Decisions.Stream(), "0-1")
	changed := change(slices.Clone(all[from:]))
	pipe := r.rdb.Pipeline()
	for i, e := range append(slices.Clone(all[:from]), changed...) {
		pipe.XAdd(r.Context(), &redis.XAddArgs{Stream: Decisions.Stream(), ID: e.ID.String(), Values: []any{"decision", e.Record, SealField, e.Seal}})
		if i%4096 == 4095 {
			need(pipe.Exec(r.Context()))(r.T)
		}
	}
	need(pipe.Exec(r.Context()))(r.T)
}

// restore undoes what was done to the stream.
func (r *rig) restore() { r.do("RENAME", "before", Decisions.Stream()) }

// narrow is a source that reports an error rather than fewer entries than it was asked
// for, as C2SP tiles do.
type narrow struct{ *Reader }

func (s narrow) Entries(ctx context.Context, l Log, n int64, width int) ([]Entry, error) {
	state, err := s.State(ctx)
	if err != nil {
		return nil, err
	}
	width = int(min(int64(width), state.Of(l).Size-n*BundleSize))
	entries, err := s.Reader.Entries(ctx, l, n, width)
	if err != nil {
		return nil, err
	}
	if len(entries) < width {
		return nil, ErrDamaged
	}
	extra, err := s.Extra(ctx, l, n, width)
	for _, id := range extra {
		entries = append(entries[:width], Entry{Log: l, ID: id})
	}
	return entries, err
}

// TestEveryTamperingIsNamed: one entry of the stream is deleted, edited, moved, or has
// changed places with another, or one was put in, at the beginning, at the end, inside a
// full tile, at both sides of a tile's border and in the tile that is not full: verify
// names it by its number, its id and its address on the ledger.
func TestEveryTamperingIsNamed(t *testing.T) {
	t.Parallel()
	for _, n := range []int{10, 300, 70_000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, testkit.Redis(t))
			all := r.alone(n)
			last := len(all) - 1
			n := len(all)
			places := map[string]int{"first": 0, "inside": n / 3, "last": last}
			if n > BundleSize {
				border := (n / 2 / BundleSize) * BundleSize
				if border == 0 {
					border = BundleSize
				}
				places["end of a tile"], places["beginning of a tile"], places["partial tile"] = border-1, border, last-20
				if n > 1000 {
					delete(places, "partial tile")
				}
			}
			if _, err := r.verify(); err != nil {
				t.Fatal(err)
			}
			for where, i := range places {
				stranger := all[i]
				stranger.Record, stranger.ID.Ms = []byte(strings.Replace(string(all[i].Record), "sam", "eve", 1)), all[i].ID.Ms
				stranger.ID = all[i].ID.Next() // right behind it
				for how, c := range map[string]struct {
					change func([]Entry) []Entry
					index  int
					id     ID
					reason string
				}{
					"deleted": {func(e []Entry) []Entry { return e[1:] }, i, all[i].ID, "missing"},
					"edited": {func(e []Entry) []Entry {
						e[0].Record = []byte(strings.Replace(string(e[0].Record), "allow", "deny!", 1))
						return e
					}, i, all[i].ID, "not the one in the tree"},
					"swapped": {func(e []Entry) []Entry {
						if len(e) > 1 {
							e[0].Record, e[1].Record = e[1].Record, e[0].Record
						}
						return e
					}, i, all[i].ID, "not the one in the tree"},
					"inserted": {func(e []Entry) []Entry { return slices.Insert(e, 1, stranger) }, i + 1, stranger.ID, "not in the tree"},
					"inserted before": {func(e []Entry) []Entry {
						s := stranger
						s.ID = all[i].ID.Prev()
						return slices.Insert(e, 0, s)
					}, i, all[i].ID.Prev(), "in the tree"},
					"moved back": {func(e []Entry) []Entry {
						if len(e) < 6 {
							return e
						}
						moved := e[0]
						moved.ID = e[5].ID.Next()
						return slices.Insert(slices.Delete(e, 0, 1), 5, moved)
					}, i, all[i].ID, "missing"},
					"moved forward": {func(e []Entry) []Entry {
						if len(e) < 6 {
							return e
						}
						moved := e[5]
						moved.ID = e[0].ID.Next()
						return slices.Insert(slices.Delete(e, 5, 6), 1, moved)
					}, i + 1, all[i].ID.Next(), "tree"},
				} {
					if n > 1000 && !slices.Contains([]string{"deleted", "edited", "swapped", "inserted"}, how) {
						continue // each case costs a second
					}
					if how == "swapped" && i == last || strings.HasPrefix(how, "moved") && i+6 > last {
						continue
					}
					if how != "inserted before" && strings.HasPrefix(how, "inserted") && i < last && !stranger.ID.Less(all[i+1].ID) ||
						how == "inserted before" && i > 0 && !all[i-1].ID.Less(all[i].ID.Prev()) ||
						how == "moved forward" && !all[i].ID.Next().Less(all[i+1].ID) || how == "moved back" && !all[i+5].ID.Next().Less(all[i+6].ID) {
						continue // ids of one message follow each other: there is no place
					}
					r.replace(all, i, c.change)
					for name, src := range map[string]Source{"redis": r.read, "narrow": narrow{r.read}} {
						_, err := Verify(t.Context(), src, VerifyOptions{Key: r.key.PublicKey, Seals: r.seals})
						var b *Bad
						if !errors.As(err, &b) || b.Index != int64(c.index) || b.ID != c.id || b.Address != c.id.Sequence || !strings.Contains(b.Reason, c.reason) {
							t.Errorf("%s, %s (%d), by %s: %v\nwant entry %d, %s, %q", how, where, i, name, err, c.index, c.id, c.reason)
						}
					}
					r.restore()
				}
			}
			if _, err := r.verify(); err != nil {
				t.Fatal("the test has not put it right again: ", err)
			}
		})
	}
}
