package jobs

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// QueueInfo is how a queue is doing.
type QueueInfo struct {
	Name    string `json:"name"`
	Waiting uint64 `json:"waiting"` // jobs that wait or run
	Paused  bool   `json:"paused"`
}

// Show gives one job; fault.NotFound when there is none, or no longer.
func (c *Client) Show(ctx context.Context, id string) (Job, error) {
	j, err := c.find(ctx, id)
	if err != nil {
		return Job{}, err
	}
	paused, err := c.isPaused(ctx, j.Queue)
	if err != nil {
		return Job{}, err
	}
	j.show(paused)
	return *j, nil
}

// find looks for a job in the records and on JOBS. Ids are unique across queues.
func (c *Client) find(ctx context.Context, id string) (*Job, error) {
	if id == "" || strings.ContainsAny(id, ".*> \t\r\n") {
		return nil, fault.Missing("job", id)
	}
	const most = 16 // queues that have had a job of this id
	all := span{hi: math.MaxUint64}
	var found *Job
	records, _, err := c.states.read(ctx, stateSubject("*", id), all, most)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		found = c.states.decode(r)
	}
	messages, _, err := c.read(ctx, events.JobSubject("*", id), all, most)
	if err != nil {
		return nil, err
	}
	for _, r := range messages {
		m, err := c.parse(r.subject, r.header, r.data)
		if err != nil || found != nil && found.Sequence >= r.sequence {
			continue
		}
		revision := uint64(0)
		if found != nil {
			revision = found.revision
		}
		found = m.job(r.sequence)
		found.revision = revision
	}
	if found == nil || found.Status == "" {
		return nil, fault.Missing("job", id)
	}
	return found, nil
}

// Cancel ends a job that waits or runs. A handler that runs sees its context
// end within two seconds; what it did until then stays done. fault.KindConflict for
// a job that is over.
func (c *Client) Cancel(ctx context.Context, id, by string) (Job, error) {
	return c.change(ctx, id, func(j *Job) error {
		if j.Status.Final() {
			return fault.Conflict("job-over", "job %s is %s already", id, j.Status)
		}
		j.Status, j.FinishedAt, j.NotBefore, j.Error = Cancelled, now(), time.Time{}, "cancelled by "+by
		if err := c.states.put(ctx, j); err != nil {
			return err
		}
		return c.remove(ctx, j.Sequence)
	})
}

// Retry has a job that is over, or that waits for its next attempt, run at
// once, with all its attempts before it. fault.KindConflict for one that runs
// or waits for its first.
func (c *Client) Retry(ctx context.Context, id string) (Job, error) {
	return c.change(ctx, id, func(j *Job) error {
		if j.Status == Running || j.Status == Queued {
			return fault.Conflict("job-"+string(j.Status), "job %s is %s", id, j.Status)
		}
		m := message{ID: j.ID, Queue: j.Queue, Key: j.Key, Tenant: j.Tenant, Payload: j.Payload, EnqueuedAt: now()}
		before := uint64(0) // the message of one that is over is gone
		if j.Status == Retrying {
			before = j.Sequence
		}
		// First the new message, then away with the old one: a full stream, or a death in
		// between, leaves the job as it was or delivers it twice.
		sequence, added, err := c.publish(ctx, m, before)
		if err == nil && !added && before > 0 {
			sequence, added, err = c.publish(ctx, m, 0)
		}
		if err != nil {
			return err
		}
		if !added {
			return errChanged // somebody else was faster: look again
		}
		revision := j.revision
		*j = *m.job(sequence)
		j.revision = revision
		if err := c.states.put(ctx, j); err != nil && !errors.Is(err, errChanged) { // a worker may have it already
			return err
		}
		if before > 0 {
			return c.remove(ctx, before)
		}
		return nil
	})
}

// change runs do on a job as it is, again when it changed meanwhile.
func (c *Client) change(ctx context.Context, id string, do func(*Job) error) (Job, error) {
	for range 10 {
		j, err := c.find(ctx, id)
		if err != nil {
			return Job{}, err
		}
		if err = do(j); err == nil {
			return *j, nil
		}
		if !errors.Is(err, errChanged) {
			return Job{}, err
		}
	}
	return Job{}, fault.Unreachable(Dependency, errChanged)
}

// remove takes a message off JOBS.
func (c *Client) remove(ctx context.Context, sequence uint64) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := c.stream.DeleteMsg(ctx, sequence)
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		return fault.Unreachable(Dependency, err)
	}
	return nil
}

// forever is until when a queue is paused: until it is resumed.
const forever = 100 * 365 * 24 * time.Hour

// Pause stops the delivery of a queue's jobs in every process, over restarts;
// those that run go on. fault.NotFound when no worker ever served the queue.
func (c *Client) Pause(ctx context.Context, queue string) error {
	return c.pause(ctx, queue, time.Now().Add(forever))
}

// Resume undoes Pause.
func (c *Client) Resume(ctx context.Context, queue string) error {
	return c.pause(ctx, queue, time.Time{})
}

func (c *Client) pause(ctx context.Context, queue string, until time.Time) error {
	if !queueName.MatchString(queue) {
		return fault.Missing("queue", queue)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := c.stream.PauseConsumer(ctx, consumerName(queue), until)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fault.Missing("queue", queue)
	}
	if err != nil {
		return fault.Unreachable(Dependency, err)
	}
	return nil
}

// Queues tells how each queue is doing, by name.
func (c *Client) Queues(ctx context.Context) ([]QueueInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var all []QueueInfo
	lister := c.stream.ListConsumers(ctx)
	for info := range lister.Info() {
		if name, ok := strings.CutPrefix(info.Name, consumerPrefix); ok {
			all = append(all, QueueInfo{Name: name, Waiting: info.NumPending + uint64(max(info.NumAckPending, 0)), Paused: info.Paused})
		}
	}
	if err := lister.Err(); err != nil {
		return nil, fault.Unreachable(Dependency, err)
	}
	slices.SortFunc(all, func(a, b QueueInfo) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}
