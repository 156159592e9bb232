package audit

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// Tree is the right edge of a log's tree: of each level of tiles the one that
// is not full. That is all that appending needs. The zero Tree is empty.
type Tree struct {
	size  int64
	edges []edge // by level
}

// edge is the tile of one level that is not full yet.
type edge struct {
	n      int64       // its number
	hashes []tlog.Hash // fewer than BundleSize
}

// TileWrite is what an append adds to a tile.
type TileWrite struct {
	Level  int
	N      int64
	Offset int // in hashes
	Hashes []tlog.Hash
}

// Size is how many leaves the tree has.
func (t *Tree) Size() int64 { return t.size }

// Clone is a copy that shares nothing with t.
func (t *Tree) Clone() *Tree {
	c := &Tree{t.size, slices.Clone(t.edges)}
	for i := range c.edges {
		c.edges[i].hashes = slices.Clone(c.edges[i].hashes)
	}
	return c
}

// Append adds leaves and tells what that adds to the tiles, in no order that
// matters.
func (t *Tree) Append(leaves ...tlog.Hash) []TileWrite {
	var writes []TileWrite
	t.size += int64(len(leaves))
	for level, up := 0, leaves; len(up) > 0; level++ {
		if level == len(t.edges) {
			t.edges = append(t.edges, edge{})
		}
		e, hashes := &t.edges[level], up
		up = nil
		for len(hashes) > 0 {
			n := min(len(hashes), BundleSize-len(e.hashes))
			writes = append(writes, TileWrite{level, e.n, len(e.hashes), hashes[:n]})
			e.hashes = append(e.hashes, hashes[:n]...)
			if hashes = hashes[n:]; len(e.hashes) == BundleSize {
				up = append(up, fold(e.hashes))
				e.n, e.hashes = e.n+1, e.hashes[:0]
			}
		}
	}
	return writes
}

// fold gives the root over hashes, whose number is a power of two.
func fold(hashes []tlog.Hash) tlog.Hash {
	row := slices.Clone(hashes)
	for n := len(row); n > 1; n /= 2 {
		for i := range n / 2 {
			row[i] = tlog.NodeHash(row[2*i], row[2*i+1])
		}
	}
	return row[0]
}

// Tree gives size and root hash.
func (t *Tree) Tree() tlog.Tree {
	root, any := tlog.Hash{}, false
	for _, e := range t.edges { // a lower level's edge lies right of a higher one's
		for hashes := e.hashes; len(hashes) > 0; {
			n := len(hashes) & -len(hashes) // the rightmost full subtree
			h := fold(hashes[len(hashes)-n:])
			if any {
				h = tlog.NodeHash(h, root)
			}
			root, any, hashes = h, true, hashes[:len(hashes)-n]
		}
	}
	if !any {
		root, _ = tlog.TreeHash(0, nil) // never fails: an empty tree reads nothing
	}
	return tlog.Tree{N: t.size, Hash: root}
}

// LoadTree reads the right edge of the tree of this size from a source's tiles.
// It believes them: compare its hash with what is known.
func LoadTree(ctx context.Context, src Source, l Log, size int64) (*Tree, error) {
	t := &Tree{size: size}
	for n := size; n > 0; n >>= TileHeight {
		e, w := edge{n: n >> TileHeight}, int(n%BundleSize)
		if w > 0 {
			b, err := src.Tile(ctx, l, tlog.Tile{H: TileHeight, L: len(t.edges), N: e.n, W: w})
			if err != nil {
				return nil, fmt.Errorf("load the tree of %s: %w", l, err)
			}
			e.hashes = hashes(b)
		}
		t.edges = append(t.edges, e)
	}
	return t, nil
}

// hashes splits a tile's bytes.
func hashes(tile []byte) []tlog.Hash {
	out := make([]tlog.Hash, len(tile)/tlog.HashSize)
	for i := range out {
		copy(out[i][:], tile[i*tlog.HashSize:])
	}
	return out
}

// RootAt gives the tree that the log had at a smaller size, from tiles that
// belong to tree.
func RootAt(ctx context.Context, src Source, l Log, size int64) (tlog.Tree, error) {
	t, err := LoadTree(ctx, src, l, size)
	if err != nil {
		return tlog.Tree{}, err
	}
	return t.Tree(), nil
}
