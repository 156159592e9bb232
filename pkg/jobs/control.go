package jobs

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// Filter says which jobs List gives.
type Filter struct {
	Queue  string // "" for every queue
	Status Status // "" for every status
	Tenant string // "" for every tenant
	Limit  int    // 0 means 100
}

// QueueInfo is how a queue is doing.
type QueueInfo struct {
	Name    string `json:"name"`
	Waiting uint64 `json:"waiting"` // jobs that wait or run
	Paused  bool   `json:"paused"`
}

// List gives jobs, those that changed last first. complete is false when there
// are more, or more than it looks at (20,000 records).
func (c *Client) List(ctx context.Context, f Filter) (found []Job, complete bool, err error) {
	paused, err := c.paused(ctx)
	if err != nil {
		return nil, false, err
	}
	limit := f.Limit
	if limit <= 0 {
		limit = 100
	}
	queue := cmp.Or(f.Queue, "*")
	all := map[string]*Job{}
	complete, err = c.states.each(ctx, prefixState+queue+".*", func(data []byte, sequence uint64) {
		if j, err := decode(data, sequence); err == nil {
			all[j.ID] = j
		}
	})
	if err != nil {
		return nil, false, err
	}
	// A job that no worker has seen has no record yet: its message tells.
	more, err := c.waiting(ctx, events.JobSubject(queue, "*"), func(data []byte, sequence uint64) {
		m, ok := parse(data)
		if ok && (all[m.ID] == nil || all[m.ID].Sequence < sequence) {
			all[m.ID] = m.job(sequence)
		}
	})
	if err != nil {
		return nil, false, err
	}
	complete = complete && more
	for _, j := range all {
		j.show(paused)
		if (f.Status == "" || j.Status == f.Status) && (f.Tenant == "" || j.Tenant == f.Tenant) {
			found = append(found, *j)
		}
	}
	slices.SortFunc(found, func(a, b Job) int {
		return cmp.Or(b.changed().Compare(a.changed()), strings.Compare(b.ID, a.ID))
	})
	if len(found) > limit {
		found, complete = found[:limit], false
	}
	return found, complete, nil
}

// changed is when something last happened to a job.
func (j *Job) changed() time.Time {
	last := j.EnqueuedAt
	for _, t := range []time.Time{j.StartedAt, j.FinishedAt} {
		if t.After(last) {
			last = t
		}
	}
	return last
}

func (j *Job) show(paused map[string]bool) {
	if (j.Status == Queued || j.Status == Retrying) && paused[j.Queue] {
		j.Status = Paused
	}
}

// Show gives one job; fault.NotFound when there is none, or no longer.
func (c *Client) Show(ctx context.Context, id string) (Job, error) {
	j, err := c.find(ctx, id)
	if err != nil {
		return Job{}, err
	}
	paused, err := c.paused(ctx)
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
	var found *Job
	if _, err := c.states.each(ctx, stateSubject("*", id), func(data []byte, sequence uint64) {
		if j, err := decode(data, sequence); err == nil {
			found = j
		}
	}); err != nil {
		return nil, err
	}
	if _, err := c.waiting(ctx, events.JobSubject("*", id), func(data []byte, sequence uint64) {
		m, ok := parse(data)
		if ok && (found == nil || found.Sequence < sequence) {
			revision := uint64(0)
			if found != nil {
				revision = found.revision
			}
			found = m.job(sequence)
			found.revision = revision
		}
	}); err != nil {
		return nil, err
	}
	if found == nil {
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

func (c *Client) paused(ctx context.Context) (map[string]bool, error) {
	queues, err := c.Queues(ctx)
	out := map[string]bool{}
	for _, q := range queues {
		out[q.Name] = q.Paused
	}
	return out, err
}
