// Package worker applies commands from the ledger to SQL, exactly once.
//
//	LEDGER ──▶ apply loop ──▶ SQL (rows, commands, positions, queue)
//	              │   ▲                                        │
//	              │   └── Cerbos, for decisions that           ▼
//	              │       have gone stale ───────────────▶ role worker ──▶ Stytch, then SQL
//	              ▼                                            │
//	           LEDGER (second decisions, outcomes), DEAD ◀─────┘
package worker

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os/exec"

	"golang.org/x/sync/errgroup"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/content"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/health"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/kind/webhook"
	"github.com/writ-project/writ/pkg/kinds"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/service"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/telemetry"
	"github.com/writ-project/writ/services/worker/internal/apply"
	"github.com/writ-project/writ/services/worker/internal/probe"
	"github.com/writ-project/writ/services/worker/internal/roles"
	"github.com/writ-project/writ/services/worker/internal/videos"
	"github.com/writ-project/writ/services/worker/internal/webhooks"
)

// Config is what the worker is started with. The tags name its settings.
type Config struct {
	Addr           string `env:"WRIT_WORKER_ADDR" envDefault:":8082"`
	NATSURL        string `env:"WRIT_NATS_URL,required,notEmpty"`
	LedgerReplicas int    `env:"WRIT_LEDGER_REPLICAS" envDefault:"1"`
	LedgerShards   int    `env:"WRIT_LEDGER_SHARDS" envDefault:"1"`
	LedgerMaxBytes int64  `env:"WRIT_LEDGER_MAX_BYTES" envDefault:"0"`
	DatabaseURL    string `env:"WRIT_DATABASE_URL,required,notEmpty"`
	Cerbos         string `env:"WRIT_CERBOS" envDefault:"embed:policies"`
	PolicyRevision string `env:"WRIT_POLICY_REVISION"`
	SealKeys       string `env:"WRIT_SEAL_KEYS,required,notEmpty"`
	// ContentMaxBytes bounds the files of videos together; 0: the server's limit. uint64, because env reads a uint as 32 bits.
	ContentMaxBytes uint64 `env:"WRIT_CONTENT_MAX_BYTES" envDefault:"0"`

	// WebhooksAllowPrivate lets webhooks go to addresses that are not public, and over plain HTTP.
	WebhooksAllowPrivate bool `env:"WRIT_WEBHOOKS_ALLOW_PRIVATE" envDefault:"false"`

	StytchProjectID string `env:"STYTCH_PROJECT_ID,required,notEmpty"`
	StytchSecret    string `env:"STYTCH_SECRET,required,notEmpty"`
	StytchBaseURL   string `env:"STYTCH_BASE_URL"`

	// Listener serves health and metrics; nil means to listen on Addr.
	Listener net.Listener `env:"-"`
	Log      *slog.Logger `env:"-"`
	Version  string       `env:"-"`
}

// Run applies commands until ctx ends, then finishes the batch in hand.
// It returns an error when it cannot start; outages later are waited out.
func Run(ctx context.Context, cfg Config) (err error) {
	// Bind, build, run, then drain in reverse.
	if cfg.Listener, err = service.Listen(cfg.Listener, "WRIT_WORKER_ADDR", cfg.Addr); err != nil {
		return err
	}
	defer cfg.Listener.Close() // the server closes it first, if it gets that far

	keys, err := events.ParseKeyring(cfg.SealKeys)
	if err != nil {
		return fmt.Errorf("WRIT_SEAL_KEYS: %w", err)
	}
	if err := service.NATSURL(cfg.NATSURL); err != nil {
		return err
	}
	tel, err := telemetry.Setup(ctx, "writ-worker", cfg.Version)
	if err != nil {
		return err
	}
	defer service.Export(cfg.Log, "telemetry", tel.Shutdown)

	st, err := store.Open(ctx, cfg.DatabaseURL)
	if err != nil {
		return err
	}
	defer service.Close(&err, st.Close)
	if err := st.Migrate(ctx); err != nil {
		return fmt.Errorf("migrate the database: %w", err)
	}
	az, err := authz.Open(ctx, cfg.Cerbos, authz.WithRevision(cfg.PolicyRevision), authz.WithLogger(cfg.Log))
	if err != nil {
		return err
	}
	defer service.Close(&err, az.Close)

	id, err := identity.New(ctx, identity.Config{ProjectID: cfg.StytchProjectID, Secret: cfg.StytchSecret, BaseURL: cfg.StytchBaseURL, Log: cfg.Log})
	if err != nil {
		return err
	}
	defer id.Close()

	nc, err := ledger.Connect(cfg.NATSURL, "writ-worker")
	if err != nil {
		return err
	}
	defer nc.Close()
	led, err := ledger.Open(ctx, nc, ledger.Config{Replicas: cfg.LedgerReplicas, Shards: cfg.LedgerShards, MaxBytes: cfg.LedgerMaxBytes, Meter: tel.Meter(), Tracer: tel.Tracer()})
	if err != nil {
		return err
	}
	defer service.CloseWithin(&err, service.FlushTimeout, led.Close)
	defer service.Export(cfg.Log, "observations", tel.StopObserving) // which read what is closed after this

	handlers := []apply.Handler{apply.Directory(), apply.Tenants(), apply.AtMost(webhook.MaxPerTenant, apply.CRUD(webhook.Kind))}
	for _, d := range kinds.All {
		handlers = append(handlers, apply.CRUD(d))
	}
	loop, err := apply.New(apply.Config{Ledger: led, Store: st, Authz: az, Keys: keys, Handlers: handlers, Log: cfg.Log, Telemetry: tel})
	if err != nil {
		return err
	}

	atStytch, err := roles.New(roles.Config{Ledger: led, Store: st, Authz: az, Keys: keys, Stytch: id, Log: cfg.Log, Telemetry: tel})
	if err != nil {
		return err
	}

	files, err := content.Open(ctx, nc, content.Config{Replicas: cfg.LedgerReplicas, MaxBytes: int64(min(cfg.ContentMaxBytes, math.MaxInt64))})
	if err != nil {
		return err
	}
	background, err := jobs.Open(ctx, nc, jobs.Config{Keys: keys, Replicas: cfg.LedgerReplicas, Bury: led.Bury, Log: cfg.Log, Meter: tel.Meter(), Tracer: tel.Tracer()})
	if err != nil {
		return err
	}
	ffprobe, _ := exec.LookPath("ffprobe") // without it MP4 and MOV alone are understood
	watched := videos.New(videos.Config{
		Ledger: led, Store: st, Authz: az, Keys: keys, Content: files, Jobs: background, Prober: probe.Prober{FFprobe: ffprobe}, Log: cfg.Log,
	})

	hooks := webhooks.New(webhooks.Config{
		Ledger: led, Store: st, Authz: az, Keys: keys, Jobs: background, Log: cfg.Log, AllowPrivate: cfg.WebhooksAllowPrivate,
	})

	probes := health.New(
		health.Check{Name: ledger.Dependency, Critical: true, Func: led.Ready},
		health.Check{Name: "database", Critical: true, Func: st.Ping},
		health.Check{Name: "cerbos", Critical: true, Func: az.Ready},
		health.Check{Name: "apply", Critical: true, Func: loop.Ready},
		// Without Stytch its commands wait; everything else goes on.
		health.Check{Name: "stytch", Func: id.Ready},
	)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return probes.Serve(ctx, probes.OperationsServer(tel.Handler()), cfg.Listener, service.DrainTimeout)
	})
	g.Go(func() error { return loop.Run(ctx) })
	g.Go(func() error { return watched.Run(ctx) })
	g.Go(func() error { return background.Run(ctx) })
	g.Go(func() error { return hooks.Run(ctx) })
	g.Go(func() error { return atStytch.Run(ctx) })
	return g.Wait()
}
