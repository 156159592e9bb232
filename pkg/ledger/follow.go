package ledger

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// Limits of one batch that Follow hands over, of what it keeps ready for the
// next one, and (bytes) of what the connection holds for it.
const (
	followEvents = 1024
	followBytes  = 8 << 20
)

// stopWait is how long a reader that is told to stop may take to notice.
const stopWait = time.Second

// Follow hands every event of the ledger from an address (inclusive) on to fn,
// in order, without a gap, in batches of what is there: whole messages, but for
// the beginning of the first one. It returns when ctx ends, when fn reports an
// error, or when the reader fails; the caller follows again from where it knows
// it is.
func (l *Ledger) Follow(ctx context.Context, from events.Address, fn func(context.Context, []Record) error) error {
	return l.follow(ctx, from, nil, fn)
}

// FollowShard is Follow for the commands of one shard. It does not wait for
// acknowledgements: who reads knows where it is.
func (l *Ledger) FollowShard(ctx context.Context, shard int, from events.Address, fn func(context.Context, []Record) error) error {
	return l.follow(ctx, from, []string{events.CommandSubject(shard)}, fn)
}

func (l *Ledger) follow(ctx context.Context, start events.Address, subjects []string, fn func(context.Context, []Record) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	consumer, err := l.ordered(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       max(events.SequenceOf(start), 1),
		FilterSubjects:    subjects,
		InactiveThreshold: 10 * time.Second,
	})
	if err != nil {
		return err
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
		failed <- pump(ctx, msgs, start, ready)
	}()
	defer func() { // the pump ends before Follow does
		cancel()
		// The reader is stopped when nobody reads: a Stop while it begins anew would
		// leave what it has just begun running for ever (nats.go 1.55, ordered.go). One
		// that cannot begin, in an outage, must not hold up a stop.
		select {
		case <-pumped:
		case <-time.After(stopWait):
		}
		msgs.Stop()
		<-pumped
	}()

	next := uint64(0)
	for {
		select {
		case <-ready.some:
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
		batch := ready.take()
		if len(batch) == 0 { // they were there the last time
			continue
		}
		if subjects == nil {
			// The reader covers every subject of the stream, and nothing can be
			// deleted from it, so sequences follow each other. Only the start may
			// lie before what the ledger still holds.
			for _, r := range batch {
				if seq := events.SequenceOf(r.Address); next != 0 && seq > next {
					return fmt.Errorf("the ledger has a gap: %d follows %d", seq, next-1)
				} else if next = seq; r.Last {
					next++
				}
			}
		}
		if err := fn(ctx, batch); err != nil {
			return err
		}
	}
}

// ordered makes a consumer that reads in order. It does not wait longer than an
// append for the server, which may have died with the request.
func (l *Ledger) ordered(ctx context.Context, cfg jetstream.OrderedConsumerConfig) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.AppendTimeout)
	defer cancel()
	consumer, err := l.stream.OrderedConsumer(ctx, cfg)
	if err != nil {
		return nil, fault.Unreachable(Dependency, err)
	}
	return consumer, nil
}

// gathered is the batch that is being made ready while the one before is worked on.
type gathered struct {
	mu      sync.Mutex
	records []Record
	bytes   int
	some    chan struct{} // filled when there are records
	taken   chan struct{} // filled when there is room again
}

// add waits for room and takes the events of one message.
func (g *gathered) add(ctx context.Context, all []Record) error {
	size := 0
	for _, r := range all {
		size += len(r.Data)
	}
	g.mu.Lock()
	for len(g.records) > 0 && (len(g.records)+len(all) > followEvents || g.bytes+size > followBytes) {
		g.mu.Unlock()
		select {
		case <-g.taken:
		case <-ctx.Done():
			return ctx.Err()
		}
		g.mu.Lock()
	}
	g.records, g.bytes = append(g.records, all...), g.bytes+size
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

func pump(ctx context.Context, msgs jetstream.MessagesContext, start events.Address, to *gathered) error {
	for {
		m, err := msgs.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fault.Unreachable(Dependency, err)
		}
		all, _, err := delivered(m)
		if err != nil {
			return fault.Unreachable(Dependency, err)
		}
		if all = from(all, start); len(all) == 0 {
			continue
		}
		if err := to.add(ctx, all); err != nil {
			return err
		}
	}
}
