package audit

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// memory is a Source of tiles in memory.
type memory struct {
	Source
	tiles map[[2]int64][]tlog.Hash
}

func (m *memory) write(writes []TileWrite) error {
	for _, w := range writes {
		k := [2]int64{int64(w.Level), w.N}
		if len(m.tiles[k]) != w.Offset {
			return fmt.Errorf("tile %v has %d hashes, the write is at %d", k, len(m.tiles[k]), w.Offset)
		}
		m.tiles[k] = append(m.tiles[k], w.Hashes...)
	}
	return nil
}

func (m *memory) Tile(_ context.Context, _ Log, t tlog.Tile) ([]byte, error) {
	var b []byte
	for _, h := range m.tiles[[2]int64{int64(t.L), t.N}][:t.W] {
		b = append(b, h[:]...)
	}
	return b, nil
}

// The tree is golang.org/x/mod/sumdb/tlog's, whatever the batches: the same
// roots, tiles that its reader accepts, and proofs that it checks.
func TestTreeIsTlogs(t *testing.T) {
	t.Parallel()
	const n = 70_000 // three levels of tiles
	random := rand.New(rand.NewPCG(1, 2))
	tree, m := &Tree{}, &memory{tiles: map[[2]int64][]tlog.Hash{}}
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			out[i] = stored[x]
		}
		return out, nil
	})
	roots := map[int64]tlog.Hash{}
	for tree.Size() < n {
		var leaves []tlog.Hash
		for range random.IntN(600) {
			leaf := tlog.RecordHash(fmt.Append(nil, "record ", tree.Size()+int64(len(leaves))))
			hashes := need(tlog.StoredHashesForRecordHash(tree.Size()+int64(len(leaves)), leaf, reader))(t)
			stored, leaves = append(stored, hashes...), append(leaves, leaf)
		}
		must(t, m.write(tree.Append(leaves...)))
		got := tree.Tree()
		if want := need(tlog.TreeHash(tree.Size(), reader))(t); got.Hash != want || got.N != tree.Size() {
			t.Fatalf("%d leaves: %s, want %s", tree.Size(), got.Hash, want)
		}
		roots[got.N] = got.Hash
		if again := need(LoadTree(t.Context(), m, Decisions, got.N))(t); again.Tree() != got {
			t.Fatalf("%d leaves, loaded: %v, want %v", got.N, again.Tree(), got)
		}
	}
	now := tree.Tree()
	for i := range int64(200) {
		index := now.N * i / 200
		proof := need(Prove(t.Context(), m, Decisions, now, index))(t)
		must(t, proof.Check(now, fmt.Append(nil, "record ", index)))
		if proof.Check(now, []byte("another")) == nil {
			t.Fatal("proves anything")
		}
	}
	for size, root := range roots {
		if size == 0 {
			continue
		}
		proof := need(ProveConsistency(t.Context(), m, Decisions, now, size))(t)
		must(t, tlog.CheckTree(proof, now.N, now.Hash, size, root))
	}
	m.tiles[[2]int64{0, 7}][9][0] ^= 1
	if _, err := Prove(t.Context(), m, Decisions, now, 7*BundleSize+3); err == nil {
		t.Fatal("an edited tile is believed")
	}
}

func TestTilePathsAreC2SPs(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]tlog.Tile{
		"tile/0/000":                     {H: 8, L: 0, N: 0, W: 256},
		"tile/0/x001/x234/067":           {H: 8, L: 0, N: 1234067, W: 256},
		"tile/2/000.p/7":                 {H: 8, L: 2, N: 0, W: 7},
		"tile/entries/x001/x234/067.p/8": {H: 8, L: -1, N: 1234067, W: 8},
		"tile/entries/005":               {H: 8, L: -1, N: 5, W: 256},
	} {
		if got := need(ParseTilePath(path))(t); got != want || TilePath(got) != path {
			t.Errorf("%s: %+v, %s", path, got, TilePath(got))
		}
	}
	for _, bad := range []string{"", "tile/8/0/000", "tile/data/000", "tile/0/1", "tile/0/000.p/256", "tile/0/000.p/0", "tile/-1/000", "tile/64/000", "/tile/0/000", "tile/0/000/"} {
		if got, err := ParseTilePath(bad); err == nil {
			t.Errorf("%s: %+v", bad, got)
		}
	}
}

func TestBundlesKeepRecords(t *testing.T) {
	t.Parallel()
	in := []Entry{{Record: []byte("a")}, {Record: nil}, {Record: make([]byte, MaxRecord)}}
	b := need(EncodeBundle(in))(t)
	out := need(DecodeBundle(b))(t)
	if len(out) != 3 || string(out[0]) != "a" || len(out[1]) != 0 || len(out[2]) != MaxRecord {
		t.Fatal(out)
	}
	for _, n := range []int{1, 2, 4, len(b) - 1} {
		if _, err := DecodeBundle(b[:n]); err == nil {
			t.Errorf("cut to %d bytes: read", n)
		}
	}
	if _, err := EncodeBundle([]Entry{{Record: make([]byte, MaxRecord+1)}}); err == nil {
		t.Error("too long a record was written")
	}
	if _, err := DecodeBundle(slices.Repeat([]byte{0, 0}, BundleSize+1)); err == nil {
		t.Error("too many entries were read")
	}
}
