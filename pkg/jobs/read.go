package jobs

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// maxListed bounds the messages of each stream that one List looks at.
const maxListed = 20_000

// each hands the records that match a subject to fn, at most maxListed of them;
// all tells whether those were all.
func (s states) each(ctx context.Context, subject string, fn func(data []byte, revision uint64)) (all bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	consumer, err := s.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}, InactiveThreshold: 10 * time.Second})
	if err != nil {
		return false, fault.Unreachable(Dependency, err)
	}
	info, err := consumer.Info(ctx)
	if err != nil {
		return false, fault.Unreachable(Dependency, err)
	}
	defer func() { // else it stays for InactiveThreshold
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		_ = s.stream.DeleteConsumer(ctx, info.Name)
	}()
	if info.NumPending == 0 {
		return true, nil
	}
	msgs, err := consumer.Messages()
	if err != nil {
		return false, fault.Unreachable(Dependency, err)
	}
	defer msgs.Stop()
	for range maxListed {
		m, err := msgs.Next(jetstream.NextContext(ctx))
		if err != nil {
			return false, fault.Unreachable(Dependency, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return false, fault.Unreachable(Dependency, err)
		}
		fn(m.Data(), meta.Sequence.Stream)
		if meta.NumPending == 0 {
			return true, nil
		}
	}
	return false, nil
}

// waiting hands the messages of JOBS that match a subject to fn, at most
// maxListed of them; all tells whether those were all. They are read one
// by one from the stream: a work queue has no other readers than its workers.
func (c *Client) waiting(ctx context.Context, subject string, fn func(data []byte, sequence uint64)) (all bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// GetBatch subscribes before it asks, and keeps the subscription when it cannot ask.
	if !c.js.Conn().IsConnected() {
		return false, fault.Unreachable(Dependency, nats.ErrDisconnected)
	}
	const page = 500
	next := uint64(1)
	for seen := 0; seen < maxListed; {
		batch, err := jetstreamext.GetBatch(ctx, c.js, events.StreamJobs, page, jetstreamext.GetBatchSeq(next), jetstreamext.GetBatchSubject(subject))
		if errors.Is(err, jetstreamext.ErrNoMessages) {
			return true, nil
		}
		if err != nil {
			return false, fault.Unreachable(Dependency, err)
		}
		got := 0
		for m, err := range batch {
			if errors.Is(err, jetstreamext.ErrNoMessages) {
				break
			}
			if err != nil {
				return false, fault.Unreachable(Dependency, err)
			}
			fn(m.Data, m.Sequence)
			next = m.Sequence + 1
			got++
		}
		if got == 0 {
			return true, nil
		}
		seen += got
	}
	return false, nil
}
