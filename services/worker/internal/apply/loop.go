// Package apply is the worker's apply loop: commands in, rows and outcomes out.
//
//	shard ──▶ verify ──▶ one transaction ──▶ outcomes
//	in order  seal,      position, rows,     one message,
//	          digest     commands            compare and append
//
// The position of each shard is a row that moves in the same transaction as the
// effects, and the outcomes on the ledger tell up to where they answer. So a
// worker begins where SQL says, and what was committed and not told is told then:
// whatever was killed, paused, or is done by two at once has one effect and one
// outcome.
package apply

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/telemetry"
)

// The bounds of one batch.
const (
	maxBatch = 256 // commands
	// gatherEvery is how far apart batches of several commands begin at least: those
	// that come in between share a transaction. One that comes alone is applied at once.
	gatherEvery = 10 * time.Millisecond
	// batchTimeout bounds one attempt at a batch, so that a stop never waits longer.
	batchTimeout = 8 * time.Second
	// decideTimeout bounds the decisions taken again within one batch: what is
	// not decided by then is left for the next one, the rest is committed.
	decideTimeout = batchTimeout / 2
	minBackoff    = 10 * time.Millisecond
	maxBackoff    = 2 * time.Second
)

// Loop applies commands. Make it with New and run it once.
type Loop struct {
	ledger   *ledger.Ledger
	store    *store.Store
	authz    authz.Authorizer
	keys     *events.Keyring
	handlers map[string]Handler
	log      *slog.Logger
	tel      *telemetry.Telemetry
	metrics  *metrics

	// trouble is what the last batch of each shard ended with, for Ready.
	trouble []atomic.Pointer[error]

	// at is called at the points between which a process can die; tests die there.
	at func(point)
}

// point is a moment in the life of a batch.
type point string

const (
	beforeCommit point = "before the commit"
	afterCommit  point = "after the commit, before the outcome"
	afterPublish point = "after the outcome"
)

// Config is what a Loop works with.
type Config struct {
	Ledger    *ledger.Ledger
	Store     *store.Store
	Authz     authz.Authorizer
	Keys      *events.Keyring
	Handlers  []Handler
	Log       *slog.Logger
	Telemetry *telemetry.Telemetry
}

// New makes a Loop.
func New(cfg Config) (*Loop, error) {
	m, err := newMetrics(cfg.Telemetry.Meter(), cfg.Ledger, cfg.Store)
	if err != nil {
		return nil, err
	}
	l := &Loop{
		ledger: cfg.Ledger, store: cfg.Store, authz: cfg.Authz, keys: cfg.Keys,
		handlers: make(map[string]Handler, len(cfg.Handlers)), log: cfg.Log, tel: cfg.Telemetry, metrics: m,
		trouble: make([]atomic.Pointer[error], cfg.Ledger.Shards()), at: func(point) {},
	}
	for _, h := range cfg.Handlers {
		l.handlers[h.Kind.Name] = h
	}
	return l, nil
}

// Run applies the commands of the shards that this process gets to hold until
// ctx ends; the batch in hand is finished first. Outages of the ledger, the
// database or Cerbos are waited out.
func (l *Loop) Run(ctx context.Context) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, maxBackoff) {
		err := l.store.MakeShards(ctx, l.ledger.Shards())
		if err == nil || ctx.Err() != nil {
			break
		}
		l.log.WarnContext(ctx, "cannot start applying yet", "error", err)
		sleep(ctx, wait)
	}
	return l.ledger.HoldShards(ctx, l.hold)
}

// hold applies the commands of one shard until ctx ends, which it does also
// when another process takes the shard. The error is ErrAhead.
func (l *Loop) hold(ctx context.Context, number int) error {
	s := &shard{Loop: l, number: number}
	defer l.trouble[number].Store(nil)
	wait := minBackoff
	for ctx.Err() == nil {
		err := s.run(ctx)
		if errors.Is(err, ErrAhead) {
			return err
		}
		if ctx.Err() != nil {
			break
		}
		l.metrics.retries.Add(ctx, 1)
		if s.progress {
			wait = minBackoff
		}
		if !overtaken(err) {
			l.report(number, err)
			l.log.WarnContext(ctx, "shard not applied, will be tried again", "shard", number, "error", err, "wait", wait)
		}
		sleep(ctx, wait+rand.N(wait/2+1))
		wait = min(2*wait, maxBackoff)
	}
	return nil
}

// overtaken reports whether another worker was faster: nothing is wrong.
func overtaken(err error) bool {
	return errors.Is(err, store.ErrPositionMoved) || errors.Is(err, store.ErrCommandKnown) || errors.Is(err, ledger.ErrOvertaken)
}

// report keeps what Ready tells.
func (l *Loop) report(shard int, err error) { l.trouble[shard].Store(&err) }

// Ready reports what keeps commands from being applied: a full disk, a database
// that cannot be written, a ledger that takes no outcomes.
func (l *Loop) Ready(context.Context) error {
	var all []error
	for i := range l.trouble {
		if err := l.trouble[i].Load(); err != nil {
			all = append(all, *err)
		}
	}
	return errors.Join(all...)
}

// ErrAhead means that the database has applied more than the ledger holds: they
// do not belong together, or the ledger was lost. Going on would take new
// commands for old ones.
var ErrAhead = errors.New("the database is ahead of the ledger: they do not belong together, or the ledger was lost (docs/runbook.md)")

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
