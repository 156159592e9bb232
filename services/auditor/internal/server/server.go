// Package server is the auditor's HTTP side: the audit log to look into, to
// follow, to export and to verify. Looking into it is itself a decision: it is
// put on the ledger before the answer, and comes by in the log like any other.
package server

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/health"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/openapi"
	"github.com/writ-project/writ/pkg/problem"
	"github.com/writ-project/writ/pkg/request"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/telemetry"
)

// Limits of one request.
const (
	requestTimeout = 10 * time.Second // of an answer that is not streamed
	appendTimeout  = 3 * time.Second  // for the ledger to acknowledge
	stepTimeout    = 5 * time.Second  // for Redis to give one step of the log
)

// Config is what a Server works with.
type Config struct {
	Audit     *audit.Reader
	Key       audit.PublicKey // what checkpoints are signed with; may be zero
	Ledger    *ledger.Ledger
	Store     *store.Store
	Authz     authz.Authorizer
	Identity  *identity.Client
	Keys      *events.Keyring
	Health    *health.Health
	Telemetry *telemetry.Telemetry
	Log       *slog.Logger
	Version   string
	// TrustedProxies say where requests come from (WRIT_TRUSTED_PROXIES).
	TrustedProxies request.Proxies
	// CORSOrigins are those whose pages may use this (WRIT_CORS_ORIGINS).
	CORSOrigins request.Origins
	// Stopping is closed when the service drains: streams and exports end then.
	// Nil means never.
	Stopping <-chan struct{}
}

// Server answers requests.
type Server struct {
	Config
	limits  limits
	api     huma.API
	gate    *gate.Gate
	metrics *metrics
	watch   *watch
	steps   chan struct{} // a place for each step of the log that is in memory
	streams *places
	exports *places
}

// New makes a server that watches the log for its streams until Close.
func New(cfg Config) (*Server, http.Handler, error) {
	s := &Server{
		Config: cfg, limits: defaults, steps: make(chan struct{}, maxSteps),
		gate:    &gate.Gate{Identity: cfg.Identity, Store: cfg.Store, Log: cfg.Log}, // who has no row is a guest
		streams: newPlaces("streams", maxStreams, maxStreamsEach),
		exports: newPlaces("exports", maxExports, maxExportsEach),
	}
	var err error
	if s.metrics, err = newMetrics(cfg.Telemetry.Meter(), s); err != nil {
		return nil, nil, err
	}
	s.watch = newWatch(cfg.Audit)
	return s, s.routes(), nil
}

// Close stops watching the log. No stream may be open any more.
func (s *Server) Close() { s.watch.close() }

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
			otelhttp.NewMiddleware("http", otelhttp.WithTracerProvider(s.Telemetry.TracerProvider()),
				otelhttp.WithMeterProvider(s.Telemetry.MeterProvider()), otelhttp.WithPropagators(s.Telemetry.Propagator())),
			problem.Recover(s.Log), request.NameSpan, problem.Conditional(s.Log), // within, so that a crash is counted too
		)
		s.api = humachi.New(r, openapi.Config("writ audit",
			"Every decision, as it stands on the ledger, and the proof that none is missing or changed.", s.Version, ""))
		s.api.UseMiddleware(s.gate.Middleware(s.api), openapi.Input(s.api))
		s.registerDecisions()
		s.registerProofs()
		s.registerStream()
		s.registerExport()
		s.registerStats()
		s.registerTiles(r)
		s.registerSequences()
		describeHeaders(s.api.OpenAPI())
		r.Get("/docs", openapi.Page(s.api, s.Log))
	})
	return r
}

// register adds an operation whose errors go through the one table in
// pkg/problem and whose time is bounded.
func register[I, O any](s *Server, op huma.Operation, handle func(context.Context, *I) (*O, error)) {
	registerStreamed(s, op, func(ctx context.Context, in *I) (*O, error) {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		return handle(ctx, in)
	})
}

// registerStreamed is register for an answer that takes its time.
func registerStreamed[I, O any](s *Server, op huma.Operation, handle func(context.Context, *I) (*O, error)) {
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	op.Method, op.Tags = http.MethodGet, []string{"audit"}
	op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusUnauthorized, http.StatusUnprocessableEntity, http.StatusInternalServerError, http.StatusServiceUnavailable)
	problem.Describe(s.api, &op)
	op.RejectUnknownQueryParameters = true
	op.Parameters = append(op.Parameters, tenantParam())
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, in)
		if err != nil {
			return nil, s.problem(ctx, err)
		}
		return out, nil
	})
}

func tenantParam() *huma.Param {
	return &huma.Param{
		Name: gate.TenantHeader, In: "header", Description: "The tenant that the request is about; default if it is not given",
		Schema: &huma.Schema{Type: huma.TypeString, Pattern: gate.TenantPattern},
	}
}

// describeHeaders puts the headers that every answer may have into the document.
func describeHeaders(doc *huma.OpenAPI) {
	for _, item := range doc.Paths {
		for status, r := range item.Get.Responses {
			if code, err := strconv.Atoi(status); err == nil && r.Description == "" { // OpenAPI wants one
				r.Description = http.StatusText(code)
			}
			if r.Headers == nil {
				r.Headers = map[string]*huma.Header{}
			}
			if r.Headers["Cache-Control"] == nil {
				r.Headers["Cache-Control"] = &huma.Header{
					Description: "private, no-cache, with Vary: Authorization, Cookie, Writ-Tenant", Schema: &huma.Schema{Type: huma.TypeString},
				}
			}
			r.Headers[request.IDHeader] = &huma.Header{
				Description: "The request's own id, if it had a reasonable one", Required: true, Schema: &huma.Schema{Type: huma.TypeString},
			}
		}
	}
}
