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

// stored is a message as it stands on one of the streams.
type stored struct {
	subject  string
	header   nats.Header
	data     []byte
	sequence uint64
}

// span is a stretch of a stream: sequences from lo to hi, both included.
type span struct{ lo, hi uint64 }

// read gives the records that match a subject in a span, the oldest first and at
// most so many; all tells whether those are all. Records are read by a consumer
// of their own, from the stream's leader.
func (s states) read(ctx context.Context, subject string, in span, most int) (found []stored, all bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	consumer, err := s.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{subject}, InactiveThreshold: 10 * time.Second,
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(in.lo, 1),
	})
	if err != nil {
		return nil, false, fault.Unreachable(Dependency, err)
	}
	info, err := consumer.Info(ctx)
	if err != nil {
		return nil, false, fault.Unreachable(Dependency, err)
	}
	defer func() { // else it stays for InactiveThreshold
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		_ = s.stream.DeleteConsumer(ctx, info.Name)
	}()
	if info.NumPending == 0 {
		return nil, true, nil
	}
	msgs, err := consumer.Messages(jetstream.PullMaxMessages(most))
	if err != nil {
		return nil, false, fault.Unreachable(Dependency, err)
	}
	defer msgs.Stop()
	for len(found) < most {
		m, err := msgs.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, false, fault.Unreachable(Dependency, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, false, fault.Unreachable(Dependency, err)
		}
		if meta.Sequence.Stream > in.hi {
			return found, true, nil
		}
		found = append(found, stored{m.Subject(), m.Headers(), m.Data(), meta.Sequence.Stream})
		if meta.NumPending == 0 {
			return found, true, nil
		}
	}
	return found, false, nil
}

// read is the same for the jobs' messages. They are read one by one from the
// stream: a work queue has no other readers than its workers.
func (c *Client) read(ctx context.Context, subject string, in span, most int) (found []stored, all bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// GetBatch subscribes before it asks, and keeps the subscription when it cannot ask.
	if !c.js.Conn().IsConnected() {
		return nil, false, fault.Unreachable(Dependency, nats.ErrDisconnected)
	}
	batch, err := jetstreamext.GetBatch(ctx, c.js, events.StreamJobs, most, jetstreamext.GetBatchSeq(max(in.lo, 1)), jetstreamext.GetBatchSubject(subject))
	if errors.Is(err, jetstreamext.ErrNoMessages) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, fault.Unreachable(Dependency, err)
	}
	for m, err := range batch {
		switch {
		case errors.Is(err, jetstreamext.ErrNoMessages):
			return found, true, nil
		case err != nil:
			return nil, false, fault.Unreachable(Dependency, err)
		case m.Sequence > in.hi:
			return found, true, nil
		}
		found = append(found, stored{m.Subject, m.Header, m.Data, m.Sequence})
		// The server leaves out what does not fit and says how much that is.
		all = m.Header.Get("Nats-Num-Pending") == "0"
	}
	return found, all || len(found) == 0, nil
}
