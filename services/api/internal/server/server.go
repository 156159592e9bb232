// Package server is the api's HTTP side. Every handler reads like the promise:
// load, decide, record the decision, answer. What changes something is put on
// the ledger together with the decision that permits it, and nowhere else.
package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/go-chi/httprate"
	svix "github.com/svix/svix-webhooks/go"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"golang.org/x/sync/singleflight"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/content"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/health"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/limit"
	"github.com/writ-project/writ/pkg/openapi"
	"github.com/writ-project/writ/pkg/problem"
	"github.com/writ-project/writ/pkg/request"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/telemetry"
	"github.com/writ-project/writ/services/api/internal/signin"
)

// Limits of one request.
const (
	maxBody        = 1 << 20          // bytes of a JSON body
	requestTimeout = 10 * time.Second // beside what the client asks to wait
	appendTimeout  = 3 * time.Second  // for the ledger to acknowledge
	maxWait        = 30 * time.Second // Prefer: wait
	writLife       = 24 * time.Hour   // how long a command may wait to be applied
)

// Config is what a Server works with.
type Config struct {
	Ledger    *ledger.Ledger
	Store     *store.Store
	Authz     authz.Authorizer
	Identity  *identity.Client
	Keys      *events.Keyring
	Kinds     []*kind.Definition
	Health    *health.Health
	Telemetry *telemetry.Telemetry
	Log       *slog.Logger
	Version   string
	PublicURL string
	// OwnURL is where browsers on this machine reach the api: sign-in links lead
	// there where PublicURL is not set.
	OwnURL string
	// Local and Mailbox are a local stack's: see signin.Config.
	Local   bool
	Mailbox string
	// StytchWebhookSecret is what Stytch's webhooks are signed with (STYTCH_WEBHOOK_SECRET);
	// "" means that there are none.
	StytchWebhookSecret string
	// BootstrapAdmin is the address of the first admin (WRIT_BOOTSTRAP_ADMIN); "" for none.
	BootstrapAdmin string
	// TrustedProxies say where requests come from (WRIT_TRUSTED_PROXIES).
	TrustedProxies request.Proxies
	// CORSOrigins are those whose pages may use this (WRIT_CORS_ORIGINS).
	CORSOrigins request.Origins
	// MaxInFlight is how many requests are worked on at a time; 0 means no limit.
	MaxInFlight uint
	// RateLimit is how many requests a second one principal may send to this
	// instance; 0 means no limit.
	RateLimit uint
	// Backlog refuses commands while too many wait to be applied; nil means never.
	Backlog *limit.Backlog
	// Queue refuses commands for Stytch while too many of those wait, which may be
	// for as long as Stytch is away; nil means never. They count by themselves, so
	// that they keep nobody else's commands out.
	Queue *limit.Backlog
	// Content keeps the files of videos, of at most MaxUpload bytes each; nil: there
	// are no routes for them.
	Content   *content.Store
	MaxUpload int64
	// StreamCheck is how often it is decided again whether one may go on downloading
	// or watching; 0 means every 30 s.
	StreamCheck time.Duration
	// Jobs are the background jobs; nil: there are no routes for them.
	Jobs *jobs.Client
	// WebhooksAllowPrivate lets webhooks go to addresses that are not public, and
	// over plain HTTP (WRIT_WEBHOOKS_ALLOW_PRIVATE).
	WebhooksAllowPrivate bool
	// Stopping is closed when the service drains: nobody is kept waiting for an
	// outcome then. Nil means never.
	Stopping <-chan struct{}
}

// Server answers requests.
type Server struct {
	Config
	api     huma.API
	gate    *gate.Gate
	metrics *metrics
	waiters *waiters
	recent  *recent
	syncing singleflight.Group
	webhook *svix.Webhook // nil: not set up
	signin  *signin.SignIn
	rate    *limit.Rate
	syncs   *httprate.RateLimiter // of POST /v1/me/sync, by user
	cursors cursors               // for lists by plans that are not exact
	looking chan struct{}         // a place for each that reads the end of the ledger
	// unlisten ends the hearing of other instances' sessions that ended.
	unlisten func()
}

// New makes a server that listens for outcomes until Close.
func New(cfg Config) (*Server, http.Handler, error) {
	s := &Server{Config: cfg, recent: newRecent(recentCommands), rate: limit.NewRate(cfg.RateLimit), syncs: newSyncs(), looking: make(chan struct{}, accountReaders)}
	s.gate = &gate.Gate{Identity: cfg.Identity, Store: cfg.Store, Log: cfg.Log, FirstSeen: s.firstSeen}
	var err error
	if s.webhook, err = newWebhook(cfg.StytchWebhookSecret); err != nil {
		return nil, nil, fmt.Errorf("STYTCH_WEBHOOK_SECRET: %w", err)
	}
	if s.cursors, err = newCursors(cfg.Keys); err != nil {
		return nil, nil, err
	}
	if s.metrics, err = newMetrics(cfg.Telemetry.Meter()); err != nil {
		return nil, nil, err
	}
	if s.waiters, err = newWaiters(cfg.Ledger); err != nil {
		return nil, nil, err
	}
	if err := s.startSignIn(); err != nil {
		s.waiters.close()
		return nil, nil, err
	}
	return s, s.routes(), nil
}

// Close sends the sign-in links that are queued and stops listening for
// outcomes and for sessions that end.
func (s *Server) Close() {
	s.signin.Close()
	s.unlisten()
	s.waiters.close()
}

func (s *Server) routes() http.Handler {
	r := chi.NewRouter()
	r.Use(request.Identify(s.TrustedProxies), s.CORSOrigins.CORS, middleware.GetHead, problem.Recover(s.Log), problem.WellFormed(s.Log))
	r.NotFound(problem.NotFound)
	r.MethodNotAllowed(problem.MethodNotAllowed)
	r.Get("/livez", s.Health.Livez)
	r.Get("/readyz", s.Health.Readyz)
	r.Method(http.MethodGet, "/metrics", s.Telemetry.Handler())

	r.Group(func(r chi.Router) {
		r.Use(
			// Outermost, so that what is refused below and what crashes is counted too.
			otelhttp.NewMiddleware("http", otelhttp.WithTracerProvider(s.Telemetry.TracerProvider()),
				otelhttp.WithMeterProvider(s.Telemetry.MeterProvider()), otelhttp.WithPropagators(s.Telemetry.Propagator())),
			problem.Recover(s.Log), limit.InFlight(s.MaxInFlight),
			request.NameSpan, deadline, s.signin.Bearer, s.signin.Pages(s.accountPage), problem.Conditional(s.Log),
		)
		s.api = humachi.New(r, openapi.Config("writ",
			"Commands on resources, each authorized by a policy and recorded with the decision that permits it.", s.Version, s.PublicURL))
		s.api.UseMiddleware(s.gate.Middleware(s.api), s.notTooOften(s.rate), openapi.Input(s.api), s.preconditions)
		for _, d := range s.Kinds {
			s.registerKind(d)
		}
		s.registerCommands()
		s.registerWaiting()
		s.registerDead()
		s.registerMe()
		s.registerUsers()
		s.registerTenants()
		s.registerWebhooks()
		s.registerHooks()
		s.registerSignIn()
		s.registerAccount()
		s.registerAuthzen()
		s.registerJobs()
		s.describeContent()
		describeHeaders(s.api.OpenAPI())
		r.Get(signin.PathLogin, s.signin.LoginPage)
		r.Get(signin.PathSent, s.signin.SentPage)
		r.Get("/docs", openapi.Page(s.api, s.Log))
	})
	s.contentRoutes(r)
	return r
}

// register adds an operation whose errors go through the one table in pkg/problem.
func register[I, O any](s *Server, op huma.Operation, handle func(context.Context, *I) (*O, error)) {
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	open := op.Security != nil && len(op.Security) == 0
	for _, status := range []int{http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable} {
		if !slices.Contains(op.Errors, status) && (!open || status != http.StatusTooManyRequests) {
			op.Errors = append(op.Errors, status)
		}
	}
	if !slices.Contains(op.Errors, http.StatusBadRequest) {
		op.Errors = append(op.Errors, http.StatusBadRequest) // a query that cannot be read, a header twice
	}
	if judged := op.Method != http.MethodGet || op.Responses["304"] != nil; judged && !slices.Contains(op.Errors, http.StatusPreconditionFailed) {
		op.Errors = append(op.Errors, http.StatusPreconditionFailed)
	}
	problem.Describe(s.api, &op)
	// huma knows the parameters of the input's type only; an operation with others looks itself.
	op.RejectUnknownQueryParameters = len(op.Parameters) == 0
	if !open { // who need not be signed in asks about no tenant
		op.Parameters = append(op.Parameters, &huma.Param{
			Name: gate.TenantHeader, In: "header", Description: "The tenant that the request is about; default if it is not given",
			Schema: &huma.Schema{Type: huma.TypeString, Pattern: gate.TenantPattern},
		})
	}
	op.MaxBodyBytes = maxBody + 1 // huma refuses a body that reaches the limit
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, in)
		if err != nil {
			return nil, problem.From(ctx, s.Log, err)
		}
		return out, nil
	})
}
