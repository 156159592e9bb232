// Package roles is the role worker: it applies the commands that need Stytch.
//
//	queue (SQL) ──▶ lanes ──▶ decide ──▶ intend ──▶ Stytch ──▶ commit ──▶ outcome ──▶ off the queue
//	                one         again      SQL                  row,        ledger
//	                command     if         last admin,          command
//	                a user      stale      attempt counted
//
// The apply loop puts such commands on the queue, in order, once each. They
// leave it when their outcomes are on the ledger: the queue is the outbox. One
// process at a time works on it, which a lease in SQL sees to; whoever lost the
// lease can commit nothing.
//
// A command that was tried may have had its effect, whatever Stytch answered and
// whoever died. So the memberships at Stytch carry the id of the command that
// wrote them, and a command that was tried begins by looking.
package roles

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/telemetry"
)

// Stytch is what the worker needs of identity.Client; the errors are its.
type Stytch interface {
	User(ctx context.Context, id string) (identity.User, error)
	UserByEmail(ctx context.Context, email string) (identity.User, error)
	CreateUser(ctx context.Context, u identity.User) (identity.User, error)
	UpdateUser(ctx context.Context, id string, up identity.Update) (identity.User, error)
	DeleteUser(ctx context.Context, id string) error
}

// Limits of the work under way.
const (
	maxBusy = 16 // commands tried at the same moment
	// maxLanes is how many lanes are looked at, those that have waited longest. One
	// that has failed stuckAfter times in a row is looked at on top of these, so that
	// some users of whom Stytch will not hear do not keep everybody else waiting; up to
	// maxKept in all, which bounds the memory. The others wait in SQL.
	maxLanes   = 1024
	maxKept    = 8 * maxLanes
	stuckAfter = 6
	// tryTimeout bounds one try; each call to Stytch has a shorter one.
	tryTimeout = 30 * time.Second
	readLimit  = 5 * time.Second
)

// timing is how long things take; tests hurry.
type timing struct {
	beat  time.Duration // between the signs of life of who holds the lease
	hold  time.Duration // without one that got through, whatever is under way is broken off
	lapse time.Duration // without one, another process takes over: well after hold
	poll  time.Duration // how often the queue is looked at unasked
	first time.Duration // the wait after the first failure; each next one is twice as long
	most  time.Duration // and the longest
	grace time.Duration // what a stop leaves to those under way
	// ages are when, after its end, it is looked whether an attempt at a command came
	// late to Stytch, and look how often there is something to look after.
	ages []time.Duration
	look time.Duration
}

var standard = timing{
	beat: 500 * time.Millisecond, hold: 2 * time.Second, lapse: 4 * time.Second, poll: time.Second,
	first: 500 * time.Millisecond, most: time.Minute, grace: 4 * time.Second,
	ages: []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute, time.Hour}, look: 5 * time.Second,
}

// lease is the name of the right to work on the queue.
const lease = "roles"

// point is a moment at which a process can die.
type point string

const (
	beforeCall   point = "before Stytch is called"
	afterCall    point = "after the effect at Stytch, before it is recorded"
	afterCommit  point = "after the commit, before the outcome"
	afterPublish point = "after the outcome, before it is off the queue"
)

// errDied is what a test's point returns: the process is gone.
var errDied = errors.New("died")

// Config is what a Worker works with.
type Config struct {
	Ledger    *ledger.Ledger
	Store     *store.Store
	Authz     authz.Authorizer
	Keys      *events.Keyring
	Stytch    Stytch
	Log       *slog.Logger
	Telemetry *telemetry.Telemetry
}

// Worker applies queued commands. Make it with New and run it once.
type Worker struct {
	Config
	metrics *metrics
	timing  timing
	holder  string
	wake    chan struct{}
	// looked and kept are maxLanes and maxKept.
	looked, kept int

	// edge is the end of the ledger when this process looked first. A command up
	// to there that is not done in SQL may have its outcome on the ledger, if the
	// database was restored from an older state.
	edge events.Address
	// seen is the lease as somebody else holds it, since is when it last moved.
	seen  store.Lease
	since time.Time

	// told is where the outcomes of these commands end on the ledger, as far as is
	// known; nil if it is not. Those who publish take turns.
	telling sync.Mutex
	told    *ledger.Outcomes

	mu    sync.Mutex
	users map[string]bool // whose command, or whom a create has found, is being tried

	// quiet is until when Stytch asked for quiet, in nanoseconds since 1970.
	quiet atomic.Int64

	// at is called at the points between which a process can die.
	at func(point) error
}

// New makes a Worker.
func New(cfg Config) (*Worker, error) {
	m, err := newMetrics(cfg.Telemetry.Meter(), cfg.Store)
	if err != nil {
		return nil, err
	}
	id, err := uuid.NewRandom()
	if err != nil {
		return nil, err
	}
	return &Worker{
		Config: cfg, metrics: m, timing: standard, holder: id.String(), wake: make(chan struct{}, 1),
		looked: maxLanes, kept: maxKept,
		users: map[string]bool{}, at: func(point) error { return nil },
	}, nil
}

// Run applies commands until ctx ends; those under way get a few seconds.
// Outages of Stytch, the ledger, the database and Cerbos are waited out.
func (w *Worker) Run(ctx context.Context) error {
	stop, err := w.Ledger.Listen(events.QueuedSubject, func([]byte) { w.hint() })
	if err == nil {
		defer stop()
	} else {
		w.Log.DebugContext(ctx, "nobody will tell of queued commands, they will be looked for", "error", err)
	}
	looking, enough := context.WithCancel(ctx)
	var looks sync.WaitGroup
	looks.Go(func() { w.verify(looking) })
	defer looks.Wait()
	defer enough()
	for ctx.Err() == nil {
		wait, err := w.turn(ctx)
		if errors.Is(err, errDied) {
			return err
		}
		if err != nil && ctx.Err() == nil {
			w.Log.WarnContext(ctx, "the queue of commands for Stytch waits", "error", err)
			wait = max(wait, w.timing.beat)
		}
		t := time.NewTimer(wait)
		select {
		case <-w.wake:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
	return nil
}

// hint says that there may be something on the queue.
func (w *Worker) hint() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// turn works on the queue if there is something on it and nobody else does. It
// gives how long to wait before the next one.
func (w *Worker) turn(ctx context.Context) (time.Duration, error) {
	asking, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	if w.edge == 0 {
		last, err := w.Ledger.Last(asking)
		if err != nil {
			return w.timing.poll, err
		}
		w.edge = events.End(last)
	}
	heads, err := w.Store.Heads(asking, 1)
	if err != nil || len(heads) == 0 {
		return w.timing.poll, err
	}
	now, err := w.Store.Lease(asking, lease)
	if err != nil {
		return w.timing.poll, err
	}
	if now.Holder != "" {
		if now != w.seen {
			w.seen, w.since = now, time.Now()
		}
		if left := w.timing.lapse - time.Since(w.since); left > 0 {
			return min(left, w.timing.beat), nil
		}
		w.Log.WarnContext(ctx, "the worker that applied commands at Stytch is silent, taking over", "silent", time.Since(w.since))
	}
	taken, err := w.Store.TakeLease(asking, now, w.holder)
	if errors.Is(err, store.ErrLeaseLost) {
		return w.timing.beat, nil
	}
	if err != nil {
		return w.timing.poll, err
	}
	return 0, w.lead(ctx, taken)
}

// lock keeps everybody else from a user; false if somebody is there.
func (w *Worker) lock(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.users[id] {
		return false
	}
	w.users[id] = true
	return true
}

func (w *Worker) unlock(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.users, id)
}
