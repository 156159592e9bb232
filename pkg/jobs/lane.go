package jobs

import (
	"context"
	"errors"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// A lane is one of many queues that do the same for different owners, such as
// the deliveries to one webhook: each has its own consumer, so that jobs that
// wait for their next attempt are in nobody else's way. Lanes are named
// <what>--<whose>; metrics take all lanes of a sort together as <what>.

// label is a queue's name in metrics.
func label(queue string) string {
	what, _, _ := strings.Cut(queue, "--")
	return what
}

// Apart gives a client for queues that come and go while others run: it shares
// the streams and the metrics with c, has no queues yet, and is run and stopped
// by itself.
func (c *Client) Apart() *Client {
	return &Client{js: c.js, stream: c.stream, states: c.states, cfg: c.cfg, metrics: c.metrics, queues: map[string]*registered{}}
}

// Waiting tells how many jobs of a queue wait or run; 0 for one that no worker
// ever served.
func (c *Client) Waiting(ctx context.Context, queue string) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	consumer, err := c.stream.Consumer(ctx, consumerName(queue))
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fault.Unreachable(Dependency, err)
	}
	info := consumer.CachedInfo()
	return info.NumPending + uint64(max(info.NumAckPending, 0)), nil
}

// Room tells how much of the room for jobs is taken and how much there is, all
// queues together: in jobs or in bytes, whichever is scarcer.
func (c *Client) Room(ctx context.Context) (taken, all uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := c.stream.Info(ctx)
	if err != nil {
		return 0, 0, fault.Unreachable(Dependency, err)
	}
	taken, all = info.State.Msgs, uint64(max(info.Config.MaxMsgs, 1))
	if bytes, most := info.State.Bytes, uint64(max(info.Config.MaxBytes, 1)); float64(bytes)/float64(most) > float64(taken)/float64(all) {
		taken, all = bytes, most
	}
	return taken, all, nil
}

// Drop takes a queue away whose owner is gone: what waits on it is not run, what
// is known of its jobs is forgotten. Jobs that run must have been stopped.
// Dropping it again, or one that never was, is no error.
func (c *Client) Drop(ctx context.Context, queue string) error {
	if !queueName.MatchString(queue) {
		return fault.Missing("queue", queue)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := c.stream.Purge(ctx, jetstream.WithPurgeSubject(events.JobSubject(queue, "*"))); err != nil {
		return fault.Unreachable(Dependency, err)
	}
	if err := c.stream.DeleteConsumer(ctx, consumerName(queue)); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fault.Unreachable(Dependency, err)
	}
	if err := c.states.stream.Purge(ctx, jetstream.WithPurgeSubject(stateSubject(queue, "*"))); err != nil {
		return fault.Unreachable(Dependency, err)
	}
	return nil
}

// Exhaust says that a job was tried enough although there are attempts left: it
// ends as after the last one, with a dead letter.
func Exhaust(err error) error { return &exhausted{err} }

type exhausted struct{ err error }

func (e *exhausted) Error() string { return e.err.Error() }
func (e *exhausted) Unwrap() error { return e.err }
