// Package auditor copies every decision and outcome from the ledger into Redis
// streams, once and in order, and answers who may look into them.
//
//	LEDGER ──ordered──▶ writer ──compare and append──▶ writ:decisions, writ:outcomes, their trees
//	   ▲                  │
//	   ├──checkpoints─────┘                                          │
//	   └──decisions────── server ◀──────────────────────────────────┘
//	HTTP ──▶ session (Stytch) ──▶ principal (SQL) ──▶ decision (Cerbos)
package auditor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/health"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/request"
	"github.com/writ-project/writ/pkg/service"
	"github.com/writ-project/writ/pkg/telemetry"
	"github.com/writ-project/writ/services/auditor/internal/server"
	"github.com/writ-project/writ/services/auditor/internal/stream"
)

// Config is what the auditor is started with. The tags name its settings.
type Config struct {
	Addr           string `env:"WRIT_AUDITOR_ADDR" envDefault:":8081"`
	NATSURL        string `env:"WRIT_NATS_URL,required,notEmpty"`
	LedgerReplicas int    `env:"WRIT_LEDGER_REPLICAS" envDefault:"1"`
	LedgerShards   int    `env:"WRIT_LEDGER_SHARDS" envDefault:"1"`
	LedgerMaxBytes int64  `env:"WRIT_LEDGER_MAX_BYTES" envDefault:"0"`
	RedisURL       string `env:"WRIT_REDIS_URL,required,notEmpty"`
	SealKeys       string `env:"WRIT_SEAL_KEYS,required,notEmpty"`
	// AuditKeyFile holds the key that signs checkpoints (audit.LoadKey).
	AuditKeyFile string `env:"WRIT_AUDIT_KEY_FILE,required,notEmpty"`
	// AuditRetention is how long entries are kept in Redis; 0 means for ever.
	AuditRetention time.Duration `env:"WRIT_AUDIT_RETENTION" envDefault:"720h"`

	// TrustedProxies are the address ranges (CIDR, separated by commas) whose X-Forwarded-For says where a request comes from.
	TrustedProxies string `env:"WRIT_TRUSTED_PROXIES"`
	// CORSOrigins are the origins (separated by commas) whose pages may use the service with a token of their own.
	CORSOrigins string `env:"WRIT_CORS_ORIGINS"`

	// What follows is for those who look into the log; the copying needs none of it.
	DatabaseURL     string `env:"WRIT_DATABASE_URL,required,notEmpty"`
	Cerbos          string `env:"WRIT_CERBOS" envDefault:"embed:policies"`
	PolicyRevision  string `env:"WRIT_POLICY_REVISION"`
	StytchProjectID string `env:"STYTCH_PROJECT_ID,required,notEmpty"`
	StytchSecret    string `env:"STYTCH_SECRET,required,notEmpty"`
	StytchBaseURL   string `env:"STYTCH_BASE_URL"`

	// Listener takes the requests; nil means to listen on Addr.
	Listener net.Listener `env:"-"`
	Log      *slog.Logger `env:"-"`
	Version  string       `env:"-"`
}

// maxLag is how many messages the audit log may be behind and still be ready.
const maxLag = 100_000

// Run copies until ctx ends. It returns an error when it cannot start; outages
// later are waited out.
func Run(ctx context.Context, cfg Config) (err error) {
	if cfg.Listener, err = service.Listen(cfg.Listener, "WRIT_AUDITOR_ADDR", cfg.Addr); err != nil {
		return err
	}
	defer cfg.Listener.Close() // the server closes it first, if it gets that far

	keys, err := events.ParseKeyring(cfg.SealKeys)
	if err != nil {
		return fmt.Errorf("WRIT_SEAL_KEYS: %w", err)
	}
	key, err := audit.LoadKey(cfg.AuditKeyFile)
	if err != nil {
		return fmt.Errorf("WRIT_AUDIT_KEY_FILE: %w", err)
	}
	if cfg.AuditRetention < 0 {
		return fmt.Errorf("WRIT_AUDIT_RETENTION: %s is negative; 0 keeps for ever", cfg.AuditRetention)
	}
	options, err := redis.ParseURL(cfg.RedisURL)
	if err != nil {
		return errors.New("WRIT_REDIS_URL: want redis://[user:password@]host:port/db") // the cause may hold the password
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
	tel, err := telemetry.Setup(ctx, "writ-auditor", cfg.Version)
	if err != nil {
		return err
	}
	defer service.Export(cfg.Log, "telemetry", tel.Shutdown)
	rdb := redis.NewClient(options)
	defer service.Close(&err, rdb.Close)
	by, err := cfg.open(ctx)
	if err != nil {
		return err
	}
	defer service.Close(&err, by.close)

	nc, err := ledger.Connect(cfg.NATSURL, "writ-auditor")
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
	writer, err := stream.NewWriter(stream.Config{
		Ledger: led, Appender: audit.NewAppender(rdb, cfg.AuditRetention), Reader: audit.NewReader(rdb), Seals: keys, Key: key,
		Retention: cfg.AuditRetention, Log: cfg.Log, Telemetry: tel,
	})
	if err != nil {
		return err
	}

	probes := health.New(append(by.checks(),
		health.Check{Name: ledger.Dependency, Critical: true, Func: led.Ready},
		health.Check{Name: audit.Dependency, Critical: true, Func: func(ctx context.Context) error { return rdb.Ping(ctx).Err() }},
		health.Check{Name: "audit-proof", Critical: true, Func: writer.Sound},
		health.Check{Name: "audit-lag", Critical: false, Func: func(ctx context.Context) error {
			lag, err := writer.Lag(ctx)
			if err == nil && lag > maxLag {
				err = fmt.Errorf("%d messages behind the ledger", lag)
			}
			return err
		}},
	)...)

	g, ctx := errgroup.WithContext(ctx)
	srv, handler, err := server.New(by.config(server.Config{
		Audit: audit.NewReader(rdb), Key: key.PublicKey, Ledger: led, Keys: keys, Health: probes, Telemetry: tel, Log: cfg.Log,
		Version: cfg.Version, TrustedProxies: proxies, CORSOrigins: origins, Stopping: ctx.Done(),
	}))
	if err != nil {
		return err
	}
	defer srv.Close()
	g.Go(func() error {
		return probes.Serve(ctx, httpServer(handler, cfg.Log), cfg.Listener, service.DrainTimeout)
	})
	g.Go(func() error { return writer.Run(ctx) })
	return g.Wait()
}
