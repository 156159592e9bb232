// Package webhooks sends outcomes and denials to the endpoints that tenants
// name.
//
//	LEDGER outcomes, denials ──▶ dispatch ──▶ JOBS wh--<webhook> ──▶ deliver ──▶ endpoint
//	                               │  (whom it is for: SQL)             │
//	                               └───────── LEDGER: disable ◀─────────┘ tried for a day, gone
//
// An event counts as dispatched when its jobs are on their queues, and a job is
// over when its endpoint has answered: whatever is killed in between, it is sent
// again. So an endpoint gets an event at least once, under one webhook-id. Each
// webhook has a queue and workers of its own, so one that does not answer is in
// nobody else's way. A job names its event, which stays on the ledger; nothing
// of it is kept beside.
package webhooks

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
)

// consumer is the durable consumer on the ledger.
const consumer = "worker-webhooks"

// Limits.
const (
	// timeout bounds one attempt, from the name's look-up to the end of the answer.
	timeout = 15 * time.Second
	// atOnce is how many messages are on the way to one endpoint, of one process.
	atOnce = 4
	// maxWaiting is how many events may wait for one webhook; with one more it is
	// disabled. While the jobs' stream is half full it is maxWaitingFull, and while it is
	// three quarters full no event is dispatched: the ledger keeps them.
	maxWaiting     = 5_000
	maxWaitingFull = 500
	// maxServed bounds the webhooks that a process serves; the oldest come first.
	maxServed = 10_000
)

// Config is what Webhooks works with.
type Config struct {
	Ledger *ledger.Ledger
	Store  *store.Store
	Authz  authz.Authorizer
	Keys   *events.Keyring
	Jobs   *jobs.Client
	Log    *slog.Logger
	// AllowPrivate lets messages go to addresses that are not public.
	AllowPrivate bool
	// Schedule are the pauses between the attempts; nil means those of a day.
	Schedule []time.Duration
	// Refresh is how often webhooks that came and went are looked for; 0 means 2 s.
	Refresh time.Duration
}

// aDay are the pauses of Standard Webhooks' example, cut to a day in all.
var aDay = []time.Duration{
	5 * time.Second, 30 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 8 * time.Hour, 8*time.Hour + 24*time.Minute + 25*time.Second,
}

// Webhooks dispatches events and delivers them.
type Webhooks struct {
	Config
	client *http.Client
	// retryFor is for how long an event is tried.
	retryFor time.Duration
	// most events may wait for one webhook, mostFull where there is little room.
	most, mostFull uint64

	mu    sync.Mutex
	lanes map[string]*lane // by webhook
	full  map[string]int64 // webhooks that were told to be disabled, at which version
}

// New makes Webhooks; nothing is sent before Run.
func New(cfg Config) *Webhooks {
	if cfg.Schedule == nil {
		cfg.Schedule = aDay
	}
	if cfg.Refresh == 0 {
		cfg.Refresh = 2 * time.Second
	}
	w := &Webhooks{Config: cfg, client: newClient(cfg.AllowPrivate), most: maxWaiting, mostFull: maxWaitingFull, lanes: map[string]*lane{}, full: map[string]int64{}}
	for _, d := range cfg.Schedule {
		w.retryFor += d
	}
	return w
}

// Run dispatches and delivers until ctx ends. Outages are waited out.
func (w *Webhooks) Run(ctx context.Context) error {
	defer w.client.CloseIdleConnections()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return w.follow(ctx) })
	g.Go(func() error { return w.serve(ctx) })
	return g.Wait()
}
