// Package ledger is the only package that touches JetStream: the streams, the
// appends, the readers and the dead letters.
//
//	Append ──▶ queue ──▶ one group in flight at a time, a message a subject ──▶ LEDGER
//	LEDGER ──▶ FollowShard (ordered, from an address) ──▶ worker ──▶ AppendOutcomes ──▶ LEDGER
//	LEDGER ──▶ Follow (ordered, from an address) ──▶ auditor
//
// What is appended at the same moment is one message, and a message is stored or
// not as a whole. An event's address is its message's sequence and its index
// there (events.Address).
package ledger

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/metric"
	noopmetric "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	nooptrace "go.opentelemetry.io/otel/trace/noop"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// Dependency is the ledger's name in /readyz and in errors.
const Dependency = "ledger"

// Config says how the streams are kept.
type Config struct {
	// Replicas of each stream: 1 or 3.
	Replicas int
	// MaxBytes bounds the ledger; 0 means the server's own limit. A full ledger
	// refuses appends, it never forgets.
	MaxBytes int64
	// Shards is over how many shards commands are spread; 0 means 1. It must be
	// what the ledger has: ErrShards.
	Shards int
	// AppendTimeout is how long one group of appends may take; 0 means 5 s.
	AppendTimeout time.Duration
	// Meter receives the metrics; nil means none.
	Meter metric.Meter
	// Tracer makes a send span for each append; nil means none.
	Tracer trace.Tracer
}

// Ledger is a connection to the ledger. It is safe for concurrent use.
type Ledger struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream
	cfg    Config

	queue        chan *pending
	queued       atomic.Int64 // bytes
	once         sync.Once
	lag          lag
	failing      atomic.Pointer[failure] // nil: the last append was acknowledged
	acknowledged atomic.Uint64           // the highest sequence of an append
	closed       chan struct{}           // Close was called
	ended        chan struct{}           // the append loop has ended: nothing queued will be looked at

	commandSubjects []string // by shard

	appendTime metric.Float64Histogram
	groupSize  metric.Int64Histogram
}

// writeTimeout is how long a write to the connection may block before it counts
// as broken: the most by which a hung server can outlast a caller's deadline.
// NATS' own default is a minute.
const writeTimeout = time.Second

// Connect connects to NATS and keeps reconnecting for ever. While there is no
// connection nothing is buffered: an append fails at once, so that what was
// answered with an error is not done later.
func Connect(url, name string, opts ...nats.Option) (*nats.Conn, error) {
	all := append([]nats.Option{
		nats.Name(name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, time.Second),
		nats.ReconnectBufSize(-1),
		nats.FlusherTimeout(writeTimeout), // while a write blocks, so does every call on the connection
		nats.ReconnectOnFlusherError(),
		nats.PingInterval(5 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.Timeout(2 * time.Second),
		nats.DrainTimeout(5 * time.Second),
	}, opts...)
	nc, err := nats.Connect(url, all...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS (WRIT_NATS_URL): %w", err)
	}
	return nc, nil
}

// Open makes sure that the streams exist as they should be and starts the
// appender. Close it before the connection.
func Open(ctx context.Context, nc *nats.Conn, cfg Config) (*Ledger, error) {
	if cfg.AppendTimeout == 0 {
		cfg.AppendTimeout = 5 * time.Second
	}
	cfg.Shards = max(cfg.Shards, 1)
	if cfg.Shards > events.MaxShards {
		return nil, fmt.Errorf("WRIT_LEDGER_SHARDS: %d shards, want 1 to %d", cfg.Shards, events.MaxShards)
	}
	if cfg.Meter == nil {
		cfg.Meter = noopmetric.Meter{}
	}
	if cfg.Tracer == nil {
		cfg.Tracer = nooptrace.Tracer{}
	}
	if limit := nc.MaxPayload(); limit < MinPayload {
		return nil, fmt.Errorf("the NATS server's max_payload is %d bytes, writ needs %d or more", limit, MinPayload)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(cfg.AppendTimeout),
		jetstream.WithPublishAsyncTimeout(cfg.AppendTimeout))
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	stream, err := ensure(ctx, js, cfg)
	if errors.Is(err, ErrShards) {
		return nil, err
	}
	if err != nil {
		return nil, fault.Unreachable(Dependency, err)
	}
	l := &Ledger{nc: nc, js: js, stream: stream, cfg: cfg, queue: make(chan *pending, maxQueue),
		closed: make(chan struct{}), ended: make(chan struct{}), lag: lag{shards: map[int]*counts{}}}
	for shard := range cfg.Shards {
		l.commandSubjects = append(l.commandSubjects, events.CommandSubject(shard))
	}
	l.appendTime, err = cfg.Meter.Float64Histogram("writ.ledger.append.duration", metric.WithUnit("s"),
		metric.WithDescription("From the call to the ledger's acknowledgement"),
		metric.WithExplicitBucketBoundaries(.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .25, .5, 1, 2.5, 5))
	if err != nil {
		return nil, err
	}
	l.groupSize, err = cfg.Meter.Int64Histogram("writ.ledger.append.group", metric.WithUnit("{event}"),
		metric.WithDescription("Events that one message of the ledger held"),
		metric.WithExplicitBucketBoundaries(1, 2, 4, 8, 16, 32, 64, 128, 256))
	if err != nil {
		return nil, err
	}
	go l.appendLoop()
	return l, nil
}

// MinPayload is the max_payload, in bytes, that the NATS server must allow: an
// event, and its headers as a dead letter.
const MinPayload = events.MaxEvent + 64<<10

// ensure creates the streams or brings them up to date. It is safe to be run by
// several services at once.
func ensure(ctx context.Context, js jetstream.JetStream, cfg Config) (jetstream.Stream, error) {
	maxBytes := cfg.MaxBytes
	if maxBytes == 0 {
		maxBytes = -1
	}
	stream, err := makeLedger(ctx, js, jetstream.StreamConfig{
		Name:        events.StreamLedger,
		Description: "writ: commands with their decisions, all other decisions, outcomes, checkpoints of the audit log",
		Subjects:    []string{events.AllCommands, events.SubjectDecisions, events.AllOutcomes, events.AllCheckpoints},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		MaxBytes:    maxBytes,
		MaxMsgSize:  events.MaxBody + 8<<10, // and its headers
		Replicas:    max(cfg.Replicas, 1),
		AllowDirect: true,
		DenyDelete:  true,
		DenyPurge:   true,
	}, cfg.Shards)
	if err != nil {
		return nil, err
	}
	if _, err := Keep(ctx, js, jetstream.StreamConfig{
		Name:        events.StreamDead,
		Description: "writ: what could not be processed, with the reason",
		Subjects:    []string{events.AllDead},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		MaxBytes:    -1,
		Replicas:    max(cfg.Replicas, 1),
		AllowDirect: true,
	}); err != nil {
		return nil, err
	}
	return stream, nil
}

// Last gives the sequence of the last message on the ledger, 0 when it is empty.
func (l *Ledger) Last(ctx context.Context) (uint64, error) {
	info, err := l.stream.Info(ctx)
	if err != nil {
		return 0, fault.Unreachable(Dependency, err)
	}
	return info.State.LastSeq, nil
}

// Close stops the appender when what is queued has been appended, or ctx ends.
// The connection stays open: it belongs to whoever made it.
func (l *Ledger) Close(ctx context.Context) error {
	l.once.Do(func() { close(l.closed) })
	select {
	case <-l.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close the ledger: %w", ctx.Err())
	}
}

// errClosed is the cause when the ledger was closed.
var errClosed = errors.New("the ledger is closed")
