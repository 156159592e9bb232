package audit

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// The indexes are strings of fixed records in buckets, so that a batch of
// entries costs a few appends and a look-up one read. They find; what they
// find is read from the stream, and the proofs do not rest on them.
const (
	bucketMs        = 10 // ids: 2^10 ms of UUIDv7 time share a bucket
	bucketCommands  = 14 // commands: 2^14 ledger addresses are 64 messages, at most 400 kB
	bucketExplained = 24 // explained: 2^24 ledger addresses are 2^16 messages, about 1 MB

	idRecord        = 16 + 8 + 8 // a decision's id; the entry's ms and address
	commandRecord   = 8 + 8 + 8  // the command's address; the outcome's ms and address
	explainedRecord = 8 + 8 + 1  // first, last, why
)

// bucket is one string of the indexes.
type bucket struct {
	stream, what string
	n            uint64
}

func (b bucket) key() string { return b.stream + b.what + strconv.FormatUint(b.n, 10) }

// ids is the bucket of a decision's id: in the log of decisions it leads to
// the decision, in that of outcomes to the outcome that acted on it.
func (l Log) ids(id uuid.UUID) bucket {
	ms := uint64(binary.BigEndian.Uint16(id[:]))<<32 | uint64(binary.BigEndian.Uint32(id[2:])) // RFC 9562, 5.7
	return bucket{l.Stream(), ":ids:", ms >> bucketMs}
}

// commands is the bucket that leads from a command's ledger address to its outcome.
func commands(address events.Address) bucket {
	return bucket{Outcomes.Stream(), ":commands:", address >> bucketCommands}
}

// explained is the bucket of explained ranges that begin there.
func explained(address events.Address) bucket {
	return bucket{"writ", ":explained:", address >> bucketExplained}
}

// index gives the index writes of a batch: key, seconds to live, bytes.
func (a *Appender) index(b Batch) []any {
	at, order, records := map[bucket]int{}, []bucket(nil), [][]byte(nil)
	in := func(k bucket) *[]byte {
		i, ok := at[k]
		if !ok {
			i = len(order)
			at[k], order, records = i, append(order, k), append(records, nil)
		}
		return &records[i]
	}
	for i := range b.Items {
		item := &b.Items[i]
		if id, err := uuid.Parse(item.DecisionID); err == nil {
			p := in(item.Log.ids(id))
			*p = item.ID.append(append(*p, id[:]...))
		}
		if item.Log == Outcomes {
			p := in(commands(item.Command))
			*p = item.ID.append(binary.BigEndian.AppendUint64(*p, item.Command))
		}
	}
	forever := len(order)
	for _, x := range b.Explained {
		for x.First <= x.Last { // a range does not leave its bucket
			end := min(x.Last, (x.First>>bucketExplained+1)<<bucketExplained-1)
			p := in(explained(x.First))
			*p = append(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(*p, x.First), end), byte(x.Why))
			x.First = end + 1
		}
	}
	ttl := 0
	if a.retention > 0 { // ids are older than their entries: a day is far beyond that
		ttl = int((a.retention + 24*time.Hour).Seconds())
	}
	out := make([]any, 0, 3*len(order))
	for i, k := range order {
		if i == forever {
			ttl = 0
		}
		out = append(out, k.key(), ttl, records[i])
	}
	return out
}

// append writes the id as the indexes hold it.
func (i ID) append(to []byte) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(to, i.Ms), i.Sequence)
}

// Get gives the decision with this id. Only UUIDs are indexed, which all of
// writ's decisions have. It reports fault.NotFound, also for one that is
// trimmed.
func (r *Reader) Get(ctx context.Context, decisionID string) (Entry, error) {
	return r.byID(ctx, Decisions, decisionID)
}

// OutcomeActingOn gives the outcome of the command that was acted on by the
// decision with this id. It reports fault.NotFound where there is none (yet).
func (r *Reader) OutcomeActingOn(ctx context.Context, decisionID string) (Entry, error) {
	return r.byID(ctx, Outcomes, decisionID)
}

func (r *Reader) byID(ctx context.Context, l Log, text string) (Entry, error) {
	id, err := uuid.Parse(text)
	if err != nil || id.String() != text {
		return Entry{}, fault.Missing(l.Field(), text)
	}
	return r.lookUp(ctx, l, l.ids(id).key(), id[:], idRecord, text)
}

// OutcomeOf gives the outcome of the command whose decision stands at this
// ledger address (its entry's ID.Sequence). It reports fault.NotFound where
// there is none (yet).
func (r *Reader) OutcomeOf(ctx context.Context, address events.Address) (Entry, error) {
	return r.lookUp(ctx, Outcomes, commands(address).key(), binary.BigEndian.AppendUint64(nil, address), commandRecord, fmt.Sprint("of ", address))
}

// lookUp finds a record that begins with want in a bucket, and its entry.
func (r *Reader) lookUp(ctx context.Context, l Log, bucket string, want []byte, size int, name string) (Entry, error) {
	b, err := r.rdb.Get(ctx, bucket).Bytes()
	if err != nil && !errors.Is(err, redis.Nil) {
		return Entry{}, fault.Unreachable(Dependency, err)
	}
	for ; len(b) >= size; b = b[size:] {
		if !bytes.HasPrefix(b, want) {
			continue
		}
		at := b[len(want):]
		id := ID{binary.BigEndian.Uint64(at), binary.BigEndian.Uint64(at[8:])}
		entries, err := r.Range(ctx, l, Span{From: id, To: id, Limit: 1})
		if err != nil || len(entries) == 1 {
			return first(entries), err
		}
	}
	return Entry{}, fault.Missing(l.Field(), name)
}

func first(entries []Entry) Entry {
	if len(entries) == 0 {
		return Entry{}
	}
	return entries[0]
}

// ByAddress gives the entry with this ledger address. It reports
// fault.NotFound where the log has none, also for one that is trimmed.
func (r *Reader) ByAddress(ctx context.Context, l Log, address events.Address) (Entry, error) {
	ids, err := r.rdb.ZRevRangeByScore(ctx, l.bundlesKey(), &redis.ZRangeBy{Min: "-inf", Max: fmt.Sprint(address), Count: 1}).Result()
	if err != nil {
		return Entry{}, fault.Unreachable(Dependency, err)
	}
	if len(ids) == 1 {
		_, from, err := parseMember(ids[0])
		if err != nil {
			return Entry{}, err
		}
		entries, err := r.Range(ctx, l, Span{From: from, To: MaxID, Limit: BundleSize})
		if err != nil {
			return Entry{}, err
		}
		for _, e := range entries {
			if e.ID.Sequence == address {
				return e, nil
			}
		}
	}
	return Entry{}, fault.Missing(l.Field(), fmt.Sprint("at ", address))
}

// Explained implements Source: one bucket at a time.
func (r *Reader) Explained(ctx context.Context, from events.Address) (ranges []Range, next events.Address, err error) {
	s, err := r.State(ctx)
	if err != nil {
		return nil, 0, err
	}
	b, err := r.rdb.Get(ctx, explained(from).key()).Bytes()
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, 0, fault.Unreachable(Dependency, err)
	}
	for ; len(b) >= explainedRecord; b = b[explainedRecord:] {
		x := Range{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), Why(b[16])}
		if x.Last >= from {
			ranges = append(ranges, x)
		}
	}
	if next = (from>>bucketExplained + 1) << bucketExplained; next > s.Sequence {
		next = 0
	}
	return ranges, next, nil
}
