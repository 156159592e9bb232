// Package signin signs people in with Stytch's magic links: pages and forms that
// need no script for browsers, and the same as JSON for programs.
//
//	POST /v1/auth/magic-link ─▶ cookie: sealed {PKCE verifier, return_to, …}; Stytch mails the link
//	GET  /v1/auth/callback   ─▶ verifier from the cookie ─▶ Stytch ─▶ session cookie, 303 to return_to
//	POST /v1/auth/logout     ─▶ the session ends at Stytch and in every api instance
//
// A link works only in the browser that asked for it, because only that one has
// the verifier (RFC 7636). That is also what keeps anybody from signing others in
// as somebody of their choice (login CSRF).
package signin

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"

	"go.opentelemetry.io/otel/metric"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/identity"
)

// Paths of the sign-in.
const (
	PathLogin    = "/login"
	PathSent     = "/login/sent"
	PathAccount  = "/account"
	PathLink     = "/v1/auth/magic-link"
	PathCallback = "/v1/auth/callback"
	PathLogout   = "/v1/auth/logout"
)

// Config is what a SignIn works with.
type Config struct {
	Identity *identity.Client
	// Keys are the seal keys; those of the cookies are derived from them, so that
	// every api instance reads the cookies of the others.
	Keys *events.Keyring
	// PublicURL is where browsers reach the api. Links lead there, never to what
	// a request's Host says.
	PublicURL string
	// Local is set by writ dev alone: cookies that plain HTTP can carry, the role
	// select, and the way to the mailbox.
	Local bool
	// Mailbox is the emulator's mailbox page, for Local.
	Mailbox string
	// Refresh brings a user's row of the directory up to date.
	Refresh func(ctx context.Context, userID string) error
	// Ended is told of a session that was ended here.
	Ended func(sessionID string)
	Meter metric.Meter
	Log   *slog.Logger
}

// SignIn answers what has to do with signing in and out. It is safe for
// concurrent use.
type SignIn struct {
	Config
	callback string
	cookies  cookies
	box      *box
	forms    forms
	origin   *http.CrossOriginProtection
	limits   *limits
	sender   *sender
	pages    *pages
}

// New starts a SignIn; Close ends it. The error names the setting that is wrong.
func New(cfg Config) (*SignIn, error) {
	public, err := parsePublicURL(cfg.PublicURL)
	if err != nil {
		return nil, err
	}
	base := public.Scheme + "://" + public.Host
	s := &SignIn{
		Config: cfg, callback: base + PathCallback, cookies: newCookies(cfg.Local && public.Scheme == "http"),
		origin: http.NewCrossOriginProtection(), limits: newLimits(),
	}
	if err := s.origin.AddTrustedOrigin(base); err != nil { // where a proxy changes Host
		return nil, err
	}
	if s.box, err = newBox(cfg.Keys); err != nil {
		return nil, err
	}
	if s.forms.keys, err = cfg.Keys.Derive("writ form token"); err != nil {
		return nil, err
	}
	if s.pages, err = newPages(); err != nil {
		return nil, err
	}
	s.sender, err = newSender(cfg.Meter, cfg.Log, func(ctx context.Context, m mailing) error {
		return s.Identity.SendMagicLink(ctx, m.email, s.callback, m.challenge)
	})
	return s, err
}

// Close sends what is queued, for a second at most.
func (s *SignIn) Close() { s.sender.close() }

// parsePublicURL wants the origin that browsers see: their cookies need https,
// which only loopback is excused from.
func parsePublicURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		return nil, errors.New("WRIT_PUBLIC_URL: want https://HOST, without a path")
	case u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())):
		return nil, errors.New("WRIT_PUBLIC_URL: want https (http for localhost only)")
	}
	return u, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}
