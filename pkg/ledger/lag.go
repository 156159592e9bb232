package ledger

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// maxLag is how many messages of commands Lag counts; what is beyond is more
// than any limit on it.
const maxLag = 1 << 20

// lag remembers how many events the messages after a position hold, so that a
// worker that is far behind does not have them counted again each time.
type lag struct {
	mu     sync.Mutex
	shards map[int]*counts
}

// counts are the messages of a shard that were counted, after a position.
type counts struct {
	from     events.Address
	messages []counted
}

type counted struct {
	sequence uint64
	events   int
}

// Lag gives, for each shard, how many commands stand after the positions given.
func (l *Ledger) Lag(ctx context.Context, positions map[int]events.Address) (map[int]uint64, error) {
	l.lag.mu.Lock()
	defer l.lag.mu.Unlock()
	out := make(map[int]uint64, l.cfg.Shards)
	for shard := range l.cfg.Shards {
		position := positions[shard]
		last, err := l.lastCommand(ctx, shard)
		if err != nil {
			return nil, err
		}
		before := l.lag.shards[shard]
		if before == nil || position < before.from { // of a database that was restored
			before = &counts{}
		}
		all := slices.DeleteFunc(before.messages, func(c counted) bool { return events.End(c.sequence) <= position })
		if last > position {
			if all, err = l.count(ctx, shard, position, events.SequenceOf(last), all); err != nil {
				return nil, err
			}
			for _, c := range all {
				if c.sequence == events.SequenceOf(position) {
					out[shard] += uint64(max(c.events-events.IndexOf(position)-1, 0))
				} else {
					out[shard] += uint64(c.events)
				}
			}
		} else {
			all = nil
			out[shard] = 0
		}
		l.lag.shards[shard] = &counts{position, all}
	}
	return out, nil
}

// count adds the messages of a shard that are not counted yet, up to a sequence.
func (l *Ledger) count(ctx context.Context, shard int, position events.Address, last uint64, all []counted) ([]counted, error) {
	start := max(events.SequenceOf(position), 1)
	if n := len(all); n > 0 {
		start = all[n-1].sequence + 1
	}
	if start > last || len(all) >= maxLag {
		return all, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	consumer, err := l.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: start, HeadersOnly: true,
		FilterSubjects: []string{events.CommandSubject(shard)}, InactiveThreshold: 10 * time.Second,
	})
	if err != nil {
		return nil, fault.Unreachable(Dependency, err)
	}
	msgs, err := consumer.Messages()
	if err != nil {
		return nil, fault.Unreachable(Dependency, err)
	}
	defer msgs.Stop()
	for len(all) < maxLag {
		m, err := msgs.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, fault.Unreachable(Dependency, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, fault.Unreachable(Dependency, err)
		}
		all = append(all, counted{meta.Sequence.Stream, events.Count(m.Headers().Get(events.HeaderLengths))})
		if meta.Sequence.Stream >= last {
			break
		}
	}
	return all, nil
}
