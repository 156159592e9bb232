package audit

import (
	"context"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/writ-project/writ/pkg/events"
)

// Source is where a log is read to be checked. What it gives is believed only
// as far as it fits a checkpoint that was signed. Errors are fault.Unavailable,
// ErrTrimmed, ErrNoCheckpoint, or ErrDamaged for what is plainly missing.
type Source interface {
	// Checkpoints gives the logs' latest signed notes.
	Checkpoints(ctx context.Context) (Signed, error)
	// Tile gives the tile's hashes: W times 32 bytes. The height is TileHeight
	// and L is 0 or more.
	Tile(ctx context.Context, l Log, t tlog.Tile) ([]byte, error)
	// Entries gives the first width entries of bundle n: those with the indexes
	// from n*BundleSize on. It may give fewer, if some are missing, in ascending
	// order; indexes are numbered as if none were. Of a whole bundle it may give one
	// more: what stands between its last entry and the next bundle.
	Entries(ctx context.Context, l Log, n int64, width int) ([]Entry, error)
	// Explained gives ledger addresses that are no entries, from an address on,
	// ascending, and the address to ask from next; 0 when there are no more.
	// A source that cannot tell gives ErrUnknown.
	Explained(ctx context.Context, from events.Address) (ranges []Range, next events.Address, err error)
}

// HashReader reads hashes of the tree from a source's tiles, and checks all of
// them against the tree's hash: it reports an error rather than a hash that
// does not belong to the tree.
func HashReader(ctx context.Context, src Source, l Log, tree tlog.Tree) tlog.HashReader {
	return tlog.TileHashReader(tree, tileReader{ctx, src, l})
}

type tileReader struct {
	ctx context.Context
	src Source
	log Log
}

func (r tileReader) Height() int { return TileHeight }

func (r tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, t := range tiles {
		b, err := r.src.Tile(r.ctx, r.log, t)
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w", TilePath(t), r.log, err)
		}
		data[i] = b
	}
	return data, nil
}

func (r tileReader) SaveTiles([]tlog.Tile, [][]byte) {}

// Proof proves that a record is the leaf with this index of a tree.
type Proof struct {
	Index  int64            `json:"index"`
	Hashes tlog.RecordProof `json:"hashes"` // base64, from the leaf up (RFC 6962, 2.1.1)
}

// Prove makes the proof that the entry with this index is in the tree.
func Prove(ctx context.Context, src Source, l Log, tree tlog.Tree, index int64) (Proof, error) {
	p, err := tlog.ProveRecord(tree.N, index, HashReader(ctx, src, l, tree))
	return Proof{index, p}, err
}

// Check reports an error unless the record is the proof's leaf of the tree.
func (p Proof) Check(tree tlog.Tree, record []byte) error {
	return tlog.CheckRecord(p.Hashes, tree.N, tree.Hash, p.Index, tlog.RecordHash(record))
}

// ProveConsistency makes the proof that the tree of size from, 1 or more, is
// the beginning of tree. tlog.CheckTree checks it.
func ProveConsistency(ctx context.Context, src Source, l Log, tree tlog.Tree, from int64) (tlog.TreeProof, error) {
	return tlog.ProveTree(tree.N, from, HashReader(ctx, src, l, tree))
}
