package signin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind/user"
)

// Redeemed is what a link came to.
type Redeemed struct {
	identity.SignedIn
	ReturnTo string
	Cookies  []*http.Cookie
}

// Redeem signs in with a mailed link's token: a session of 60 minutes, or the
// one that the browser has, extended to that. The user's row of the directory is
// brought up to date before it returns.
//
// Errors: fault.Unauthenticated with the code foreign-link for a browser that
// did not ask for the link (Stytch is not asked then), or invalid-link for one that was used, has
// expired or was never sent; fault.Limited; fault.Unavailable, after which the
// link may be spent.
func (s *SignIn) Redeem(r *http.Request, token string) (*Redeemed, error) {
	ctx := r.Context()
	if token == "" {
		return nil, fault.InvalidField("query.token", "the link has no token")
	}
	state, ok := s.asked(r)
	if !ok {
		return nil, fault.New(fault.Unauthenticated, "foreign-link", "the sign-in link was asked for by another browser")
	}
	if err := allow(s.limits.tries, r, remoteIP(r.Context())); err != nil {
		return nil, err
	}
	before := value(r, s.cookies.session)
	in, err := s.Identity.AuthenticateMagicLink(ctx, token, state.Verifier, before)
	if err != nil {
		return nil, err
	}
	// From here on there is a session. If this fails it is found to be there by
	// whoever signs in again, or ends by itself.
	if err := s.assume(ctx, state, in.User); err != nil {
		return nil, err
	}
	if err := s.Refresh(ctx, in.User.ID); err != nil {
		return nil, err
	}
	if before != "" && before != in.Token {
		s.replaced(ctx, before, in.Session.ID)
	}
	// The verifier stays until it is too old, for a link that is opened twice to be told from a foreign one.
	spent, err := s.keep(asked{Verifier: state.Verifier, Until: state.Until})
	if err != nil {
		return nil, err
	}
	to := state.ReturnTo
	if to == "" {
		to = PathAccount
	}
	return &Redeemed{SignedIn: in, ReturnTo: to, Cookies: []*http.Cookie{s.session(in), spent, s.cookies.drop(s.cookies.form)}}, nil
}

// assume gives the user of a local stack the role that they chose, in the
// default tenant: only whoever was named when it was chosen, and only once they
// have proven to be that. What the directory makes of it is a recorded command,
// as whatever Stytch says.
func (s *SignIn) assume(ctx context.Context, state asked, u identity.User) error {
	if state.Role == "" || !s.Local || !strings.EqualFold(state.Email, u.Email) {
		return nil
	}
	tenants := maps.Clone(u.Tenants)
	if tenants == nil {
		tenants = map[string]user.Membership{}
	}
	m := tenants[user.DefaultTenant]
	m.Roles = []string{state.Role}
	tenants[user.DefaultTenant] = m
	if _, err := s.Identity.UpdateUser(ctx, u.ID, identity.Update{Tenants: tenants}); err != nil {
		return fmt.Errorf("take the role %s: %w", state.Role, err)
	}
	return nil
}

// replaced ends the session that the browser had before, of somebody else:
// nobody has its token any more.
func (s *SignIn) replaced(ctx context.Context, token, by string) {
	session, err := s.Identity.Authenticate(ctx, token)
	if err == nil && session.ID != by {
		err = s.end(ctx, session.ID)
	}
	if err != nil && !fault.Is(err, fault.Unauthenticated) {
		s.Log.WarnContext(ctx, "the session before was not ended", "error", err)
	}
}

// Leave ends the session that a request proves (by its header, else by the
// cookie, which Bearer has looked at before), at Stytch and here, and gives
// the cookies to take away. A session that has ended before is no error.
// Errors: fault.Unauthenticated without any credentials, and for a JWT that has
// expired: its session may go on, and whoever sent it must not think otherwise;
// fault.Unavailable where Stytch does not answer: the session goes on then.
func (s *SignIn) Leave(r *http.Request) ([]*http.Cookie, error) {
	if err := s.sameOrigin(r); err != nil {
		return nil, err
	}
	token := value(r, s.cookies.session)
	if given, ok := bearerOf(r); ok {
		token = given
	}
	if token == "" {
		return nil, fault.New(fault.Unauthenticated, "unauthenticated", "there is no session to end")
	}
	session, err := s.Identity.Authenticate(r.Context(), token)
	if err == nil {
		err = s.end(r.Context(), session.ID)
	}
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Code == "expired-token" && strings.Contains(token, ".") { // Stytch's opaque ones have no dot
		return nil, err
	}
	if err != nil && !fault.Is(err, fault.Unauthenticated) { // it has ended, or never was
		return nil, err
	}
	return s.signedOut(), nil
}

func (s *SignIn) signedOut() []*http.Cookie {
	return []*http.Cookie{s.cookies.drop(s.cookies.session), s.cookies.drop(s.cookies.asked), s.cookies.drop(s.cookies.form)}
}

func (s *SignIn) end(ctx context.Context, sessionID string) error {
	if err := s.Identity.Revoke(ctx, sessionID); err != nil {
		return err
	}
	s.Ended(sessionID)
	return nil
}
