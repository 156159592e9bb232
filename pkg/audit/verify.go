package audit

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/writ-project/writ/pkg/events"
)

// VerifyOptions are what a log is checked against.
type VerifyOptions struct {
	// Key is whose checkpoints are believed.
	Key PublicKey
	// Trusted are checkpoints that the logs must contain: remembered from last
	// time, or read from the ledger. They are believed as they are: Open them first.
	Trusted []Checkpoint
	// Seals checks every record's seal, where the source tells seals; nil means
	// not to: only writ's own services have the keys.
	Seals *events.Keyring
	// Progress is told how many leaves of how many have been read, in both logs
	// together; nil means nobody wants to know.
	Progress func(done, total int64)
}

// Report is what Verify found.
type Report struct {
	Decisions, Outcomes LogReport
	// Sequences tells whether it was checked that no ledger address from
	// FirstSequence to LastSequence is missing: each is an entry of one of the
	// logs, or explained. Sources of records only cannot tell.
	Sequences                   bool
	FirstSequence, LastSequence events.Address
	// Explained counts the events that are no entries: refused, checkpoints.
	Explained map[Why]uint64
}

// LogReport is what Verify found in one log.
type LogReport struct {
	Checkpoint Checkpoint // that the log was checked against
	// First is the index of the first entry that is still there. Of those before
	// only the hashes are, which are checked; from here on the records are.
	First   int64
	Entries int64 // read and hashed
	Seals   bool  // seals were checked
	Trusted int   // how many of the trusted checkpoints it contains
}

// Of gives one log's report.
func (r *Report) Of(l Log) *LogReport {
	if l == Outcomes {
		return &r.Outcomes
	}
	return &r.Decisions
}

// Bad is the first thing that is wrong with a log.
type Bad struct {
	Log   Log
	Index int64 // of the entry; -1 if it is about no one entry
	ID    ID    // of the entry, where it is known
	// Address is the entry's on the ledger; 0 where it is not known.
	Address events.Address
	Reason  string
}

// Error names the entry.
func (b *Bad) Error() string {
	switch {
	case b.Index < 0:
		return fmt.Sprintf("%s: %s", b.Log, b.Reason)
	case b.ID != ID{}:
		return fmt.Sprintf("%s: entry %d (%s, %s): %s", b.Log, b.Index, b.ID, place(b.ID.Sequence), b.Reason)
	case b.Address != 0:
		return fmt.Sprintf("%s: entry %d (%s): %s", b.Log, b.Index, place(b.Address), b.Reason)
	}
	return fmt.Sprintf("%s: entry %d: %s", b.Log, b.Index, b.Reason)
}

// Verify reads both logs from the beginning and checks everything that can be
// checked: the checkpoints' signatures, that every record is the leaf of the
// tree that they signed, every tile, that the trusted checkpoints are contained,
// that no ledger address is missing, and that no record stands twice. The error
// is a *Bad that names the first thing that is wrong, or tells why the log could
// not be read (fault.Unavailable, ErrNoCheckpoint). The log may grow meanwhile:
// it is checked up to the checkpoints that were there at the start.
//
// It holds 16 bytes an entry in memory and a bit a ledger address, which is 32
// bytes a message.
func Verify(ctx context.Context, src Source, o VerifyOptions) (Report, error) {
	r := Report{Explained: map[Why]uint64{}}
	signed, err := src.Checkpoints(ctx)
	if err != nil {
		return r, err
	}
	total := int64(0)
	for _, l := range Logs {
		c, err := o.Key.Open(l, signed.Of(l))
		if err != nil {
			return r, &Bad{Log: l, Index: -1, Reason: err.Error()}
		}
		r.Of(l).Checkpoint = c
		total += c.Tree.N
	}
	seen, err := readSequences(ctx, src, signed.Sequence)
	if err != nil {
		return r, err
	}
	done := int64(0)
	for _, l := range Logs {
		v := &logVerifier{ctx: ctx, src: src, o: o, log: l, r: r.Of(l), through: signed.Sequence, outcomes: r.Outcomes.Checkpoint.Tree.N, seen: seen, progress: func(n int64) {
			if done += n; o.Progress != nil {
				o.Progress(done, total)
			}
		}}
		if err := v.run(); err != nil {
			return r, err
		}
	}
	return r, seen.check(&r)
}

// logVerifier checks one log.
type logVerifier struct {
	ctx      context.Context
	src      Source
	o        VerifyOptions
	log      Log
	r        *LogReport
	through  events.Address // that the checkpoint accounts for
	outcomes int64          // how many its log has
	seen     *sequences
	progress func(int64)

	// The tree over the leaves' hashes as the tiles have them, and from the first
	// difference on the one over the entries' own, to tell which of them is wrong.
	given, real *Tree
	bad         *Bad // the first difference
	trusted     []Checkpoint
	last        Entry
	ids         idSet

	firstSequence events.Address // of entry r.First
}

func (v *logVerifier) run() error {
	want := v.r.Checkpoint.Tree
	v.given = &Tree{}
	if err := v.sortTrusted(); err != nil {
		return err
	}
	for n := int64(0); n*BundleSize < want.N; n++ {
		width := int(min(want.N-n*BundleSize, BundleSize))
		if err := v.bundle(n, width); err != nil {
			return err
		}
		v.progress(int64(width))
	}
	if v.r.Entries == 0 {
		v.r.First, v.firstSequence = want.N, 0
	}
	if v.r.First > 0 {
		v.seen.begins(v.firstSequence)
	}
	if got := v.given.Tree(); got != want {
		return v.blame(got, want)
	}
	if v.bad != nil {
		return v.bad
	}
	if err := v.edges(); err != nil {
		return err
	}
	return v.ids.check(v)
}

// blame tells what is wrong when the tiles do not give the tree that was signed.
func (v *logVerifier) blame(got, want tlog.Tree) error {
	if v.real != nil && v.real.Tree() == want {
		v.bad.Reason = "its hash in the tiles is not that of its record, which is the one that was signed"
		return v.bad
	}
	if v.bad != nil {
		return v.bad
	}
	return &Bad{Log: v.log, Index: -1, Reason: fmt.Sprintf("the %d entries have the root hash %s, the checkpoint says %s: %s",
		want.N, got.Hash, want.Hash, v.since("the first entry that is wrong is not known"))}
}

// since narrows down where the tree left the one that was signed.
func (v *logVerifier) since(otherwise string) string {
	if v.r.Trusted > 0 {
		return fmt.Sprintf("the first entry that is wrong is number %d or later", v.trusted[v.r.Trusted-1].Tree.N)
	}
	return otherwise
}

// bundle checks one bundle's entries and hashes.
func (v *logVerifier) bundle(n int64, width int) error {
	tile, err := v.tile(0, n, width)
	if err != nil {
		return err
	}
	leaves := hashes(tile)
	ask := width
	if width < BundleSize {
		ask = BundleSize // what is behind the last one that was signed must be newer
	}
	entries, err := v.src.Entries(v.ctx, v.log, n, ask)
	if errors.Is(err, ErrDamaged) {
		entries, err = v.readable(n, ask, err)
	}
	own := leaves
	switch {
	case errors.Is(err, ErrTrimmed):
		v.r.Entries = 0 // those before have been trimmed, too, since they were read
	case errors.Is(err, ErrDamaged):
		return &Bad{Log: v.log, Index: n * BundleSize, Reason: err.Error()}
	case err != nil:
		return err
	default:
		if v.r.Entries == 0 {
			v.r.First, v.firstSequence = n*BundleSize, first(entries).ID.Sequence
		}
		if own, err = v.entries(n, entries, leaves); err != nil {
			return err
		}
	}
	return v.append(leaves, own)
}

// readable gives as many of a bundle's first entries as a source has that
// reports an error rather than fewer entries than it was asked for.
func (v *logVerifier) readable(n int64, ask int, err error) ([]Entry, error) {
	var found []Entry
	for low, high := 1, ask-1; low <= high; {
		width := (low + high) / 2
		some, e := v.src.Entries(v.ctx, v.log, n, width)
		switch {
		case e == nil:
			found, err, low = some, nil, width+1
		case errors.Is(e, ErrDamaged):
			high = width - 1
		default:
			return nil, e
		}
	}
	return found, err
}

// entries checks the bundle's entries against the hashes in the tile and gives
// their own.
func (v *logVerifier) entries(n int64, entries []Entry, leaves []tlog.Hash) ([]tlog.Hash, error) {
	own := make([]tlog.Hash, len(entries))
	for i, e := range entries {
		own[i] = e.LeafHash()
	}
	for i, leaf := range leaves {
		index := n*BundleSize + int64(i)
		if i >= len(entries) {
			if v.bad == nil {
				v.bad = v.missing(index, v.firstAfter(n))
			}
			break
		}
		e := entries[i]
		if own[i] != leaf {
			if v.bad == nil {
				v.bad = v.difference(index, e, own[i:], leaves[i:])
			}
			if v.real == nil {
				v.real = v.given.Clone()
			}
		}
		if v.bad == nil {
			if err := v.entry(index, e); err != nil {
				return nil, err
			}
		}
		v.last = e
		v.r.Entries++
	}
	for _, e := range entries[min(len(leaves), len(entries)):] {
		if v.bad == nil && e.ID != (ID{}) && e.ID.Sequence <= v.through {
			v.bad = &Bad{v.log, n*BundleSize + int64(len(leaves)), e.ID, e.ID.Sequence, "it is not in the tree that was signed"}
		}
	}
	return own[:min(len(own), len(leaves))], nil
}

// entry checks what does not need the tree: order, seal, and that it is one.
func (v *logVerifier) entry(index int64, e Entry) error {
	if e.ID != (ID{}) {
		if v.last.Record != nil && (e.ID.Sequence <= v.last.ID.Sequence || e.ID.Ms < v.last.ID.Ms) {
			return &Bad{v.log, index, e.ID, e.ID.Sequence, fmt.Sprintf("it does not come after %s, the one before it", v.last.ID)}
		}
		v.seen.add(e.ID.Sequence)
	} else {
		v.seen.unknown = true
	}
	if v.o.Seals != nil && e.Seal != "" {
		seal, err := events.ParseSeal(e.Seal)
		if err == nil {
			err = v.o.Seals.Verify(e.Record, seal)
		}
		if err != nil {
			return &Bad{v.log, index, e.ID, e.ID.Sequence, err.Error()}
		}
		v.r.Seals = true
	}
	if err := v.ids.add(index, e.Record); err != nil {
		return &Bad{v.log, index, e.ID, e.ID.Sequence, err.Error()}
	}
	return nil
}
