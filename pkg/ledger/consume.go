package ledger

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/fault"
)

// How the consumers of Consume behave.
const (
	consumeAckWait = 30 * time.Second
	consumePending = 256
	consumeBuffer  = 64
	pullExpiry     = time.Second
	// consumePause is the longest pause before a message is given to fn again.
	consumePause = 30 * time.Second
)

// Consume hands every event of the ledger on the subjects to fn, at least once,
// whatever is restarted: name is a durable consumer, which all processes share.
// A message counts as done when fn has returned nil for each event in it; after an
// error all of it comes again, later, while others go on, so fn must not rely on order. It returns when ctx ends;
// outages are waited out.
func (l *Ledger) Consume(ctx context.Context, name string, subjects []string, fn func(context.Context, Record) error) error {
	for ctx.Err() == nil {
		consumer, err := l.sharedConsumer(ctx, name, subjects)
		if err == nil {
			err = consume(ctx, consumer, fn)
		}
		if err != nil && ctx.Err() == nil {
			pause(ctx, 250*time.Millisecond) // an outage: do not spin
		}
	}
	return nil
}

func (l *Ledger) sharedConsumer(ctx context.Context, name string, subjects []string) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.AppendTimeout)
	defer cancel()
	c, err := KeepConsumer(ctx, l.stream, jetstream.ConsumerConfig{
		Durable: name, FilterSubjects: subjects, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: consumeAckWait, MaxDeliver: -1, MaxAckPending: consumePending,
	})
	if err != nil {
		return nil, fault.Unreachable(Dependency, err)
	}
	return c, nil
}

// exists reports whether the consumer is still there, as far as that can be
// told: one that was deleted while the connection was away says nothing.
func exists(ctx context.Context, consumer jetstream.Consumer) bool {
	ctx, cancel := context.WithTimeout(ctx, pullExpiry)
	defer cancel()
	_, err := consumer.Info(ctx)
	return !errors.Is(err, jetstream.ErrConsumerNotFound)
}

// consume pumps one consumer's messages until ctx ends or the consumer fails.
func consume(ctx context.Context, consumer jetstream.Consumer, fn func(context.Context, Record) error) error {
	msgs, err := consumer.Messages(jetstream.PullMaxMessages(consumeBuffer), jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(pullExpiry/2))
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, msgs.Stop)
	defer stop()
	defer msgs.Stop()
	for ctx.Err() == nil {
		m, err := msgs.Next()
		if err != nil {
			if errors.Is(err, jetstream.ErrNoHeartbeat) && exists(ctx, consumer) {
				continue // the iterator pulls again by itself
			}
			return err
		}
		all, meta, err := delivered(m)
		if err != nil {
			return err
		}
		one, cancel := context.WithTimeout(ctx, consumeAckWait/2)
		for i := 0; err == nil && i < len(all); i++ {
			err = fn(one, all[i])
		}
		cancel()
		if err == nil {
			_ = m.Ack() // lost: it comes again
			continue
		}
		wait := min(time.Second<<min(meta.NumDelivered-1, 10), consumePause)
		_ = m.NakWithDelay(wait)
	}
	return ctx.Err()
}
