package stytchemu_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stytchauth/stytch-go/v16/stytch/consumer/magiclinks"
	"github.com/stytchauth/stytch-go/v16/stytch/consumer/magiclinks/email"
	"github.com/stytchauth/stytch-go/v16/stytch/consumer/sessions"
	"github.com/stytchauth/stytch-go/v16/stytch/consumer/stytchapi"
	"github.com/stytchauth/stytch-go/v16/stytch/consumer/users"
	"github.com/stytchauth/stytch-go/v16/stytch/stytcherror"
	"go.uber.org/goleak"

	"github.com/writ-project/writ/pkg/stytchemu"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	projectID = "project-test-11111111-1111-4111-8111-111111111111"
	secret    = "secret-test-of-the-emulator"
	login     = "http://localhost:8080/v1/auth/callback?next=%2Faccount"
)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Now()} }

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

// project is an emulator that listens and stytch-go's client of it.
type project struct {
	*stytchapi.API
	emu   *stytchemu.Emulator
	url   string
	clock *clock
	stop  func() // the listener; the emulator stays as a kill leaves it
}

func start(t *testing.T, dir string) *project {
	t.Helper()
	c := newClock()
	emu, err := stytchemu.New(stytchemu.Config{ProjectID: projectID, Secret: secret, Dir: dir, Clock: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(emu)
	hc := &http.Client{Transport: &http.Transport{}}
	stop := sync.OnceFunc(func() { hc.CloseIdleConnections(); srv.CloseClientConnections(); srv.Close() })
	t.Cleanup(func() {
		if err := emu.Close(); err != nil {
			t.Error(err)
		}
		stop()
	})
	api, err := stytchapi.NewClient(projectID, secret, stytchapi.WithBaseURI(srv.URL),
		stytchapi.WithHTTPClient(hc), stytchapi.WithSkipJWKSInitialization())
	if err != nil {
		t.Fatal(err)
	}
	return &project{API: api, emu: emu, url: srv.URL, clock: c, stop: stop}
}

func wantError(t *testing.T, err error, status int, typ string) {
	t.Helper()
	var se stytcherror.Error
	if !errors.As(err, &se) || se.StatusCode != status || string(se.ErrorType) != typ {
		t.Fatalf("error %v, want %d %s", err, status, typ)
	}
	if !strings.HasPrefix(se.RequestID, "request-id-test-") || se.ErrorMessage == "" || !strings.HasSuffix(string(se.ErrorURL), "#"+typ) {
		t.Fatalf("incomplete error body: %+v", se)
	}
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (p *project) send(t *testing.T, to, challenge string) *email.LoginOrCreateResponse {
	t.Helper()
	return must(p.MagicLinks.Email.LoginOrCreate(t.Context(), &email.LoginOrCreateParams{
		Email: to, LoginMagicLinkURL: login, CodeChallenge: challenge,
	}))(t)
}

// lastToken clicks the newest link that was mailed to an address.
func (p *project) lastToken(t *testing.T, to string) string {
	t.Helper()
	mails := p.emu.Mailbox(to)
	if len(mails) == 0 {
		t.Fatalf("no mail to %s", to)
	}
	u, err := url.Parse(mails[0].URL)
	if err != nil {
		t.Fatal(err)
	}
	if u.Query().Get("stytch_token_type") != "magic_links" || u.Query().Get("next") != "/account" || u.Path != "/v1/auth/callback" {
		t.Fatalf("link %s", u)
	}
	return u.Query().Get("token")
}

func (p *project) signIn(t *testing.T, to string) *magiclinks.AuthenticateResponse {
	t.Helper()
	p.send(t, to, "")
	return must(p.MagicLinks.Authenticate(t.Context(), &magiclinks.AuthenticateParams{
		Token: p.lastToken(t, to), SessionDurationMinutes: 60,
	}))(t)
}

func TestSignInRoundTrip(t *testing.T) {
	p, ctx := start(t, ""), t.Context()
	sent := p.send(t, "Sam@Example.com", "")
	if !sent.UserCreated || !strings.HasPrefix(sent.UserID, "user-test-") || !strings.HasPrefix(sent.EmailID, "email-test-") {
		t.Fatalf("sent %+v", sent)
	}
	in := must(p.MagicLinks.Authenticate(ctx, &magiclinks.AuthenticateParams{
		Token: p.lastToken(t, "sam@example.com"), SessionDurationMinutes: 60,
	}))(t)
	if in.UserID != sent.UserID || !in.User.Emails[0].Verified || in.User.Emails[0].Email != "sam@example.com" ||
		!strings.HasPrefix(in.Session.SessionID, "session-test-") || in.SessionToken == "" || in.StatusCode != 200 || in.RequestID == "" {
		t.Fatalf("signed in %+v", in)
	}
	if got := in.Session.ExpiresAt.Sub(*in.Session.StartedAt); got != time.Hour {
		t.Fatalf("session of %s", got)
	}
	again := p.send(t, "sam@example.com", "")
	if again.UserCreated || again.UserID != sent.UserID {
		t.Fatalf("sent again %+v", again)
	}
	list := must(p.Sessions.Get(ctx, &sessions.GetParams{UserID: sent.UserID}))(t)
	if len(list.Sessions) != 1 || list.Sessions[0].SessionID != in.Session.SessionID {
		t.Fatalf("sessions %+v", list.Sessions)
	}
}

// stytch-go's own verification reads our JWTs, so they are as Stytch's.
func TestSessionJWTPassesStytchGo(t *testing.T) {
	p, ctx := start(t, ""), t.Context()
	in := p.signIn(t, "sam@example.com")
	initCtx, cancel := context.WithCancel(ctx)
	hc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	api, err := stytchapi.NewClient(projectID, secret, stytchapi.WithBaseURI(p.url),
		stytchapi.WithHTTPClient(hc), stytchapi.WithInitializationContext(initCtx))
	if err != nil {
		t.Fatal(err)
	}
	defer cancel()
	s := must(api.Sessions.AuthenticateJWTLocal(in.SessionJWT, 5*time.Minute))(t)
	if s.SessionID != in.Session.SessionID || s.UserID != in.UserID || !s.ExpiresAt.Equal(*in.Session.ExpiresAt) ||
		len(s.AuthenticationFactors) != 1 || s.AuthenticationFactors[0].EmailFactor.EmailAddress != "sam@example.com" {
		t.Fatalf("session %+v", s)
	}
	_, err = p.Sessions.GetJWKS(ctx, &sessions.GetJWKSParams{ProjectID: "project-test-other"})
	wantError(t, err, 404, "project_not_found")
}

func TestLinkWorksOnceAndNotForLong(t *testing.T) {
	p, ctx := start(t, ""), t.Context()
	p.send(t, "sam@example.com", "")
	token := p.lastToken(t, "sam@example.com")
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() {
			_, err := p.MagicLinks.Authenticate(ctx, &magiclinks.AuthenticateParams{Token: token})
			errs <- err
		}()
	}
	good := 0
	for range cap(errs) {
		if err := <-errs; err == nil {
			good++
		} else {
			wantError(t, err, 401, "unable_to_auth_magic_link")
		}
	}
	if good != 1 {
		t.Fatalf("the link worked %d times", good)
	}
	p.send(t, "sam@example.com", "")
	token = p.lastToken(t, "sam@example.com")
	p.clock.Add(time.Hour)
	_, err := p.MagicLinks.Authenticate(ctx, &magiclinks.AuthenticateParams{Token: token})
	wantError(t, err, 401, "unable_to_auth_magic_link")
}

func TestPKCE(t *testing.T) {
	p, ctx := start(t, ""), t.Context()
	// RFC 7636, appendix B.
	const verifier, challenge = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
	p.send(t, "sam@example.com", challenge)
	token := p.lastToken(t, "sam@example.com")
	try := func(token, verifier string) error {
		_, err := p.MagicLinks.Authenticate(ctx, &magiclinks.AuthenticateParams{Token: token, CodeVerifier: verifier})
		return err
	}
	wantError(t, try(token, ""), 400, "pkce_expected_code_verifier")
	wantError(t, try(token, verifier+"x"), 401, "pkce_mismatch")
	if err := try(token, verifier); err != nil {
		t.Fatalf("the right verifier after wrong ones: %v", err)
	}
	p.send(t, "sam@example.com", "")
	wantError(t, try(p.lastToken(t, "sam@example.com"), verifier), 400, "pkce_did_not_expect_code_verifier")
}

func TestSessions(t *testing.T) {
	p, ctx := start(t, ""), t.Context()
	in := p.signIn(t, "sam@example.com")

	p.clock.Add(30 * time.Minute)
	looked := must(p.Sessions.Authenticate(ctx, &sessions.AuthenticateParams{SessionToken: in.SessionToken}))(t)
	if !looked.Session.ExpiresAt.Equal(*in.Session.ExpiresAt) || looked.User.UserID != in.UserID {
		t.Fatal("looking at a session changed it")
	}
	// An expired JWT gets a fresh one.
	fresh := must(p.Sessions.Authenticate(ctx, &sessions.AuthenticateParams{
		SessionJWT: in.SessionJWT, SessionDurationMinutes: 60, SessionCustomClaims: map[string]any{"plan": "gold", "sub": "me"},
	}))(t)
	if got := fresh.Session.ExpiresAt.Sub(*in.Session.ExpiresAt); got != 30*time.Minute {
		t.Fatalf("extended by %s", got)
	}
	if fresh.SessionToken != in.SessionToken || fresh.Session.CustomClaims["plan"] != "gold" || fresh.Session.CustomClaims["sub"] != nil {
		t.Fatalf("fresh %+v", fresh.Session)
	}
	// The next sign-in extends the session that is given, but nobody else's.
	p.send(t, "sam@example.com", "")
	same := must(p.MagicLinks.Authenticate(ctx, &magiclinks.AuthenticateParams{
		Token: p.lastToken(t, "sam@example.com"), SessionToken: in.SessionToken, SessionDurationMinutes: 90,
	}))(t)
	if same.Session.SessionID != in.Session.SessionID || same.Session.ExpiresAt.Sub(*fresh.Session.ExpiresAt) != 30*time.Minute {
		t.Fatalf("session %+v", same.Session)
	}
	p.send(t, "rim@example.com", "")
	_, err := p.MagicLinks.Authenticate(ctx, &magiclinks.AuthenticateParams{
		Token: p.lastToken(t, "rim@example.com"), SessionToken: in.SessionToken, SessionDurationMinutes: 60,
	})
	wantError(t, err, 404, "session_not_found")

	_, err = p.Sessions.Authenticate(ctx, &sessions.AuthenticateParams{SessionToken: "a", SessionJWT: "b"})
	wantError(t, err, 400, "too_many_session_arguments")
	_, err = p.Sessions.Authenticate(ctx, &sessions.AuthenticateParams{SessionToken: in.SessionToken, SessionDurationMinutes: 4})
	wantError(t, err, 400, "invalid_session_duration_minutes")
	_, err = p.Sessions.Authenticate(ctx, &sessions.AuthenticateParams{SessionJWT: in.SessionJWT + "x"})
	wantError(t, err, 401, "invalid_session_jwt")

	if _, err := p.Sessions.Revoke(ctx, &sessions.RevokeParams{SessionID: in.Session.SessionID}); err != nil {
		t.Fatal(err)
	}
	for _, params := range []*sessions.AuthenticateParams{{SessionToken: in.SessionToken}, {SessionJWT: fresh.SessionJWT}} {
		_, err = p.Sessions.Authenticate(ctx, params)
		wantError(t, err, 404, "session_not_found")
	}
	_, err = p.Sessions.Revoke(ctx, &sessions.RevokeParams{SessionToken: in.SessionToken})
	wantError(t, err, 404, "session_not_found")

	other := p.signIn(t, "olive@example.com")
	p.clock.Add(time.Hour)
	_, err = p.Sessions.Authenticate(ctx, &sessions.AuthenticateParams{SessionToken: other.SessionToken})
	wantError(t, err, 404, "session_not_found")
}

func TestCredentialsAreChecked(t *testing.T) {
	p := start(t, "")
	hc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, c := range [][2]string{{projectID, "wrong"}, {"project-test-other", secret}} {
		api, err := stytchapi.NewClient(c[0], c[1], stytchapi.WithBaseURI(p.url), stytchapi.WithHTTPClient(hc), stytchapi.WithSkipJWKSInitialization())
		if err != nil {
			t.Fatal(err)
		}
		_, err = api.Users.Get(t.Context(), &users.GetParams{UserID: "user-test-x"})
		wantError(t, err, 401, "unauthorized_credentials")
	}
}

func TestMailbox(t *testing.T) {
	p := start(t, "")
	for range 201 {
		p.send(t, "sam@example.com", "")
	}
	p.send(t, "rim@example.com", "")
	if n := len(p.emu.Mailbox("")); n != 200 {
		t.Fatalf("%d mails", n)
	}
	var box struct{ Mails []stytchemu.Mail }
	getBody(t, p.url+"/mailbox.json?to=RIM%40example.com", func(body []byte) {
		if err := json.Unmarshal(body, &box); err != nil {
			t.Fatal(err)
		}
	})
	if len(box.Mails) != 1 || box.Mails[0].To != "rim@example.com" || box.Mails[0].Seq != 202 {
		t.Fatalf("mails %+v", box.Mails)
	}
	getBody(t, p.url+"/mailbox", func(body []byte) {
		page := string(body)
		first, second := strings.Index(page, "rim@example.com"), strings.Index(page, "sam@example.com")
		if first < 0 || second < first || !strings.Contains(page, "stytch_token_type=magic_links") {
			t.Fatalf("page %.500s", page)
		}
	})
	_, err := p.MagicLinks.Email.LoginOrCreate(t.Context(), &email.LoginOrCreateParams{Email: "sam@example.com", LoginMagicLinkURL: "javascript:alert(1)"})
	wantError(t, err, 400, "no_match_for_provided_magic_link_url")
	_, err = p.MagicLinks.Email.LoginOrCreate(t.Context(), &email.LoginOrCreateParams{Email: "sam", LoginMagicLinkURL: login})
	wantError(t, err, 400, "invalid_email")
}
