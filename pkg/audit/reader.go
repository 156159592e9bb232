package audit

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/writ-project/writ/pkg/fault"
)

// Dependency is the name of Redis in /readyz and in errors.
const Dependency = "redis"

// MaxRange is the most entries that one Range gives.
const MaxRange = 512

// Reader reads the logs from Redis. It is safe for concurrent use, and a
// Source. Every call is bounded in what it reads; deadlines are the context's.
// Errors are fault.Unavailable where not said otherwise.
type Reader struct{ rdb redis.UniversalClient }

// NewReader makes a Reader; the client stays the caller's.
func NewReader(rdb redis.UniversalClient) *Reader { return &Reader{rdb} }

var _ Source = (*Reader)(nil)

// State tells where the logs stand. It reports ErrDamaged for what it cannot read.
func (r *Reader) State(ctx context.Context) (State, error) {
	var marks *redis.MapStringStringCmd
	var firsts [2]*redis.StringSliceCmd
	if _, err := r.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
		marks = p.HGetAll(ctx, MarksKey)
		for i, l := range Logs {
			firsts[i] = p.ZRange(ctx, l.bundlesKey(), 0, 0)
		}
		return nil
	}); err != nil {
		return State{}, fault.Unreachable(Dependency, err)
	}
	s, err := parseState(marks.Val())
	if err != nil {
		return s, err
	}
	for i, l := range Logs {
		if members := firsts[i].Val(); len(members) > 0 {
			n, _, err := parseMember(members[0])
			if err != nil {
				return s, err
			}
			p := s.Of(l)
			p.First = n * BundleSize
			s.set(l, p)
		}
	}
	return s, nil
}

func parseState(m map[string]string) (s State, err error) {
	number := func(field string) uint64 {
		v, e := strconv.ParseUint(m[field], 10, 63)
		if m[field] != "" && e != nil {
			err = fmt.Errorf("%w: %s: %s is %q", ErrDamaged, MarksKey, field, m[field])
		}
		return v
	}
	position := func(l Log) (p Position) {
		if text := m[string(l)]; text != "" {
			var e error
			if p.Last, e = ParseID(text); e != nil {
				err = fmt.Errorf("%w: %s: %w", ErrDamaged, MarksKey, e)
			}
		}
		p.Size = int64(number(string(l) + "_size"))
		return p
	}
	s = State{Decisions: position(Decisions), Outcomes: position(Outcomes), Sequence: number("sequence"), Start: number("start")}
	return s, err
}

// Span says which entries a Range gives: those with ids from From to To, both
// included, oldest first or newest first.
type Span struct {
	From, To  ID
	Backwards bool
	Limit     int // at most MaxRange; 0 means that
}

// Range gives one bounded step of a log: up to span.Limit entries from the
// span's beginning (its end when Backwards), with their indexes. Fewer than the
// limit means that there are no more. To go on, move From behind (To before)
// the last entry's id; see ID.Next and ID.Prev. No content is looked at: what
// filters does so for itself.
func (r *Reader) Range(ctx context.Context, l Log, span Span) ([]Entry, error) {
	limit := int64(span.Limit)
	if limit <= 0 || limit > MaxRange {
		limit = MaxRange
	}
	for range maxTrims {
		entries, err := r.read(ctx, l, span, limit)
		if err != nil || len(entries) == 0 {
			return nil, err
		}
		newest := len(entries) - 1
		if span.Backwards {
			newest = 0
		}
		for _, i := range []int{0, newest} { // the oldest may be trimmed right now; the newest is the last to go
			index, err := r.index(ctx, l, entries[i].ID)
			if errors.Is(err, ErrTrimmed) {
				continue
			}
			if err != nil {
				return nil, err
			}
			for j := range entries {
				entries[j].Index = index + int64(j-i)
				if span.Backwards {
					entries[j].Index = index - int64(j-i)
				}
			}
			return entries, nil
		}
		if span.Backwards {
			return nil, nil // older ones are gone as well
		}
		span.From = entries[newest].ID.Next() // newer ones are still there
	}
	return nil, ErrTrimmed
}

// maxTrims is how often Range reads on when all that it has read was trimmed
// before it knew where that stood.
const maxTrims = 8

// read gives the entries of a step without their indexes.
func (r *Reader) read(ctx context.Context, l Log, span Span, limit int64) ([]Entry, error) {
	if span.To.Less(span.From) {
		return nil, nil
	}
	var found []redis.XMessage
	var err error
	if span.Backwards {
		found, err = r.rdb.XRevRangeN(ctx, l.Stream(), span.To.String(), span.From.String(), limit).Result()
	} else {
		found, err = r.rdb.XRangeN(ctx, l.Stream(), span.From.String(), span.To.String(), limit).Result()
	}
	if err != nil {
		return nil, fault.Unreachable(Dependency, err)
	}
	entries := make([]Entry, len(found))
	for i, m := range found {
		if entries[i], err = entry(l, m); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// Next is the lowest id after i.
func (i ID) Next() ID {
	if i.Sequence++; i.Sequence == 0 {
		i.Ms++
	}
	return i
}

// Prev is the highest id before i, which is not zero.
func (i ID) Prev() ID {
	if i.Sequence--; i.Sequence+1 == 0 {
		i.Ms--
	}
	return i
}

// entry reads a stream entry; its index is for the caller to find.
func entry(l Log, m redis.XMessage) (Entry, error) {
	id, err := ParseID(m.ID)
	if err != nil {
		return Entry{}, fault.Unreachable(Dependency, err)
	}
	record, _ := m.Values[l.Field()].(string) // a missing one is what Verify finds
	seal, _ := m.Values[SealField].(string)
	return Entry{Log: l, ID: id, Record: []byte(record), Seal: seal}, nil
}

// indexLua gives the index of an entry: KEYS the stream and its bundles, ARGV
// the id and its address. It counts in Redis, so that no record travels.
var indexLua = redis.NewScript(`
local found = redis.call('ZREVRANGEBYSCORE', KEYS[2], ARGV[2], '-inf', 'LIMIT', 0, 1)
if #found == 0 then
  return -1
end
local number, first = string.match(found[1], '^(%d+):(.*)$')
local entries = redis.call('XRANGE', KEYS[1], first, ARGV[1], 'COUNT', 256)
if #entries == 0 or entries[#entries][1] ~= ARGV[1] then
  return -1
end
return tonumber(number) * 256 + #entries - 1
`)

// bundleLua gives the number of the first bundle that is there, and the members
// of bundle ARGV[1] and the next one. KEYS: the bundles.
var bundleLua = redis.NewScript(`
local first = redis.call('ZRANGE', KEYS[1], 0, 0)
if #first == 0 then
  return {-1}
end
local number = tonumber(string.match(first[1], '^(%d+):'))
local n = tonumber(ARGV[1]) - number
if n < 0 then
  return {number}
end
local found = redis.call('ZRANGE', KEYS[1], n, n + 1)
return {number, found[1] or '', found[2] or ''}
`)

// index reports ErrTrimmed when the entry is not there.
func (r *Reader) index(ctx context.Context, l Log, id ID) (int64, error) {
	n, err := indexLua.Run(ctx, r.rdb, []string{l.Stream(), l.bundlesKey()}, id.String(), id.Sequence).Int64()
	if err != nil {
		return 0, fault.Unreachable(Dependency, err)
	}
	if n < 0 {
		return 0, ErrTrimmed
	}
	return n, nil
}

// At gives the entry with this index. It reports ErrTrimmed, or ErrDamaged when
// there is none where one should be.
func (r *Reader) At(ctx context.Context, l Log, index int64) (Entry, error) {
	entries, err := r.Entries(ctx, l, index/BundleSize, int(index%BundleSize)+1)
	if err != nil {
		return Entry{}, err
	}
	if int64(len(entries)) != index%BundleSize+1 {
		return Entry{}, fmt.Errorf("%w: %s has no entry %d", ErrDamaged, l, index)
	}
	return entries[len(entries)-1], nil
}

// Entries implements Source. It reports ErrTrimmed, and ErrDamaged for a bundle
// that is not known. Of a whole bundle it gives one entry more if something stands
// between its last one and the next bundle's first.
func (r *Reader) Entries(ctx context.Context, l Log, n int64, width int) ([]Entry, error) {
	if n < 0 || width < 1 || width > BundleSize {
		return nil, fmt.Errorf("%w: %s has no bundle %d of %d entries", ErrDamaged, l, n, width)
	}
	from, to, err := r.bundle(ctx, l, n)
	if err != nil {
		return nil, err
	}
	limit := int64(width)
	if width == BundleSize {
		limit++ // nothing should be there
	}
	found, err := r.rdb.XRangeN(ctx, l.Stream(), from, to, limit).Result()
	if err != nil {
		return nil, fault.Unreachable(Dependency, err)
	}
	if len(found) < width { // it may just have been trimmed
		if _, _, err := r.bundle(ctx, l, n); err != nil {
			return nil, err
		}
	}
	entries := make([]Entry, len(found))
	for i, m := range found {
		if entries[i], err = entry(l, m); err != nil {
			return nil, err
		}
		entries[i].Index = n*BundleSize + int64(i)
	}
	return entries, nil
}

// Extra gives the ids of what stands behind the first width entries of a bundle and
// should not, since the latest checkpoint accounts for everything up to there: at most
// one that was put in by whoever holds Redis.
func (r *Reader) Extra(ctx context.Context, l Log, n int64, width int) ([]ID, error) {
	entries, err := r.Entries(ctx, l, n, BundleSize)
	if err != nil || len(entries) <= width {
		return nil, err
	}
	e := entries[width]
	if width < BundleSize {
		signed, err := r.Checkpoints(ctx)
		if err != nil || e.ID.Sequence > signed.Sequence {
			return nil, err
		}
		c, err := ParseCheckpoint(signed.Of(l))
		if err != nil || c.Tree.N > n*BundleSize+int64(width) {
			return nil, err // they belong there
		}
	}
	return []ID{e.ID}, nil
}

// bundle gives the ids between which a bundle's entries stand, as XRANGE takes them.
// Before the first bundle that is there nothing should stand: that is in it.
func (r *Reader) bundle(ctx context.Context, l Log, n int64) (from, to string, err error) {
	res, err := bundleLua.Run(ctx, r.rdb, []string{l.bundlesKey()}, n).Slice()
	if err != nil {
		return "", "", fault.Unreachable(Dependency, err)
	}
	oldest, _ := res[0].(int64)
	if oldest > n {
		return "", "", ErrTrimmed
	}
	if len(res) == 3 {
		from, _ = res[1].(string)
		to, _ = res[2].(string)
	}
	number, first, err := parseMember(from)
	if err != nil || number != n {
		return "", "", fmt.Errorf("%w: %s has no bundle %d", ErrDamaged, l, n)
	}
	from = first.String()
	if n == oldest {
		from = "-"
	}
	if to == "" {
		return from, "+", nil
	}
	_, next, err := parseMember(to)
	return from, "(" + next.String(), err
}

// Tile implements Source. It reports ErrDamaged when fewer hashes are there.
func (r *Reader) Tile(ctx context.Context, l Log, t tlog.Tile) ([]byte, error) {
	if t.H != TileHeight || t.L < 0 || t.L > 63 || t.N < 0 || t.W < 1 || t.W > BundleSize {
		return nil, fmt.Errorf("%w: no such tile %v", ErrDamaged, t)
	}
	want := int64(t.W) * tlog.HashSize
	b, err := r.rdb.GetRange(ctx, l.tileKey(t.L, t.N), 0, want-1).Bytes()
	if err != nil {
		return nil, fault.Unreachable(Dependency, err)
	}
	if int64(len(b)) != want {
		return nil, fmt.Errorf("%w: %s of %s has %d bytes, want %d", ErrDamaged, TilePath(t), l, len(b), want)
	}
	return b, nil
}

// Checkpoints implements Source.
func (r *Reader) Checkpoints(ctx context.Context) (Signed, error) {
	m, err := r.rdb.HGetAll(ctx, CheckpointKey).Result()
	if err != nil {
		return Signed{}, fault.Unreachable(Dependency, err)
	}
	if m["decisions"] == "" || m["outcomes"] == "" {
		return Signed{}, ErrNoCheckpoint
	}
	sequence, err := strconv.ParseUint(m["sequence"], 10, 64)
	if err != nil {
		return Signed{}, fmt.Errorf("%w: %s: sequence %q", ErrDamaged, CheckpointKey, m["sequence"])
	}
	return Signed{[]byte(m["decisions"]), []byte(m["outcomes"]), sequence}, nil
}
