// Package identity is Stytch behind one small interface: who sent a request,
// who the users are, and how they sign in. It sits on stytch-go's consumer
// client and knows no more of Stytch than writ needs.
//
// Session JWTs are verified here, against the project's cached keys, and not
// through stytch-go: its AuthenticateJWT asks Stytch about every JWT that it
// cannot verify, so anybody could make us call Stytch with forged tokens, and
// its key set cannot be loaded lazily.
//
// Errors are fault.Error: Unauthenticated for credentials that are not good,
// NotFound, Invalid and KindConflict for what Stytch refuses, Unavailable with
// RetryAfter for what may go well later. See Temporary.
package identity

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/stytchauth/stytch-go/v16/stytch/consumer/stytchapi"
	"golang.org/x/sync/singleflight"

	"github.com/writ-project/writ/pkg/fault"
)

const (
	// callTimeout is the longest that a call to Stytch may take.
	callTimeout = 5 * time.Second
	// maxOpaqueTTL bounds how long a revoked opaque token may still pass.
	maxOpaqueTTL = 30 * time.Second
	// refusedTTL is how long a token that Stytch refused is refused unasked.
	refusedTTL = 5 * time.Second
	// revokedTTL outlives every JWT of a session (5 minutes, and the leeway).
	revokedTTL = 6 * time.Minute
	// maxLookups is how many opaque tokens may be asked about at once, and
	// maxWaiting how many may wait for that.
	maxLookups = 32
	maxWaiting = 1024

	defaultCacheSize = 10_000
)

// Config says which Stytch project to talk to.
type Config struct {
	ProjectID string // STYTCH_PROJECT_ID
	Secret    string // STYTCH_SECRET
	// BaseURL is the API's address, STYTCH_BASE_URL; "" for Stytch's own, test
	// or live by the project id.
	BaseURL string
	// HTTPClient gives the transport; nil for one of our own. Its timeout and
	// its redirect policy are not used: calls have deadlines and no redirect is
	// followed.
	HTTPClient *http.Client
	// CacheSize bounds each cache of tokens; 10,000 if 0.
	CacheSize int
	// OpaqueTTL is how long Stytch's word on an opaque token is trusted; 30 s
	// if 0 and at most.
	OpaqueTTL time.Duration
	// Clock gives the time; nil for time.Now.
	Clock func() time.Time
	// Log is told when Stytch begins to refuse the project's credentials, and
	// when it takes them again; nil for nobody.
	Log *slog.Logger
}

// Session is a session that a token proves.
type Session struct {
	ID     string
	UserID string
	// ExpiresAt is the session's end. A JWT ends sooner than its session.
	ExpiresAt time.Time
}

// Client is a Stytch project. It is safe for concurrent use.
type Client struct {
	api   *stytchapi.API
	http  *http.Client
	clock func() time.Time
	ttl   time.Duration

	credentials *credentials

	keys    *keySet
	jwts    *verifier
	lookups singleflight.Group
	slots   chan struct{} // a place for each opaque token that is asked about
	room    chan struct{} // and for each that waits for one

	verified *lru[digest, Session] // JWTs, until they expire
	opaque   *lru[digest, Session] // opaque tokens, for ttl
	refused  *lru[digest, error]   // opaque tokens that Stytch does not know
	revoked  *lru[string, struct{}]
}

// New makes a client without calling Stytch: the keys are fetched when the
// first JWT comes. When ctx ends no more keys are fetched. Errors name the
// setting that is missing or wrong.
func New(ctx context.Context, cfg Config) (*Client, error) {
	var missing []string
	if cfg.ProjectID == "" {
		missing = append(missing, "STYTCH_PROJECT_ID")
	}
	if cfg.Secret == "" {
		missing = append(missing, "STYTCH_SECRET")
	}
	if len(missing) > 0 {
		return nil, errors.New(strings.Join(missing, " and ") + " must be set")
	}
	if cfg.OpaqueTTL < 0 || cfg.OpaqueTTL > maxOpaqueTTL {
		return nil, errors.New("identity: OpaqueTTL must be at most 30 s")
	}
	hc := newHTTPClient(cfg.HTTPClient)
	opts := []stytchapi.Option{stytchapi.WithHTTPClient(hc), stytchapi.WithSkipJWKSInitialization()}
	if cfg.BaseURL != "" {
		if err := checkBaseURL(cfg.BaseURL); err != nil {
			return nil, err
		}
		opts = append(opts, stytchapi.WithBaseURI(cfg.BaseURL))
	}
	api, err := stytchapi.NewClient(cfg.ProjectID, cfg.Secret, opts...)
	if err != nil {
		return nil, err
	}
	clock := cfg.Clock
	if clock == nil {
		clock = time.Now
	}
	size := cmp.Or(cfg.CacheSize, defaultCacheSize)
	c := &Client{
		api: api, http: hc, clock: clock, ttl: cmp.Or(cfg.OpaqueTTL, maxOpaqueTTL),
		slots: make(chan struct{}, maxLookups), room: make(chan struct{}, maxWaiting),
		verified: newLRU[digest, Session](size), opaque: newLRU[digest, Session](size),
		refused: newLRU[digest, error](size), revoked: newLRU[string, struct{}](size),
	}
	c.credentials = &credentials{log: cfg.Log, clock: clock}
	c.keys = &keySet{ctx: ctx, clock: clock, fetch: c.fetchKeys}
	c.jwts = newVerifier(cfg.ProjectID, cfg.BaseURL, c.keys, clock)
	return c, nil
}

// Close lets idle connections go. Calls still work afterwards.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Ping says whether Stytch answers and knows the project: it fetches the
// project's keys, but no more than once in 15 s, or 1 s after a failure. While
// Stytch refuses the project's credentials it tries them again every 15 s.
func (c *Client) Ping(ctx context.Context) error {
	if err := c.keys.ping(ctx); err != nil {
		return err
	}
	return c.checkCredentials(ctx, false)
}

// Ready is Ping for a health check: it also tries the project's credentials
// where no call has done so yet.
func (c *Client) Ready(ctx context.Context) error {
	if err := c.keys.ping(ctx); err != nil {
		return err
	}
	return c.checkCredentials(ctx, true)
}

// Temporary reports whether a call that failed with err may go well later:
// Stytch answered 429, 5xx or nothing that can be read, did not answer at all, or
// refuses the project's credentials (CredentialsRefused). fault.Error.RetryAfter says when to try again. Any other error is final.
func Temporary(err error) bool { return fault.Is(err, fault.Unavailable) }
