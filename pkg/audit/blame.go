package audit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/writ-project/writ/pkg/events"
)

// difference says what is wrong with an entry that is not the leaf that it
// should be; own and leaves begin with it.
func (v *logVerifier) difference(index int64, e Entry, own, leaves []tlog.Hash) *Bad {
	b := &Bad{v.log, index, e.ID, e.ID.Sequence, "its record is not the one in the tree"}
	other := 0 // the leaf that it is, counted from where it stands
	for k := 1; k < len(leaves) && other == 0; k++ {
		if own[0] == leaves[k] {
			other = k
		}
	}
	switch {
	case other > 0 && other < len(own) && own[other] == leaves[0]:
		b.Reason += ": it has changed places with entry " + strconv.FormatInt(index+int64(other), 10)
	case len(own) > 1 && own[1] == leaves[0] && other > 0:
		b.Reason += fmt.Sprintf(": it is that of entry %d, put before its place", index+int64(other))
	case len(own) > 1 && own[1] == leaves[0]:
		b.Reason = "it is not in the tree that was signed: it was put between two that are"
	case other > 0, e.ID != ID{} && e.ID.Sequence > v.through: // what came later stands in its place
		return v.missing(index, e.ID)
	}
	return b
}

// missing names an entry of which there is no more than its hash, by what is
// around it; next is the entry after it, zero for none.
func (v *logVerifier) missing(index int64, next ID) *Bad {
	b := &Bad{Log: v.log, Index: index, Reason: "it is missing"}
	if v.last.Record != nil && v.last.ID != (ID{}) {
		b.Reason += fmt.Sprintf(" after %s", v.last.ID)
	}
	if next != (ID{}) {
		b.Reason += fmt.Sprintf(": the next one is %s", next)
	} else {
		next = ID{MaxID.Ms, v.through + 1}
	}
	next.Sequence = min(next.Sequence, v.through+1)
	if v.seen.unknown || v.last.Record == nil && index > 0 {
		return b // what comes before it is not known
	}
	last := v.last.ID
	if v.last.Record == nil {
		last.Sequence = v.seen.from - 1
	}
	if v.log == Decisions && !v.others(last.Sequence, next.Sequence) {
		return b
	}
	a, found := v.seen.gap(last.Sequence+1, next.Sequence-1)
	if !found {
		return b
	}
	b.Address = a
	switch { // ids of one message have one time
	case events.SequenceOf(last.Sequence) == events.SequenceOf(a), last.Ms == next.Ms:
		b.ID = ID{last.Ms, a}
	case events.SequenceOf(next.Sequence) == events.SequenceOf(a) && next.Ms != MaxID.Ms:
		b.ID = ID{next.Ms, a}
	default:
		if src, ok := v.src.(interface {
			idAt(ctx context.Context, l Log, a events.Address, last, next ID) (ID, bool)
		}); ok {
			b.ID, _ = src.idAt(v.ctx, v.log, a, last, next)
		}
	}
	return b
}

// firstAfter gives the id of the first entry after a bundle, zero for none.
func (v *logVerifier) firstAfter(n int64) ID {
	if (n+1)*BundleSize >= v.r.Checkpoint.Tree.N {
		return ID{}
	}
	entries, err := v.src.Entries(v.ctx, v.log, n+1, 1)
	if err != nil { // what is missing is told without
		return ID{}
	}
	return first(entries).ID
}

// maxOthers is how many bundles of the other log others reads at most.
const maxOthers = 64

// others takes into account the outcomes between two addresses, which are read
// after the decisions. It reports whether it has seen all of them.
func (v *logVerifier) others(after, before events.Address) bool {
	n := (v.outcomes + BundleSize - 1) / BundleSize
	low, high := int64(0), n
	for low < high { // the first bundle that begins behind after
		mid := (low + high) / 2
		entries, err := v.src.Entries(v.ctx, Outcomes, mid, 1)
		if err != nil && !errors.Is(err, ErrTrimmed) || err == nil && len(entries) == 0 {
			return false
		}
		if err != nil || entries[0].ID.Sequence <= after {
			low = mid + 1
		} else {
			high = mid
		}
	}
	for k := max(low-1, 0); k < n && k < low+maxOthers; k++ {
		entries, err := v.src.Entries(v.ctx, Outcomes, k, BundleSize)
		if errors.Is(err, ErrTrimmed) {
			continue
		}
		if err != nil {
			return false
		}
		for _, e := range entries {
			if e.ID.Sequence >= before {
				return true
			}
			if e.ID.Sequence > after {
				v.seen.add(e.ID.Sequence)
			}
		}
	}
	return low+maxOthers >= n
}

// Limits of idAt: buckets, and for how long a decision was on its way to the ledger.
const (
	idBuckets = 32
	idBefore  = 8 // buckets
)

// idAt gives the id that an entry at this address had, between two others, if an
// index of ids still tells.
func (r *Reader) idAt(ctx context.Context, l Log, a events.Address, last, next ID) (ID, bool) {
	from := last.Ms >> bucketMs
	to := from + 1
	if next.Ms != MaxID.Ms {
		to = next.Ms>>bucketMs + 1
	}
	from -= min(from, idBefore)
	if to-from > idBuckets {
		from = to - idBuckets
	}
	var keys []string
	for n := from; n <= to; n++ {
		keys = append(keys, bucket{l.Stream(), ":ids:", n}.key())
	}
	found, err := r.rdb.MGet(ctx, keys...).Result()
	if err != nil { // what is missing is told without
		return ID{}, false
	}
	for _, f := range found {
		b, _ := f.(string)
		for ; len(b) >= idRecord; b = b[idRecord:] {
			at := []byte(b[16:idRecord])
			if id := (ID{binary.BigEndian.Uint64(at), binary.BigEndian.Uint64(at[8:])}); id.Sequence == a {
				return id, true
			}
		}
	}
	return ID{}, false
}
