package jobs

import (
	"cmp"
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
)

// Bounds of the streams.
const (
	// maxJobs is how many jobs may wait or run; then Enqueue is refused.
	maxJobs = 200_000
	// maxJobsBytes bounds them together, in bytes, where Config sets nothing: 670 for
	// each of maxJobs, and a probe or a delivery takes about 400. JetStream sets so much
	// of its disk aside.
	maxJobsBytes = 128 << 20
	// maxStates bounds the records, in bytes: the ones that have not changed for
	// the longest time are forgotten first.
	maxStates = 64 << 20
	// maxPending bounds the jobs of one queue that run, wait for their next
	// attempt or for their time. Others wait behind them.
	maxPending = 10_000
	// keepDone and keepDead are how long the record of a job that is over is kept.
	keepDone = 24 * time.Hour
	keepDead = 30 * 24 * time.Hour
	// callTimeout bounds one call to JetStream.
	callTimeout = 5 * time.Second

	streamStates = "JOB_STATES"
	prefixState  = "writ.jobstate."
	prefixRate   = "writ.jobrate."
)

// ensure creates the streams or brings them up to date. Several services may
// run it at once.
func ensure(ctx context.Context, js jetstream.JetStream, cfg Config) (jobs, states jetstream.Stream, err error) {
	jobs, err = ledger.Keep(ctx, js, jetstream.StreamConfig{
		Name:        events.StreamJobs,
		Description: "writ: background jobs that wait or run",
		Subjects:    []string{events.AllJobs},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.WorkQueuePolicy,
		Discard:     jetstream.DiscardNew,
		MaxMsgs:     maxJobs,
		MaxBytes:    cmp.Or(cfg.MaxBytes, maxJobsBytes),
		MaxMsgSize:  MaxPayload + 16<<10,
		Replicas:    max(cfg.Replicas, 1),
		AllowDirect: true,
	})
	if err != nil {
		return nil, nil, err
	}
	states, err = ledger.Keep(ctx, js, jetstream.StreamConfig{
		Name:              streamStates,
		Description:       "writ: what is known of each job; limits of rate",
		Subjects:          []string{prefixState + ">", prefixRate + "*"},
		Storage:           jetstream.FileStorage,
		Retention:         jetstream.LimitsPolicy,
		Discard:           jetstream.DiscardOld,
		MaxMsgsPerSubject: 1,
		MaxBytes:          maxStates,
		MaxMsgSize:        MaxPayload + 32<<10,
		Replicas:          max(cfg.Replicas, 1),
		AllowMsgTTL:       true,
	})
	return jobs, states, err
}

// consumer is the one that all workers of a queue share.
func (c *Client) consumer(ctx context.Context, q Queue) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return ledger.KeepConsumer(ctx, c.stream, jetstream.ConsumerConfig{
		Durable:       consumerName(q.Name),
		FilterSubject: events.JobSubject(q.Name, "*"),
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       q.AckWait,
		MaxDeliver:    -1, // attempts are counted in the record: a pause is a delivery, too
		MaxAckPending: maxPending,
	})
}

const consumerPrefix = "jobs-"

func consumerName(queue string) string { return consumerPrefix + queue }
