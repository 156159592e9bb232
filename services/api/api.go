// Package api is the HTTP side of writ: it authorizes every request with
// Cerbos, puts commands with their decisions and all other decisions on the
// ledger, and answers when the ledger has them.
//
//	HTTP ──▶ session (Stytch) ──▶ principal (SQL) ──▶ decision (Cerbos) ──▶ LEDGER ──▶ answer
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/content"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/health"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/kinds"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/limit"
	"github.com/writ-project/writ/pkg/request"
	"github.com/writ-project/writ/pkg/service"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/telemetry"
	"github.com/writ-project/writ/services/api/internal/server"
)

// Config is what the api is started with. The tags name its settings.
type Config struct {
	Addr            string `env:"WRIT_API_ADDR" envDefault:":8080"`
	PublicURL       string `env:"WRIT_PUBLIC_URL"`
	NATSURL         string `env:"WRIT_NATS_URL,required,notEmpty"`
	LedgerReplicas  int    `env:"WRIT_LEDGER_REPLICAS" envDefault:"1"`
	LedgerShards    int    `env:"WRIT_LEDGER_SHARDS" envDefault:"1"`
	LedgerMaxBytes  int64  `env:"WRIT_LEDGER_MAX_BYTES" envDefault:"0"`
	DatabaseURL     string `env:"WRIT_DATABASE_URL,required,notEmpty"`
	Cerbos          string `env:"WRIT_CERBOS" envDefault:"embed:policies"`
	PolicyRevision  string `env:"WRIT_POLICY_REVISION"`
	SealKeys        string `env:"WRIT_SEAL_KEYS,required,notEmpty"`
	StytchProjectID string `env:"STYTCH_PROJECT_ID,required,notEmpty"`
	StytchSecret    string `env:"STYTCH_SECRET,required,notEmpty"`
	StytchBaseURL   string `env:"STYTCH_BASE_URL"`

	// TrustedProxies are the address ranges (CIDR, separated by commas) whose X-Forwarded-For says where a request comes from.
	TrustedProxies string `env:"WRIT_TRUSTED_PROXIES"`
	// CORSOrigins are the origins (separated by commas) whose pages may use the service with a token of their own.
	CORSOrigins string `env:"WRIT_CORS_ORIGINS"`

	StytchWebhookSecret string `env:"STYTCH_WEBHOOK_SECRET"`
	BootstrapAdmin      string `env:"WRIT_BOOTSTRAP_ADMIN"`

	// WebhooksAllowPrivate lets webhooks go to addresses that are not public, and over plain HTTP.
	WebhooksAllowPrivate bool `env:"WRIT_WEBHOOKS_ALLOW_PRIVATE" envDefault:"false"`

	// uint64, because env reads a uint as 32 bits.
	MaxUpload       uint64 `env:"WRIT_MAX_UPLOAD" envDefault:"2147483648"` // bytes of a video's file
	ContentMaxBytes uint64 `env:"WRIT_CONTENT_MAX_BYTES" envDefault:"0"`   // bytes of all files together; 0: the server's limit

	// Past these a request is refused at once; 0 means no limit.
	MaxInFlight uint `env:"WRIT_MAX_IN_FLIGHT" envDefault:"1024"` // requests
	RateLimit   uint `env:"WRIT_RATE_LIMIT" envDefault:"1000"`    // requests a second of one principal
	MaxBacklog  uint `env:"WRIT_MAX_BACKLOG" envDefault:"100000"` // commands that wait to be applied

	// Local is a local stack, writ dev's: its cookies can travel over plain HTTP,
	// and whoever signs in may take a role. Mailbox is where its mail is read.
	Local   bool   `env:"-"`
	Mailbox string `env:"-"`

	// Listener takes the requests; nil means to listen on Addr.
	Listener net.Listener `env:"-"`
	Log      *slog.Logger `env:"-"`
	Version  string       `env:"-"`
}

// Run serves until ctx ends, then drains: no new requests, answers out, ledger
// flushed. It returns an error when it cannot start; outages later are 503s.
func Run(ctx context.Context, cfg Config) (err error) {
	// Bind, build, run, then drain in reverse.
	if cfg.Listener, err = service.Listen(cfg.Listener, "WRIT_API_ADDR", cfg.Addr); err != nil {
		return err
	}
	defer cfg.Listener.Close() // the server closes it first, if it gets that far

	keys, err := events.ParseKeyring(cfg.SealKeys)
	if err != nil {
		return fmt.Errorf("WRIT_SEAL_KEYS: %w", err)
	}
	proxies, err := request.ParseProxies(cfg.TrustedProxies)
	if err != nil {
		return fmt.Errorf("WRIT_TRUSTED_PROXIES: %w", err)
	}
	if err := service.NATSURL(cfg.NATSURL); err != nil {
		return err
	}
	origins, err := request.ParseOrigins(cfg.CORSOrigins)
	if err != nil {
		return fmt.Errorf("WRIT_CORS_ORIGINS: %w", err)
	}
	tel, err := telemetry.Setup(ctx, "writ-api", cfg.Version)
	if err != nil {
		return err
	}
	defer service.Export(cfg.Log, "telemetry", tel.Shutdown)
	st, err := store.Open(ctx, cfg.DatabaseURL)
	if err != nil {
		return err
	}
	defer service.Close(&err, st.Close)
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
	nc, err := ledger.Connect(cfg.NATSURL, "writ-api")
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

	files, err := content.Open(ctx, nc, content.Config{Replicas: cfg.LedgerReplicas, MaxBytes: int64(min(cfg.ContentMaxBytes, math.MaxInt64))})
	if err != nil {
		return err
	}
	background, err := jobs.Open(ctx, nc, jobs.Config{Keys: keys, Replicas: cfg.LedgerReplicas})
	if err != nil {
		return err
	}

	probes := health.New(
		health.Check{Name: ledger.Dependency, Critical: true, Func: led.Ready},
		health.Check{Name: "database", Critical: true, Func: migrated(st)},
		health.Check{Name: "cerbos", Critical: true, Func: az.Ready},
		// Sessions are verified with cached keys, so an outage of Stytch is reported, not fatal.
		health.Check{Name: "stytch", Critical: false, Func: id.Ready},
	)
	backlog := limit.NewBacklog(cfg.MaxBacklog, func(ctx context.Context) (n uint64, err error) {
		positions, err := st.Positions(ctx)
		if err != nil {
			return 0, err
		}
		lag, err := led.Lag(ctx, positions)
		for _, waiting := range lag {
			n += waiting
		}
		return n, err
	})
	queue := limit.NewBacklog(cfg.MaxBacklog, st.Waiting)
	_, port, err := net.SplitHostPort(cfg.Listener.Addr().String())
	if err != nil {
		return fmt.Errorf("WRIT_API_ADDR: %w", err)
	}
	srv, handler, err := server.New(server.Config{
		Ledger: led, Store: st, Authz: az, Identity: id, Keys: keys, Kinds: kinds.All, Health: probes,
		Telemetry: tel, Log: cfg.Log, Version: cfg.Version, PublicURL: cfg.PublicURL, OwnURL: "http://localhost:" + port, Local: cfg.Local, Mailbox: cfg.Mailbox, Stopping: ctx.Done(),
		Content: files, MaxUpload: int64(min(cfg.MaxUpload, math.MaxInt64/2)), Jobs: background,
		StytchWebhookSecret: cfg.StytchWebhookSecret, BootstrapAdmin: cfg.BootstrapAdmin, WebhooksAllowPrivate: cfg.WebhooksAllowPrivate,
		TrustedProxies: proxies, CORSOrigins: origins, MaxInFlight: cfg.MaxInFlight, RateLimit: cfg.RateLimit, Backlog: backlog, Queue: queue,
	})
	if err != nil {
		return err
	}
	defer srv.Close()

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return backlog.Run(ctx) })
	g.Go(func() error { return queue.Run(ctx) })
	g.Go(func() error {
		return probes.Serve(ctx, &http.Server{
			Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute,
			IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10, ErrorLog: slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
		}, cfg.Listener, service.DrainTimeout)
	})
	return g.Wait()
}

// migrated is ready when the database answers and has the schema of this
// version: the worker brings it there.
func migrated(st *store.Store) func(context.Context) error {
	return func(ctx context.Context) error {
		pending, err := st.Pending(ctx)
		if err == nil && pending {
			err = errors.New("its schema is older than this version: the worker, or writ migrate, brings it up to date")
		}
		return err
	}
}
