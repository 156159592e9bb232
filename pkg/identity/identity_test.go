package identity_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/stytchemu"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	projectID = "project-test-11111111-1111-4111-8111-111111111111"
	secret    = "secret-test-of-the-emulator"
	callback  = "http://localhost:8080/v1/auth/callback"
)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// network counts the calls that are made to Stytch, and can be cut.
type network struct {
	base http.RoundTripper

	mu     sync.Mutex
	calls  []string
	cut    bool
	jwks   []byte // answered for the project's keys instead of Stytch's
	before func(*http.Request)
}

func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	n.mu.Lock()
	n.calls = append(n.calls, r.Method+" "+r.URL.Path)
	cut, jwks, before := n.cut, n.jwks, n.before
	n.mu.Unlock()
	if before != nil {
		before(r)
	}
	if cut {
		return nil, errors.New("network is unreachable")
	}
	if jwks != nil && strings.Contains(r.URL.Path, "/jwks/") {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(jwks)), Request: r}, nil
	}
	return n.base.RoundTrip(r)
}

func (n *network) set(change func(*network)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(n)
}

// count gives the number of calls since the last count.
func (n *network) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := len(n.calls)
	n.calls = nil
	return c
}

type stack struct {
	*identity.Client
	emu   *stytchemu.Emulator
	net   *network
	clock *clock
	url   string
}

func start(t testing.TB) *stack {
	t.Helper()
	c := &clock{t: time.Now()}
	emu, err := stytchemu.New(stytchemu.Config{ProjectID: projectID, Secret: secret, Clock: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(emu)
	s := &stack{emu: emu, clock: c, url: srv.URL}
	s.Client, s.net = s.client(t, identity.Config{})
	t.Cleanup(func() {
		if err := emu.Close(); err != nil {
			t.Error(err)
		}
		srv.CloseClientConnections()
		srv.Close()
	})
	return s
}

// client makes another client of the same project, as another instance has.
func (s *stack) client(t testing.TB, cfg identity.Config) (*identity.Client, *network) {
	t.Helper()
	base := &http.Transport{}
	n := &network{base: base}
	cfg.ProjectID, cfg.Secret, cfg.BaseURL, cfg.Clock = projectID, secret, s.url, s.clock.Now
	cfg.HTTPClient = &http.Client{Transport: n}
	c, err := identity.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(base.CloseIdleConnections)
	return c, n
}

func (s *stack) signIn(t testing.TB, email string) identity.SignedIn {
	t.Helper()
	verifier, challenge := identity.NewPKCE()
	if err := s.SendMagicLink(t.Context(), email, callback, challenge); err != nil {
		t.Fatal(err)
	}
	in, err := s.AuthenticateMagicLink(t.Context(), s.clicked(t, email), verifier, "")
	if err != nil {
		t.Fatal(err)
	}
	s.net.count()
	return in
}

// clicked gives the token of the newest link mailed to an address.
func (s *stack) clicked(t testing.TB, email string) string {
	t.Helper()
	mails := s.emu.Mailbox(email)
	if len(mails) == 0 {
		t.Fatalf("no mail to %s", email)
	}
	u, err := url.Parse(mails[0].URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query().Get("token")
}

func (s *stack) order(t testing.TB, f stytchemu.Fault) {
	t.Helper()
	if err := s.emu.Fail(f); err != nil {
		t.Fatal(err)
	}
}

func wantFault(t testing.TB, err error, kind fault.Kind, code string) *fault.Error {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != kind || f.Code != code {
		t.Fatalf("error %v (%+v), want kind %d, code %s", err, f, kind, code)
	}
	return f
}

func TestMissingSettingsAreNamed(t *testing.T) {
	_, err := identity.New(t.Context(), identity.Config{})
	if err == nil || !strings.Contains(err.Error(), "STYTCH_PROJECT_ID") || !strings.Contains(err.Error(), "STYTCH_SECRET") {
		t.Fatalf("error %v", err)
	}
	for _, base := range []string{"localhost:1", "ftp://x", "http://user:pw@host"} {
		_, err := identity.New(t.Context(), identity.Config{ProjectID: projectID, Secret: secret, BaseURL: base})
		if err == nil || !strings.Contains(err.Error(), "STYTCH_BASE_URL") {
			t.Fatalf("%s: error %v", base, err)
		}
	}
	if _, err := identity.New(t.Context(), identity.Config{ProjectID: projectID, Secret: secret, OpaqueTTL: time.Minute}); err == nil {
		t.Fatal("opaque tokens trusted for a minute")
	}
}

// Stytch's own addresses are picked by the project id.
func TestBaseURLByProject(t *testing.T) {
	for id, host := range map[string]string{"project-live-1": "api.stytch.com", "project-test-1": "test.stytch.com"} {
		got := ""
		n := &network{cut: true, before: func(r *http.Request) { got = r.URL.Host }}
		c, err := identity.New(t.Context(), identity.Config{ProjectID: id, Secret: secret, HTTPClient: &http.Client{Transport: n}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.User(t.Context(), "user-test-1"); !identity.Temporary(err) || got != host {
			t.Fatalf("%s: host %q, error %v", id, got, err)
		}
	}
}

func TestStartsWhileStytchIsDown(t *testing.T) {
	s := start(t)
	in := s.signIn(t, "sam@example.com")
	c, n := s.client(t, identity.Config{})
	n.set(func(n *network) { n.cut = true })
	_, err := c.Authenticate(t.Context(), in.JWT)
	f := wantFault(t, err, fault.Unavailable, "stytch-unavailable")
	if f.RetryAfter <= 0 || !identity.Temporary(err) {
		t.Fatalf("fault %+v", f)
	}
	if err := c.Ping(t.Context()); !identity.Temporary(err) {
		t.Fatalf("ping: %v", err)
	}
	if got := n.count(); got != 1 {
		t.Fatalf("%d calls within a second of a failure", got)
	}
	n.set(func(n *network) { n.cut = false })
	s.clock.Add(time.Second)
	if err := c.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Authenticate(t.Context(), in.JWT); err != nil || got.UserID != in.User.ID {
		t.Fatalf("session %+v, error %v", got, err)
	}
	// From then on Stytch may go away again.
	n.set(func(n *network) { n.cut = true })
	if _, err := c.Authenticate(t.Context(), s.freshJWT(t, in.Token)); err != nil {
		t.Fatal(err)
	}
}

func TestPingIsCached(t *testing.T) {
	s := start(t)
	for range 10 {
		if err := s.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.net.count(); got != 1 {
		t.Fatalf("%d calls", got)
	}
	s.clock.Add(15 * time.Second)
	s.order(t, stytchemu.Fault{Kind: stytchemu.FaultInternal})
	if err := s.Ping(t.Context()); !identity.Temporary(err) {
		t.Fatalf("error %v", err)
	}
}

func TestCallsEndWithTheContext(t *testing.T) {
	s := start(t)
	s.order(t, stytchemu.Fault{Kind: stytchemu.FaultHang, Count: 2})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := s.User(ctx, "user-test-1"); !identity.Temporary(err) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error %v", err)
	}
	began := time.Now()
	if _, err := s.User(t.Context(), "user-test-1"); !identity.Temporary(err) || time.Since(began) > 8*time.Second {
		t.Fatalf("error %v after %s", err, time.Since(began))
	}
}

func TestFaultsAreClassified(t *testing.T) {
	s := start(t)
	in := s.signIn(t, "sam@example.com")
	tenants := identity.Update{Tenants: in.User.Tenants}
	for _, f := range []stytchemu.Fault{
		{Kind: stytchemu.FaultLimited, RetryAfter: 7 * time.Second},
		{Kind: stytchemu.FaultInternal}, {Kind: stytchemu.FaultUnreadable}, {Kind: stytchemu.FaultLost},
		{Kind: stytchemu.FaultHang, Delay: 10 * time.Millisecond},
	} {
		s.order(t, f)
		_, err := s.UpdateUser(t.Context(), in.User.ID, tenants)
		got := wantFault(t, err, fault.Unavailable, "stytch-unavailable")
		if want := max(f.RetryAfter, time.Second); got.RetryAfter != want || !identity.Temporary(err) {
			t.Errorf("%s: retry after %s, want %s", f.Kind, got.RetryAfter, want)
		}
		s.order(t, f)
		s.clock.Add(time.Minute) // past what is cached
		if _, err := s.Authenticate(t.Context(), in.Token); !identity.Temporary(err) {
			t.Errorf("%s: opaque token: %v", f.Kind, err)
		}
	}
	s.order(t, stytchemu.Fault{Kind: stytchemu.FaultSlow, Delay: 10 * time.Millisecond})
	if _, err := s.UpdateUser(t.Context(), in.User.ID, tenants); err != nil {
		t.Fatalf("slow: %v", err)
	}
	_, err := s.User(t.Context(), "user-test-nobody")
	if wantFault(t, err, fault.NotFound, "not-found"); identity.Temporary(err) {
		t.Fatal("404 is temporary")
	}
	// What answers in Stytch's place, with no error of Stytch's, is not final.
	s.net.set(func(n *network) { n.base = answer{403, `{"message":"blocked"}`} })
	if _, err := s.User(t.Context(), in.User.ID); !identity.Temporary(err) {
		t.Fatalf("a proxy's 403: %v", err)
	}
	s.net.set(func(n *network) { n.base = answer{200, `{}`} })
	if _, err := s.User(t.Context(), in.User.ID); !identity.Temporary(err) {
		t.Fatalf("an empty answer: %v", err)
	}
}

// TestCredentialsThatStytchDoesNotTake: that is an outage of ours, no caller's fault and no defect. It is logged once, Ping
// and Ready tell of it, and all of that ends when it is mended.
func TestCredentialsThatStytchDoesNotTake(t *testing.T) {
	s := start(t)
	in := s.signIn(t, "sam@example.com")
	var logged bytes.Buffer
	c, n := s.client(t, identity.Config{Log: slog.New(slog.NewTextHandler(&logged, nil))})
	if err := c.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	good := n.base
	n.set(func(n *network) {
		n.base = chosen{func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/jwks/") }, good, answer{401, `{"status_code":401,"error_type":"unauthorized_credentials"}`}}
	})
	for range 2 {
		_, err := c.Authenticate(t.Context(), in.Token)
		f := wantFault(t, err, fault.Unavailable, "unauthorized-credentials")
		if !identity.CredentialsRefused(err) || !identity.Temporary(err) || f.RetryAfter <= 0 {
			t.Errorf("%+v", f)
		}
		_, err = c.AuthenticateMagicLink(t.Context(), "token", "verifier", "")
		wantFault(t, err, fault.Unavailable, "unauthorized-credentials")
	}
	if text := logged.String(); strings.Count(text, "STYTCH_SECRET is wrong") != 1 || strings.Contains(text, secret) {
		t.Errorf("logged %q", text)
	}
	n.count()
	for range 5 {
		wantFault(t, c.Ping(t.Context()), fault.Unavailable, "unauthorized-credentials")
		wantFault(t, c.Ready(t.Context()), fault.Unavailable, "unauthorized-credentials")
	}
	if got := n.count(); got > 1 {
		t.Errorf("pings asked Stytch %d times", got)
	}
	n.set(func(n *network) { n.base = good })
	s.clock.Add(15 * time.Second)
	if err := c.Ping(t.Context()); err != nil {
		t.Errorf("mended: %v", err)
	}
	if text := logged.String(); strings.Count(text, "\n") != 2 || !strings.Contains(text, "again") {
		t.Errorf("logged %q", text)
	}
	wrong, err := identity.New(t.Context(), identity.Config{ProjectID: projectID, Secret: "wrong", BaseURL: s.url,
		HTTPClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}})
	if err != nil {
		t.Fatal(err)
	}
	wantFault(t, wrong.Ready(t.Context()), fault.Unavailable, "unauthorized-credentials") // before anybody has signed in
	if err := wrong.Ping(t.Context()); !identity.CredentialsRefused(err) {
		t.Errorf("%v", err)
	}
}

// chosen sends some requests one way and the others another.
type chosen struct {
	which       func(*http.Request) bool
	those, rest http.RoundTripper
}

func (c chosen) RoundTrip(r *http.Request) (*http.Response, error) {
	if c.which(r) {
		return c.those.RoundTrip(r)
	}
	return c.rest.RoundTrip(r)
}

type answer struct {
	status int
	body   string
}

func (a answer) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: a.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(a.body)), Request: r}, nil
}
