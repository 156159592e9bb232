package ledger

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// Limits of one batch that Follow hands over, of what it keeps ready for the
// next one, and (bytes) of what the connection holds for it.
const (
	followMessages = 1024
	followBytes    = 8 << 20
)

// Follow hands every message of the ledger from sequence from (inclusive) to
// fn, in order, without a gap, in batches of what is there. It returns when ctx
// ends, when fn reports an error, or when the reader fails; the caller follows
// again from where it knows it is. A batch never mixes messages across a
// detected gap: a gap is an error.
func (l *Ledger) Follow(ctx context.Context, from uint64, fn func(context.Context, []Record) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	from = max(from, 1)
	consumer, err := l.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       from,
		InactiveThreshold: 10 * time.Second,
	})
	if err != nil {
		return fault.Unreachable(Dependency, err)
	}
	msgs, err := consumer.Messages(jetstream.PullMaxBytes(followBytes))
	if err != nil {
		return fault.Unreachable(Dependency, err)
	}
	defer msgs.Stop()

	ready := &gathered{some: make(chan struct{}, 1), taken: make(chan struct{}, 1)}
	failed := make(chan error, 1)
	pumped := make(chan struct{})
	go func() {
		defer close(pumped)
		failed <- pump(ctx, msgs, ready)
	}()
	defer func() { // the pump ends before Follow does
		cancel()
		msgs.Stop()
		<-pumped
	}()

	next := from
	for {
		select {
		case <-ready.some:
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
		batch := ready.take()
		for _, r := range batch {
			// The reader covers every subject of the stream, and nothing can be
			// deleted from it, so sequences follow each other. Only the start may
			// lie before what the ledger still holds.
			if r.Sequence != next && next != from {
				return fmt.Errorf("the ledger has a gap: %d follows %d", r.Sequence, next-1)
			}
			next = r.Sequence + 1
		}
		if len(batch) == 0 { // they were there the last time
			continue
		}
		if err := fn(ctx, batch); err != nil {
			return err
		}
	}
}

// gathered is the batch that is being made ready while the one before is worked on.
type gathered struct {
	mu      sync.Mutex
	records []Record
	bytes   int
	some    chan struct{} // filled when there are records
	taken   chan struct{} // filled when there is room again
}

// add waits for room.
func (g *gathered) add(ctx context.Context, r Record) error {
	g.mu.Lock()
	for len(g.records) >= followMessages || g.bytes > 0 && g.bytes+len(r.Data) > followBytes {
		g.mu.Unlock()
		select {
		case <-g.taken:
		case <-ctx.Done():
			return ctx.Err()
		}
		g.mu.Lock()
	}
	g.records, g.bytes = append(g.records, r), g.bytes+len(r.Data)
	g.mu.Unlock()
	signal(g.some)
	return nil
}

// take gives what there is.
func (g *gathered) take() []Record {
	g.mu.Lock()
	batch := g.records
	g.records, g.bytes = make([]Record, 0, len(batch)), 0 // the next one may be as large
	g.mu.Unlock()
	signal(g.taken)
	return batch
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func pump(ctx context.Context, msgs jetstream.MessagesContext, to *gathered) error {
	for {
		m, err := msgs.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fault.Unreachable(Dependency, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fault.Unreachable(Dependency, err)
		}
		if err := to.add(ctx, record(m, meta)); err != nil {
			return err
		}
	}
}

// Contains tells which of the ids stand on the ledger at or after sequence
// from, on the subjects given. It reads them all: it is meant for the rare
// repeat of a publish that is older than DedupWindow.
func (l *Ledger) Contains(ctx context.Context, from uint64, subjects []string, ids map[string]bool) (map[string]bool, error) {
	found := map[string]bool{}
	err := l.find(ctx, from, subjects, ids, true, func(id string, _ Record) { found[id] = true })
	return found, err
}

// Recorded gives the messages with the ids that stand on the ledger at or after
// sequence from, on the subjects given. It stops when it has found them all.
func (l *Ledger) Recorded(ctx context.Context, from uint64, subjects []string, ids map[string]bool) (map[string]Record, error) {
	found := map[string]Record{}
	err := l.find(ctx, from, subjects, ids, false, func(id string, r Record) { found[id] = r })
	return found, err
}

// find reads the subjects from a sequence on until it has seen every id or the
// end of the ledger as it is now.
func (l *Ledger) find(ctx context.Context, from uint64, subjects []string, ids map[string]bool, headersOnly bool, seen func(string, Record)) error {
	last, err := l.Last(ctx)
	if err != nil || last < from || len(ids) == 0 {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	consumer, err := l.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(from, 1),
		FilterSubjects: subjects, HeadersOnly: headersOnly, InactiveThreshold: 10 * time.Second,
	})
	if err != nil {
		return fault.Unreachable(Dependency, err)
	}
	if info, err := consumer.Info(ctx); err != nil {
		return fault.Unreachable(Dependency, err)
	} else if info.NumPending == 0 {
		return nil
	}
	msgs, err := consumer.Messages()
	if err != nil {
		return fault.Unreachable(Dependency, err)
	}
	defer msgs.Stop()
	left := maps.Clone(ids)
	for len(left) > 0 {
		m, err := msgs.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fault.Unreachable(Dependency, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fault.Unreachable(Dependency, err)
		}
		if id := m.Headers().Get(nats.MsgIdHdr); left[id] {
			delete(left, id)
			seen(id, record(m, meta))
		}
		if meta.NumPending == 0 || meta.Sequence.Stream >= last {
			break
		}
	}
	return nil
}

// Unapplied looks for the command with the given id among those of all
// partitions that stand after the positions given, at most limit of them.
// It reports whether it was found and whether everything was looked at.
func (l *Ledger) Unapplied(ctx context.Context, positions map[int]uint64, commandID string, limit int) (rec Record, found, complete bool, err error) {
	last, err := l.Last(ctx)
	if err != nil {
		return Record{}, false, false, err
	}
	for p := range events.Partitions {
		from := positions[p] + 1
		for limit > 0 {
			tail, err := l.lastOf(ctx, p)
			if err != nil {
				return Record{}, false, false, err
			}
			to := min(tail, last)
			if from > to {
				break
			}
			records, more, err := l.Range(ctx, p, from, to, min(limit, maxGroup))
			if err != nil {
				return Record{}, false, false, err
			}
			for _, r := range records {
				if r.Header.Get(nats.MsgIdHdr) == commandID {
					return r, true, true, nil
				}
				from = r.Sequence + 1
			}
			limit -= max(len(records), 1)
			if !more {
				break
			}
		}
	}
	return Record{}, false, limit > 0, nil
}

// lastOf gives the sequence of the last command of a partition, 0 for none.
func (l *Ledger) lastOf(ctx context.Context, partition int) (uint64, error) {
	m, err := l.stream.GetLastMsgForSubject(ctx, events.PartitionFilter(partition))
	if isNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fault.Unreachable(Dependency, err)
	}
	return m.Sequence, nil
}

// LastOn gives the last message on a subject, which may hold wildcards, and
// whether there is one. Of a cluster it may be a replica's view, a little older.
func (l *Ledger) LastOn(ctx context.Context, subject string) (rec Record, found bool, err error) {
	m, err := l.stream.GetLastMsgForSubject(ctx, subject)
	if isNotFound(err) {
		return Record{}, false, nil
	}
	if err != nil {
		return Record{}, false, fault.Unreachable(Dependency, err)
	}
	return Record{Sequence: m.Sequence, Subject: m.Subject, Header: m.Header, Data: m.Data, Time: m.Time}, true, nil
}
