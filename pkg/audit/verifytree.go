package audit

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// sortTrusted takes the trusted checkpoints of this log, smallest first.
func (v *logVerifier) sortTrusted() error {
	for _, c := range v.o.Trusted {
		if l, err := c.Log(); err != nil || l != v.log {
			continue
		}
		if c.Tree.N > v.r.Checkpoint.Tree.N {
			return &Bad{Log: v.log, Index: v.r.Checkpoint.Tree.N, Reason: fmt.Sprintf(
				"it is missing: the log's checkpoint ends before it, but one that is trusted has %d entries", c.Tree.N)}
		}
		v.trusted = append(v.trusted, c)
	}
	slices.SortStableFunc(v.trusted, func(a, b Checkpoint) int { return cmp.Compare(a.Tree.N, b.Tree.N) })
	return nil
}

// append grows the trees, and compares on the way what can be compared.
func (v *logVerifier) append(leaves, own []tlog.Hash) error {
	if v.real != nil {
		v.real.Append(own...)
	}
	for len(leaves) > 0 || v.next() == 0 {
		n := min(int64(len(leaves)), v.next())
		for _, w := range v.given.Append(leaves[:n]...) {
			if w.Level > 0 && w.Offset+len(w.Hashes) == BundleSize {
				if err := v.fullTile(w); err != nil {
					return err
				}
			}
		}
		leaves = leaves[n:]
		if v.next() > 0 {
			continue
		}
		c := v.trusted[v.r.Trusted]
		if got := v.given.Tree(); got != c.Tree && v.real == nil {
			return &Bad{Log: v.log, Index: -1, Reason: fmt.Sprintf("the first %d entries have the root hash %s, a trusted checkpoint says %s: %s",
				c.Tree.N, got.Hash, c.Tree.Hash, v.since("history was rewritten before entry "+fmt.Sprint(c.Tree.N)))}
		}
		v.r.Trusted++
	}
	return nil
}

// next is how many leaves there are until the next trusted checkpoint.
func (v *logVerifier) next() int64 {
	if v.r.Trusted == len(v.trusted) {
		return 1 << 62
	}
	return v.trusted[v.r.Trusted].Tree.N - v.given.Size()
}

// fullTile compares a tile above the leaves, which has just become full.
func (v *logVerifier) fullTile(w TileWrite) error {
	tile, err := v.tile(w.Level, w.N, BundleSize)
	if err != nil {
		return err
	}
	// Of the hashes before this write those of the edge are gone; what they fold
	// to has just been made of them, so the tile's must fold to the same.
	up := v.given.edges
	if len(up) <= w.Level+1 || len(up[w.Level+1].hashes) == 0 {
		return nil // it completed the tile above as well, which is compared itself
	}
	if above := up[w.Level+1].hashes; fold(hashes(tile)) != above[len(above)-1] {
		return v.badTile(w.Level, w.N, BundleSize)
	}
	return nil
}

// edges compares the tiles above the leaves that are not full.
func (v *logVerifier) edges() error {
	for level, e := range v.given.edges {
		if level == 0 || len(e.hashes) == 0 {
			continue
		}
		tile, err := v.tile(level, e.n, len(e.hashes))
		if err != nil {
			return err
		}
		if !slices.Equal(hashes(tile), e.hashes) {
			return v.badTile(level, e.n, len(e.hashes))
		}
	}
	return nil
}

// tile reads a tile as it stands in the source.
func (v *logVerifier) tile(level int, n int64, width int) ([]byte, error) {
	t := tlog.Tile{H: TileHeight, L: level, N: n, W: width}
	b, err := v.src.Tile(v.ctx, v.log, t)
	if errors.Is(err, ErrDamaged) || err == nil && len(b) != width*tlog.HashSize {
		return nil, &Bad{Log: v.log, Index: n << (TileHeight * (level + 1)), Reason: "its tile " + TilePath(t) + " is not there as a whole"}
	}
	return b, err
}

func (v *logVerifier) badTile(level int, n int64, width int) error {
	t := tlog.Tile{H: TileHeight, L: level, N: n, W: width}
	return &Bad{Log: v.log, Index: n << (TileHeight * (level + 1)), Reason: "its tile " + TilePath(t) + " does not hold the hashes of the tiles below it"}
}

// idSet finds records that stand twice: somebody who may write to the ledger
// may repeat a sealed message.
type idSet struct {
	seed maphash.Seed
	all  []idAt
}

type idAt struct {
	hash  uint64
	index int64
}

func (s *idSet) add(index int64, record []byte) error {
	if s.all == nil {
		s.seed = maphash.MakeSeed()
	}
	id, err := recordID(record)
	if err == nil {
		s.all = append(s.all, idAt{maphash.Bytes(s.seed, id), index})
	}
	return err
}

// check looks for ids that stand twice. Hashes that are equal may be so by chance.
func (s *idSet) check(v *logVerifier) error {
	slices.SortFunc(s.all, func(a, b idAt) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.index, b.index))
	})
	for i := 1; i < len(s.all); i++ {
		if s.all[i].hash != s.all[i-1].hash {
			continue
		}
		a, err := v.at(s.all[i-1].index)
		if errors.Is(err, ErrTrimmed) {
			continue // since it was read: only one of them is left
		}
		if err != nil {
			return err
		}
		b, err := v.at(s.all[i].index)
		if err != nil {
			return err
		}
		x, _ := recordID(a.Record) // they were read before
		y, _ := recordID(b.Record)
		if bytes.Equal(x, y) {
			return &Bad{v.log, b.Index, b.ID, b.ID.Sequence, fmt.Sprintf("%s was recorded before, as entry %d (%s): somebody repeated it on the ledger", x, a.Index, a.ID)}
		}
	}
	return nil
}

func (v *logVerifier) at(index int64) (Entry, error) {
	entries, err := v.src.Entries(v.ctx, v.log, index/BundleSize, int(index%BundleSize)+1)
	if err == nil && len(entries) != int(index%BundleSize)+1 {
		err = &Bad{Log: v.log, Index: index, Reason: "it is missing"}
	}
	if err != nil {
		return Entry{}, err
	}
	e := entries[len(entries)-1]
	e.Index = index
	return e, nil
}

// recordID gives a record's id.
func recordID(record []byte) ([]byte, error) {
	const start = `{"id":"` // as writ encodes records
	if rest, ok := bytes.CutPrefix(record, []byte(start)); ok {
		if end := bytes.IndexByte(rest, '"'); end > 0 && bytes.IndexByte(rest[:end], '\\') < 0 {
			return rest[:end], nil
		}
	}
	var r struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(record, &r); err != nil || r.ID == "" {
		return nil, errors.New("its record has no id")
	}
	return []byte(r.ID), nil
}
