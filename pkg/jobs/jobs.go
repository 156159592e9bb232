// Package jobs runs work in the background: at least once, whatever is killed.
//
//	Enqueue ──▶ JOBS (work queue, one subject a job) ──▶ Run: one pull consumer a queue ──▶ handler
//	                │                                         │
//	                └──────── JOB_STATES (one record a job) ──┴──▶ DEAD after the last attempt
//
// A job is a message on the stream JOBS until it is over: it is acknowledged
// last, so a worker that dies leaves a message that is delivered again. What is
// known of it beside (attempts, the last error, when it runs next) is a record
// on JOB_STATES that is written by compare and set before and after each
// attempt. Both are sealed. Handlers must be idempotent: a worker that dies after the work and
// before the record does it once more elsewhere.
//
// A handler is a function and one line:
//
//	jobs.Handle(client, jobs.Queue{Name: "probe", Attempts: 8, Timeout: 10 * time.Minute}, probe)
package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric"
	noopmetric "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	nooptrace "go.opentelemetry.io/otel/trace/noop"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/ledger"
)

// Dependency is the name of the jobs' streams in errors.
const Dependency = "jobs"

// Status is where a job has got to.
type Status string

// The states of a job.
const (
	Queued    Status = "queued"    // waits for its turn, or for its not_before
	Running   Status = "running"   // a worker has it
	Retrying  Status = "retrying"  // an attempt failed; the next one has its time
	Paused    Status = "paused"    // would be queued or retrying, but its queue is paused
	Done      Status = "done"      // final
	Cancelled Status = "cancelled" // final: by somebody, or by its handler
	Dead      Status = "dead"      // final: the last attempt failed; there is a dead letter
)

// Final reports whether a job in this status will not run again by itself.
func (s Status) Final() bool { return s == Done || s == Cancelled || s == Dead }

// MaxPayload bounds the JSON of a job's payload, in bytes.
const MaxPayload = 64 << 10

// Job is one piece of work, as a handler gets it and as List tells of it.
type Job struct {
	ID     string `json:"id"`
	Queue  string `json:"queue"`
	Key    string `json:"key,omitempty"`
	Tenant string `json:"tenant,omitempty"`
	Status Status `json:"status"`
	// Payload is what the job is about.
	Payload json.RawMessage `json:"payload,omitempty"`
	// Sequence is the job's message on JOBS: the same for every delivery, another
	// for a job that was retried by hand.
	Sequence uint64 `json:"sequence"`
	// Attempt counts the attempts that were begun, Attempts is how many there may be.
	Attempt  int `json:"attempt"`
	Attempts int `json:"attempts,omitempty"`
	// Error is what the last attempt ended with.
	Error string `json:"error,omitempty"`
	// NotBefore is when the job may run, or run again.
	NotBefore  time.Time `json:"not_before,omitzero"`
	EnqueuedAt time.Time `json:"enqueued_at"`
	StartedAt  time.Time `json:"started_at,omitzero"`
	FinishedAt time.Time `json:"finished_at,omitzero"`

	revision uint64 // of the record, 0 for none
}

// Last reports whether this is the job's last attempt.
func (j *Job) Last() bool { return j.Attempt >= j.Attempts }

// Queue is how the jobs of one name are run.
type Queue struct {
	// Name is lower-case letters, digits and dashes.
	Name string
	// Attempts is how often a job is tried; 0 means 10.
	Attempts int
	// Timeout bounds one attempt; 0 means a minute. The handler's context ends then.
	Timeout time.Duration
	// Concurrency is how many run at once in one process; 0 means 1.
	Concurrency int
	// Backoff is the pause after the first failure; it doubles up to MaxBackoff,
	// and between half and all of it is waited. 0 means 1 s and 5 min.
	Backoff, MaxBackoff time.Duration
	// Schedule gives the pause after attempt n (1 is the first) instead.
	Schedule func(n int) time.Duration
	// Rate is how many attempts may begin per second in all processes together,
	// Burst how many of them at once (0 means 1). Rate 0 means no limit.
	Rate  float64
	Burst int
	// AckWait is after how long without a sign of life of its worker a job is
	// given to another; 0 means 30 s.
	AckWait time.Duration
	// Exhausted is called before a job becomes a dead letter, also for one whose
	// worker died on every attempt; with an error it is called again later. May be nil.
	Exhausted func(ctx context.Context, j Job, cause error) error
}

var queueName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,30}$`)

func (q Queue) withDefaults() Queue {
	if q.Attempts == 0 {
		q.Attempts = 10
	}
	if q.Timeout == 0 {
		q.Timeout = time.Minute
	}
	q.Concurrency, q.Burst = max(q.Concurrency, 1), max(q.Burst, 1)
	if q.Backoff == 0 {
		q.Backoff = time.Second
	}
	if q.MaxBackoff == 0 {
		q.MaxBackoff = 5 * time.Minute
	}
	if q.AckWait == 0 {
		q.AckWait = 30 * time.Second
	}
	return q
}

// Config is what a Client works with.
type Config struct {
	// Keys seal jobs and their records; others are not believed.
	Keys *events.Keyring
	// Replicas of each stream: 1 or 3.
	Replicas int
	// MaxBytes bounds all jobs that wait or run together, in bytes; 0 means 128 MiB.
	// When they are full Enqueue is refused.
	MaxBytes int64
	// Bury stores dead letters: (*ledger.Ledger).Bury. Needed where jobs are run.
	Bury func(context.Context, ledger.DeadLetter) error
	// Service is the name in dead letters; "" means worker.
	Service string
	Log     *slog.Logger
	Meter   metric.Meter
	Tracer  trace.Tracer
}

// Client enqueues jobs, runs them and looks after them. It is safe for
// concurrent use.
type Client struct {
	js      jetstream.JetStream
	stream  jetstream.Stream
	states  states
	cfg     Config
	metrics *metrics

	mu     sync.Mutex
	queues map[string]*registered
}

// registered is a queue and what handles its jobs.
type registered struct {
	Queue
	handle func(context.Context, Job) error
}

// Open makes sure that the streams exist. The connection stays the caller's.
func Open(ctx context.Context, nc *nats.Conn, cfg Config) (*Client, error) {
	if cfg.Meter == nil {
		cfg.Meter = noopmetric.Meter{}
	}
	if cfg.Tracer == nil {
		cfg.Tracer = nooptrace.Tracer{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Service == "" {
		cfg.Service = "worker"
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(callTimeout))
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	if cfg.Keys == nil {
		return nil, errors.New("jobs: there are no keys to seal them with")
	}
	c := &Client{js: js, cfg: cfg, queues: map[string]*registered{}}
	if c.stream, c.states.stream, err = ensure(ctx, js, cfg); err != nil {
		return nil, fault.Unreachable(Dependency, err)
	}
	c.states.js, c.states.cfg = js, &c.cfg
	c.metrics, err = newMetrics(cfg.Meter, c)
	return c, err
}

// Handle registers fn for the jobs of a queue, whose payloads are T. Call it
// before Run; it panics when the queue is named badly or twice.
//
// What fn returns is its intent: nil, the job is done; Cancel(err), it makes no
// sense and is not tried again; Snooze(d), it is too early, come back in d; any
// other error or a panic, the attempt failed and the next one follows after a
// pause, until the last one makes a dead letter. A payload that is no T is
// cancelled.
func Handle[T any](c *Client, q Queue, fn func(ctx context.Context, j Job, payload T) error) {
	if !queueName.MatchString(q.Name) {
		panic("jobs: queue " + q.Name + ": want lower-case letters, digits and dashes")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queues[q.Name] != nil {
		panic("jobs: queue " + q.Name + " has a handler already")
	}
	c.queues[q.Name] = &registered{q.withDefaults(), func(ctx context.Context, j Job) error {
		var payload T
		if err := json.Unmarshal(j.Payload, &payload); err != nil {
			return Cancel(fmt.Errorf("read the payload: %w", err))
		}
		return fn(ctx, j, payload)
	}}
}

// Cancel says that a job makes no sense (any more): it ends as cancelled.
func Cancel(err error) error { return &cancelled{err} }

// Snooze says that it is too early: the job comes back in d, and the attempt
// does not count.
func Snooze(d time.Duration) error { return &snoozed{d} }

type cancelled struct{ err error }

func (c *cancelled) Error() string { return c.err.Error() }
func (c *cancelled) Unwrap() error { return c.err }

type snoozed struct{ d time.Duration }

func (s *snoozed) Error() string { return "come back in " + s.d.String() }

// Causes of a handler's context that ended.
var (
	// ErrStopping is the cause when the process stops: the job goes to another.
	ErrStopping = errors.New("the worker stops")
	// ErrCancelled is the cause when somebody cancelled the job.
	ErrCancelled = errors.New("the job was cancelled")
	// ErrLost is the cause when another worker has the job: this one was silent for too long.
	ErrLost = errors.New("another worker has the job")
)
