package identity_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stytchauth/stytch-go/v16/stytch/consumer/sessions"
	"github.com/stytchauth/stytch-go/v16/stytch/consumer/stytchapi"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/stytchemu"
)

// freshJWT asks Stytch for another JWT of a session, as a frontend does.
func (s *stack) freshJWT(t testing.TB, token string) string {
	t.Helper()
	api, err := stytchapi.NewClient(projectID, secret, stytchapi.WithBaseURI(s.url), stytchapi.WithSkipJWKSInitialization(),
		stytchapi.WithHTTPClient(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}))
	if err != nil {
		t.Fatal(err)
	}
	res, err := api.Sessions.Authenticate(t.Context(), &sessions.AuthenticateParams{SessionToken: token})
	if err != nil {
		t.Fatal(err)
	}
	return res.SessionJWT
}

func TestSignInGivesTokensThatAuthenticate(t *testing.T) {
	s := start(t)
	in := s.signIn(t, "Sam@example.com")
	if in.User.Email != "sam@example.com" || !in.User.EmailVerified || in.Session.UserID != in.User.ID || !strings.HasPrefix(in.Session.ID, "session-test-") {
		t.Fatalf("signed in %+v", in)
	}
	for _, token := range []string{in.JWT, in.Token} {
		for range 3 {
			got, err := s.Authenticate(t.Context(), token)
			if err != nil || got.ID != in.Session.ID || got.UserID != in.User.ID || !got.ExpiresAt.Equal(in.Session.ExpiresAt) {
				t.Fatalf("session %+v, error %v", got, err)
			}
		}
	}
	if n := s.net.count(); n != 2 { // the keys, the opaque token
		t.Fatalf("%d calls", n)
	}
}

func TestJWTExpiresThoughCached(t *testing.T) {
	s := start(t)
	in := s.signIn(t, "sam@example.com")
	if _, err := s.Authenticate(t.Context(), in.JWT); err != nil {
		t.Fatal(err)
	}
	s.clock.Add(5*time.Minute + 6*time.Second)
	_, err := s.Authenticate(t.Context(), in.JWT)
	wantFault(t, err, fault.Unauthenticated, "expired-token")
}

func TestOpaqueTokensAreCachedForThirtySeconds(t *testing.T) {
	s := start(t)
	in := s.signIn(t, "sam@example.com")
	// However many ask at once, Stytch is asked once.
	asked, goOn := make(chan struct{}, 50), make(chan struct{})
	s.net.set(func(n *network) { n.before = func(*http.Request) { asked <- struct{}{}; <-goOn } })
	errs := make(chan error, 50)
	for range cap(errs) {
		go func() {
			_, err := s.Authenticate(t.Context(), in.Token)
			errs <- err
		}()
	}
	<-asked
	close(goOn)
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	if n := s.net.count(); n != 1 {
		t.Fatalf("%d calls", n)
	}
	other, _ := s.client(t, identity.Config{})
	if err := other.Revoke(t.Context(), in.Session.ID); err != nil {
		t.Fatal(err)
	}
	s.clock.Add(29 * time.Second)
	if _, err := s.Authenticate(t.Context(), in.Token); err != nil || s.net.count() != 0 {
		t.Fatalf("within 30 s: %v", err)
	}
	s.clock.Add(time.Second)
	for range 3 {
		_, err := s.Authenticate(t.Context(), in.Token)
		wantFault(t, err, fault.Unauthenticated, "invalid-token")
	}
	if n := s.net.count(); n != 1 {
		t.Fatalf("%d calls for a refused token", n)
	}
}

// One caller's hurry is not the others' failure.
func TestALookupOutlivesTheCallerWhoStartedIt(t *testing.T) {
	s := start(t)
	in := s.signIn(t, "sam@example.com")
	asked, goOn := make(chan struct{}, 2), make(chan struct{})
	s.net.set(func(n *network) { n.before = func(*http.Request) { asked <- struct{}{}; <-goOn } })
	hurried, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 2)
	go func() { _, err := s.Authenticate(hurried, in.Token); errs <- err }()
	<-asked
	go func() { _, err := s.Authenticate(t.Context(), in.Token); errs <- err }()
	cancel()
	if err := <-errs; !identity.Temporary(err) {
		t.Fatalf("the hurried: %v", err)
	}
	close(goOn)
	if err := <-errs; err != nil {
		t.Fatal(err)
	}
}

func TestRevokedSessionIsRefused(t *testing.T) {
	for _, by := range []string{"id", "opaque token", "JWT"} {
		t.Run(by, func(t *testing.T) {
			s := start(t)
			in := s.signIn(t, "sam@example.com")
			for _, token := range []string{in.JWT, in.Token} {
				if _, err := s.Authenticate(t.Context(), token); err != nil {
					t.Fatal(err)
				}
			}
			credential := map[string]string{"id": in.Session.ID, "opaque token": in.Token, "JWT": in.JWT}[by]
			uncached := s.freshJWT(t, in.Token)
			// The answer to the first try is lost: the second must end the same.
			if by != "JWT" {
				s.order(t, stytchemu.Fault{Kind: stytchemu.FaultLost, Path: "/v1/sessions/revoke"})
				if err := s.Revoke(t.Context(), credential); !identity.Temporary(err) {
					t.Fatalf("lost answer: %v", err)
				}
			}
			for range 2 {
				if err := s.Revoke(t.Context(), credential); err != nil {
					t.Fatal(err)
				}
			}
			for _, token := range []string{in.JWT, uncached, in.Token} {
				_, err := s.Authenticate(t.Context(), token)
				wantFault(t, err, fault.Unauthenticated, "invalid-token")
			}
		})
	}
}

func TestForgedJWTRevokesNobody(t *testing.T) {
	s := start(t)
	in := s.signIn(t, "sam@example.com")
	parts := strings.Split(in.JWT, ".")
	forged := parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2]))
	for _, credential := range []string{forged, "", "garbage", strings.Repeat("x", 9000), strings.Repeat("x", 44)} {
		if err := s.Revoke(t.Context(), credential); err != nil {
			t.Fatal(err)
		}
	}
	for _, token := range []string{in.JWT, in.Token} {
		if _, err := s.Authenticate(t.Context(), token); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCachesAreBounded(t *testing.T) {
	s := start(t)
	c, n := s.client(t, identity.Config{CacheSize: 2})
	var tokens []string
	for i := range 3 {
		tokens = append(tokens, s.signIn(t, fmt.Sprintf("u%d@example.com", i)).Token)
	}
	for _, token := range append(tokens, tokens[2], tokens[1], tokens[0]) {
		if _, err := c.Authenticate(t.Context(), token); err != nil {
			t.Fatal(err)
		}
	}
	if got := n.count(); got != 4 { // the first one was pushed out by the third
		t.Fatalf("%d calls", got)
	}
}

func TestMagicLinks(t *testing.T) {
	s, ctx := start(t), t.Context()
	verifier, challenge := identity.NewPKCE()
	other, _ := identity.NewPKCE()
	if err := s.SendMagicLink(ctx, "sam@example.com", callback, challenge); err != nil {
		t.Fatal(err)
	}
	token := s.clicked(t, "sam@example.com")
	for _, wrong := range []string{other, ""} {
		_, err := s.AuthenticateMagicLink(ctx, token, wrong, "")
		wantFault(t, err, fault.Unauthenticated, "foreign-link")
	}
	first, err := s.AuthenticateMagicLink(ctx, token, verifier, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{token, "never-sent", "", strings.Repeat("x", 9000)} {
		_, err = s.AuthenticateMagicLink(ctx, bad, verifier, "")
		wantFault(t, err, fault.Unauthenticated, "invalid-link")
	}
	// The next sign-in extends the session.
	s.clock.Add(30 * time.Minute)
	again := func(existing string) identity.SignedIn {
		t.Helper()
		verifier, challenge := identity.NewPKCE()
		if err := s.SendMagicLink(ctx, "sam@example.com", callback, challenge); err != nil {
			t.Fatal(err)
		}
		in, err := s.AuthenticateMagicLink(ctx, s.clicked(t, "sam@example.com"), verifier, existing)
		if err != nil {
			t.Fatal(err)
		}
		return in
	}
	second := again(first.Token)
	if second.Session.ID != first.Session.ID || second.Session.ExpiresAt.Sub(first.Session.ExpiresAt) != 30*time.Minute {
		t.Fatalf("session %+v, before %+v", second.Session, first.Session)
	}
	s.clock.Add(61 * time.Minute) // ended: a new one
	if third := again(first.Token); third.Session.ID == first.Session.ID {
		t.Fatal("a session that has ended was extended")
	}
	if fourth := again("garbage"); fourth.Session.ID == "" {
		t.Fatal("no session")
	}
	if err := s.SendMagicLink(ctx, "sam@example.com", callback, ""); err != nil {
		t.Fatal(err)
	}
	expired := s.clicked(t, "sam@example.com")
	s.clock.Add(time.Hour)
	_, err = s.AuthenticateMagicLink(ctx, expired, "", "")
	wantFault(t, err, fault.Unauthenticated, "invalid-link")
	wantFault(t, s.SendMagicLink(ctx, "sam", callback, ""), fault.Invalid, "invalid-email")
	s.order(t, stytchemu.Fault{Kind: stytchemu.FaultLimited, RetryAfter: 2 * time.Minute})
	if f := wantFault(t, s.SendMagicLink(ctx, "sam@example.com", callback, ""), fault.Unavailable, "stytch-unavailable"); f.RetryAfter != 2*time.Minute {
		t.Fatalf("retry after %s", f.RetryAfter)
	}
}
