// Package apply is the worker's apply loop: commands in, rows and outcomes out.
//
//	partitions ──▶ gather ──▶ line up ──▶ verify ──▶ one transaction ──▶ outcomes ──▶ acks
//	               256 or     no gap in   seal,      positions, rows,    one atomic
//	               5 ms       a partition  digest     commands            batch
//
// The position of each partition is a row that moves in the same transaction
// as the effects, so whatever is delivered twice, late or to two processes has
// one effect. Commit, publish, ack: in this order; the message that is not yet
// acknowledged is the outbox.
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
	maxBatch = 256
	linger   = 5 * time.Millisecond
	// batchTimeout bounds one attempt at a batch, so that a stop never waits longer.
	batchTimeout = 8 * time.Second
	// decideTimeout bounds the decisions taken again within one batch: what is
	// not decided by then is left for the next one, the rest is committed.
	decideTimeout = batchTimeout / 2
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

	// trouble is what the last batch ended with, for Ready.
	trouble atomic.Pointer[error]

	in chan ledger.Delivery
	// positions are the partitions' positions as last read or written. SQL has
	// the truth: a transaction that finds others there starts over.
	positions map[int]uint64
	// behind names, for partitions that are known to be behind, the last
	// command to fetch from the ledger before deliveries count again.
	behind map[int]uint64
	// settled is up to where commands had been done and acknowledged when the
	// worker started. A position before it means that the database was restored
	// from an older state: what happened then happens again, undecided.
	settled map[int]uint64
	// held are the partitions whose next command waits for Cerbos.
	held map[int]held
	busy bool // the last batch held more than one command

	// at is called at the points between which a process can die; tests die there.
	at func(point)
}

// point is a moment in the life of a batch.
type point string

const (
	beforeCommit point = "before the commit"
	afterCommit  point = "after the commit, before the outcome"
	afterPublish point = "after the outcome, before the ack"
)

type held struct {
	until time.Time
	wait  time.Duration
}

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
	m, err := newMetrics(cfg.Telemetry.Meter(), cfg.Ledger)
	if err != nil {
		return nil, err
	}
	l := &Loop{
		ledger: cfg.Ledger, store: cfg.Store, authz: cfg.Authz, keys: cfg.Keys,
		handlers: make(map[string]Handler, len(cfg.Handlers)), log: cfg.Log, tel: cfg.Telemetry, metrics: m,
		in: make(chan ledger.Delivery, maxBatch), behind: map[int]uint64{}, held: map[int]held{}, settled: map[int]uint64{}, at: func(point) {},
	}
	for _, h := range cfg.Handlers {
		l.handlers[h.Kind.Name] = h
	}
	return l, nil
}

// Run applies commands until ctx ends; the batch in hand is finished first.
// Outages of the ledger, the database or Cerbos are waited out.
func (l *Loop) Run(ctx context.Context) error {
	if err := l.start(ctx); err != nil {
		return err
	}
	readers := make(chan error, 1)
	go func() { readers <- l.ledger.Partitions(ctx, l.in) }()
	wait := time.Duration(0)
	for ctx.Err() == nil {
		batch := l.gather(ctx)
		if ctx.Err() != nil {
			break
		}
		err := l.batch(context.WithoutCancel(ctx), batch)
		l.report(err)
		if err != nil {
			l.metrics.retries.Add(ctx, 1)
			wait = min(max(2*wait, 10*time.Millisecond), maxBackoff)
			if !overtaken(err) {
				l.log.WarnContext(ctx, "batch not applied, will be tried again", "error", err, "commands", len(batch), "wait", wait)
			}
			sleep(ctx, wait+rand.N(wait/2+1))
			continue
		}
		wait = 0
	}
	return <-readers // ends with ctx
}

// overtaken reports whether another worker was faster: nothing is wrong.
func overtaken(err error) bool {
	return errors.Is(err, store.ErrPositionMoved) || errors.Is(err, store.ErrCommandKnown)
}

// report keeps what Ready tells.
func (l *Loop) report(err error) {
	if overtaken(err) {
		err = nil
	}
	l.trouble.Store(&err)
}

// Ready reports what keeps commands from being applied: a full disk, a database
// that cannot be written, a ledger that takes no outcomes.
func (l *Loop) Ready(context.Context) error {
	if err := l.trouble.Load(); err != nil {
		return *err
	}
	return nil
}

// ErrAhead means that the database has applied more than the ledger holds: they
// do not belong together, or the ledger was lost. Going on would take new
// commands for old ones.
var ErrAhead = errors.New("the database is ahead of the ledger: they do not belong together, or the ledger was lost (docs/runbook.md)")

// start reads the positions and finds what was delivered to a process that
// died before it applied it: that would otherwise wait for its redelivery.
func (l *Loop) start(ctx context.Context) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, maxBackoff) {
		err := l.load(ctx)
		if err == nil {
			err = l.catchUp(ctx)
		}
		if err == nil || errors.Is(err, ErrAhead) {
			return err
		}
		l.log.WarnContext(ctx, "cannot start applying yet", "error", err)
		if sleep(ctx, wait); ctx.Err() != nil {
			return nil
		}
	}
}

func (l *Loop) catchUp(ctx context.Context) error {
	last, err := l.ledger.Last(ctx)
	if err != nil {
		return err
	}
	for _, seq := range l.positions {
		if seq > last {
			return ErrAhead
		}
	}
	progress, err := l.ledger.Progress(ctx)
	for p, at := range progress {
		l.fallBehind(p, at.Delivered)
		l.settled[p] = at.Settled
	}
	return err
}

// load reads the positions.
func (l *Loop) load(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	positions, err := l.store.Positions(ctx)
	if err != nil {
		return err
	}
	l.positions = positions
	for p, seq := range l.behind {
		if seq <= positions[p] {
			delete(l.behind, p)
		}
	}
	return nil
}

func (l *Loop) fallBehind(partition int, seq uint64) {
	if seq > max(l.positions[partition], l.behind[partition]) {
		l.behind[partition] = seq
	}
}

// gather waits for commands. Under load it lingers for more of them; a command
// that comes alone goes at once. It returns at once when partitions are behind.
func (l *Loop) gather(ctx context.Context) []ledger.Delivery {
	batch := make([]ledger.Delivery, 0, maxBatch)
	if next, any := l.nextBehind(); !any || next > 0 {
		var late <-chan time.Time
		if any { // look again even when nothing arrives
			late = time.After(next)
		}
		select {
		case d := <-l.in:
			batch = append(batch, d)
		case <-late:
			return batch
		case <-ctx.Done():
			return batch
		}
	}
	deadline := time.NewTimer(linger)
	defer deadline.Stop()
	for len(batch) < maxBatch {
		select {
		case d := <-l.in:
			batch = append(batch, d)
			continue
		default:
		}
		if !l.busy && len(batch) <= 1 {
			return batch
		}
		select {
		case d := <-l.in:
			batch = append(batch, d)
		case <-deadline.C:
			return batch
		case <-ctx.Done():
			return batch
		}
	}
	return batch
}

// nextBehind tells when to fetch for partitions that are behind, if any are.
func (l *Loop) nextBehind() (next time.Duration, any bool) {
	for p := range l.behind {
		w := max(0, time.Until(l.held[p].until))
		if !any || w < next {
			next, any = w, true
		}
	}
	return next, any
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
