package ledger

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/fault"
)

// batchWait is how long one request for messages waits.
const batchWait = time.Second

// ConsumeBatches is Consume with the events of as many messages at a time as are
// there (at most 256), for a reader that asks something of a database before it can tell
// what a message is to it. What fn has read before it was called is older than
// the database that it sees: an answer holds for all of the batch. The durable
// consumer starts with what was stored at since or later; one that is there
// already goes on where it is. After an error of fn the batch comes again.
func (l *Ledger) ConsumeBatches(ctx context.Context, name string, subjects []string, since time.Time, fn func(context.Context, []Record) error) error {
	for ctx.Err() == nil {
		consumer, err := l.consumerSince(ctx, name, subjects, since)
		for err == nil && ctx.Err() == nil {
			err = consumeBatch(ctx, consumer, fn)
		}
		if err != nil && ctx.Err() == nil {
			pause(ctx, 250*time.Millisecond) // an outage: do not spin
		}
	}
	return nil
}

func (l *Ledger) consumerSince(ctx context.Context, name string, subjects []string, since time.Time) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.AppendTimeout)
	defer cancel()
	c, err := l.stream.Consumer(ctx, name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		c, err = l.stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
			Durable: name, FilterSubjects: subjects, AckPolicy: jetstream.AckExplicitPolicy,
			DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since,
			AckWait: consumeAckWait, MaxDeliver: -1, MaxAckPending: 4 * consumePending,
		})
		if errors.Is(err, jetstream.ErrConsumerExists) { // another process was faster, with another start
			c, err = l.stream.Consumer(ctx, name)
		}
	} else if err == nil && !slices.Equal(c.CachedInfo().Config.FilterSubjects, subjects) {
		cfg := c.CachedInfo().Config
		cfg.FilterSubjects = subjects
		c, err = l.stream.UpdateConsumer(ctx, cfg)
	}
	if err != nil {
		return nil, fault.Unreachable(Dependency, err)
	}
	return c, nil
}

// consumeBatch waits for a message and takes what else is there.
func consumeBatch(ctx context.Context, consumer jetstream.Consumer, fn func(context.Context, []Record) error) error {
	msgs, err := fetched(consumer.Fetch(1, jetstream.FetchMaxWait(batchWait)))
	if err != nil || len(msgs) == 0 {
		return err
	}
	more, err := fetched(consumer.FetchNoWait(consumePending - 1))
	if err != nil {
		more = nil // what came is worked on, the rest comes again
	}
	msgs = append(msgs, more...)
	if ctx.Err() != nil { // they came while we were told to stop
		later(msgs, 0)
		return nil
	}
	var records []Record
	deliveries := uint64(1)
	for _, m := range msgs {
		all, meta, err := delivered(m)
		if err != nil {
			return err
		}
		records = append(records, all...)
		deliveries = max(deliveries, meta.NumDelivered)
	}
	one, cancel := context.WithTimeout(ctx, consumeAckWait/2)
	defer cancel()
	if err := fn(one, records); err != nil {
		later(msgs, min(250*time.Millisecond<<min(deliveries-1, 10), consumePause))
		return nil
	}
	for _, m := range msgs {
		_ = m.Ack() // lost: it comes again
	}
	return nil
}

// fetched gives the messages of one request.
func fetched(batch jetstream.MessageBatch, err error) ([]jetstream.Msg, error) {
	if err != nil {
		return nil, err
	}
	var msgs []jetstream.Msg
	for m := range batch.Messages() {
		msgs = append(msgs, m)
	}
	if len(msgs) > 0 {
		return msgs, nil
	}
	return nil, batch.Error()
}

func later(msgs []jetstream.Msg, d time.Duration) {
	for _, m := range msgs {
		_ = m.NakWithDelay(max(d, time.Millisecond)) // lost: it comes again after the ack wait
	}
}
