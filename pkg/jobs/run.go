package jobs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
)

// The parts of a stop: Run ends within their sum after its context.
const (
	// softStop is how long jobs may go on when the process stops; then their
	// contexts end (ErrStopping), and what is not done goes to another worker.
	softStop = 3 * time.Second
	// hardStop is how long handlers may take after that.
	hardStop = 2 * time.Second
	// fetchWait is how long one request for a job waits.
	fetchWait = time.Second
	// maxBackoffOutage is the longest pause after an error of JetStream.
	maxBackoffOutage = 2 * time.Second
)

// Run works off the queues that have a handler until ctx ends, then stops: no
// new jobs, those that run may finish, then they are told to stop, then they
// are left to another worker. Outages are waited out.
func (c *Client) Run(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock() // no queue is added while it runs
	// The handlers' context: ended only after softStop.
	working, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	release := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(softStop)
		defer timer.Stop()
		select {
		case <-timer.C:
			stop(ErrStopping)
		case <-working.Done():
		}
	})
	defer release()
	g := errgroup.Group{}
	for _, q := range c.queues {
		w := &worker{Client: c, q: q}
		g.Go(func() error { return w.run(ctx, working) })
	}
	return g.Wait()
}

// worker works off one queue.
type worker struct {
	*Client
	q       *registered
	running sync.WaitGroup
}

func (w *worker) run(ctx, working context.Context) error {
	slots := make(chan struct{}, w.q.Concurrency)
	wait := time.Duration(0)
	var consumer jetstream.Consumer
	for ctx.Err() == nil {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			continue
		}
		var err error
		var msg jetstream.Msg
		if consumer == nil {
			consumer, err = w.consumer(ctx, w.q.Queue)
		}
		if err == nil {
			msg, err = w.next(consumer)
		}
		if err != nil {
			<-slots
			consumer = nil // it may have been deleted
			wait = min(max(2*wait, 100*time.Millisecond), maxBackoffOutage)
			sleep(ctx, wait)
			continue
		}
		wait = 0
		if msg == nil {
			<-slots
			continue
		}
		if ctx.Err() != nil { // it came while we were told to stop
			_ = msg.Nak() // else it is delivered again after AckWait
			<-slots
			break
		}
		w.running.Go(func() {
			defer func() { <-slots }()
			w.deliver(working, msg)
		})
	}
	return w.wait(working)
}

// next asks for one job; nil when there is none within fetchWait. The request
// is never abandoned: a job that is on its way would be lost until AckWait.
func (w *worker) next(consumer jetstream.Consumer) (jetstream.Msg, error) {
	batch, err := consumer.Fetch(1, jetstream.FetchMaxWait(fetchWait))
	if err != nil {
		return nil, err
	}
	for m := range batch.Messages() {
		return m, nil
	}
	return nil, batch.Error()
}

// wait waits for the handlers.
func (w *worker) wait(working context.Context) error {
	done := make(chan struct{})
	go func() { w.running.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-working.Done():
	}
	select {
	case <-done:
		return nil
	case <-time.After(hardStop):
		return fmt.Errorf("queue %s: a handler does not stop", w.q.Name)
	}
}

// deliver does what a message asks for. Whatever it cannot settle it leaves
// unacknowledged, so that it is delivered again.
func (w *worker) deliver(ctx context.Context, msg jetstream.Msg) {
	meta, err := msg.Metadata()
	if err != nil {
		return
	}
	sequence := meta.Sequence.Stream
	m, err := w.parse(msg.Subject(), msg.Headers(), msg.Data())
	if err != nil {
		w.refuse(ctx, msg, sequence, int(meta.NumDelivered), err)
		return
	}
	j, err := w.states.get(ctx, m.Queue, m.ID)
	if err != nil {
		w.later(msg, time.Second)
		return
	}
	if j == nil || j.Sequence < sequence {
		revision := uint64(0)
		if j != nil { // a job of the same key that is over
			revision = j.revision
		}
		j = m.job(sequence)
		j.revision = revision
	}
	switch {
	case j.Sequence > sequence || j.Status.Final(): // retried by hand, or it died before it could acknowledge
		w.finish(ctx, msg)
		return
	case time.Now().Before(j.NotBefore):
		w.record(ctx, j) // so that List tells of it
		w.later(msg, time.Until(j.NotBefore))
		return
	}
	pause, err := w.turn(ctx, w.q.Queue)
	if err != nil || pause > 0 {
		w.later(msg, max(pause, 50*time.Millisecond))
		return
	}
	w.attempt(ctx, msg, j)
}

// record keeps a job's state where losing it does no harm.
func (w *worker) record(ctx context.Context, j *Job) {
	if j.revision == 0 {
		_ = w.states.put(ctx, j)
	}
}

// refuse buries what is no job.
func (w *worker) refuse(ctx context.Context, msg jetstream.Msg, sequence uint64, deliveries int, cause error) {
	code := "malformed"
	if errors.Is(cause, events.ErrSeal) {
		code = "bad-seal"
	}
	w.cfg.Log.ErrorContext(ctx, "a job is refused", "queue", w.q.Name, "sequence", sequence, "code", code, "error", cause)
	if err := w.bury(ctx, msg, sequence, deliveries, code, cause); err != nil {
		w.later(msg, time.Second)
		return
	}
	w.finish(ctx, msg)
}

func (w *worker) bury(ctx context.Context, msg jetstream.Msg, sequence uint64, deliveries int, code string, cause error) error {
	return w.cfg.Bury(ctx, ledger.DeadLetter{
		Service: w.cfg.Service, Stream: events.StreamJobs, Code: code, Reason: cause.Error(), Deliveries: deliveries,
		Record: ledger.Record{Address: sequence, Subject: msg.Subject(), Header: msg.Headers(), Data: msg.Data()},
	})
}

// finish takes the message off JOBS. If that is lost it is delivered again and
// found to be over.
func (w *worker) finish(ctx context.Context, msg jetstream.Msg) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	_ = msg.DoubleAck(ctx)
}

// later has the message delivered again after d; if that is lost, after AckWait.
func (w *worker) later(msg jetstream.Msg, d time.Duration) {
	// A pause for longer than maxNak is looked at in between: whoever moved the
	// time forward is heard.
	_ = msg.NakWithDelay(max(min(d, maxNak), time.Millisecond))
}

const maxNak = time.Hour

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
