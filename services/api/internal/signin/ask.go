package signin

import (
	"context"
	"net/http"
	"net/mail"
	"slices"
	"strings"
	"time"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind/user"
)

// LinkLife is how long a mailed link is good, and what its browser keeps for it.
const LinkLife = time.Hour

// pingTimeout is how long is waited to hear whether Stytch answers at all.
const pingTimeout = 2 * time.Second

// Ask is what somebody sends who wants to sign in.
type Ask struct {
	Email    string
	ReturnTo string // a path of this site; "" for the account
	// Role is what a local stack's user wants to be from then on.
	Role string
}

// asked is what the browser keeps that asked for a link.
type asked struct {
	Verifier string    `json:"verifier"`
	Email    string    `json:"email,omitempty"`
	ReturnTo string    `json:"return_to,omitempty"`
	Role     string    `json:"role,omitempty"`
	Until    time.Time `json:"until"`
}

// Send has a link mailed and gives the cookies for the browser that asked.
//
// What it answers, and when, is the same for every address: Stytch is asked about
// none before the answer. The mail goes out afterwards (see sender). A role stays
// in the cookie, so it is nothing to anybody but whoever opens the link in that
// browser.
//
// Errors: a problem for a request of another site's page, fault.Invalid,
// fault.Limited, and fault.Unavailable where Stytch does not answer whoever asks.
func (s *SignIn) Send(r *http.Request, a Ask) ([]*http.Cookie, error) {
	if err := s.sameOrigin(r); err != nil {
		return nil, err
	}
	address, err := parseEmail(a.Email)
	if err != nil {
		return nil, err
	}
	to, err := CheckReturnTo(a.ReturnTo, "body.return_to")
	if err != nil {
		return nil, err
	}
	if a.Role != "" && (!s.Local || !slices.Contains(user.Roles, a.Role)) {
		return nil, fault.InvalidField("body.role", "there is no such role to choose")
	}
	if err := allow(s.limits.ip, r, remoteIP(r.Context())); err != nil {
		return nil, err
	}
	if err := allow(s.limits.address, r, address); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), pingTimeout)
	defer cancel()
	if err := s.Identity.Ping(ctx); err != nil {
		return nil, err
	}
	// Links that one browser asks for share a verifier, so that each of them works there.
	state, ok := s.asked(r)
	if !ok {
		state.Verifier, _ = identity.NewPKCE()
	}
	state = asked{Verifier: state.Verifier, Email: address, ReturnTo: to, Role: a.Role, Until: time.Now().UTC().Add(LinkLife).Truncate(time.Second)} // of one length
	if err := s.sender.queue(mailing{email: address, challenge: identity.Challenge(state.Verifier)}); err != nil {
		return nil, err
	}
	c, err := s.keep(state)
	return []*http.Cookie{c}, err
}

// asked gives what the browser keeps of its last request for a link.
func (s *SignIn) asked(r *http.Request) (asked, bool) {
	state, ok := s.box.open(value(r, s.cookies.asked))
	if !ok || !time.Now().Before(state.Until) {
		return asked{}, false
	}
	return state, true
}

func (s *SignIn) keep(state asked) (*http.Cookie, error) {
	text, err := s.box.seal(state)
	if err != nil {
		return nil, err
	}
	return s.cookies.make(s.cookies.asked, text, time.Until(state.Until)), nil
}

// MaxEmail bounds an e-mail address, in bytes (RFC 5321, 4.5.3.1.3).
const MaxEmail = 254

// parseEmail gives an address in the one form that is counted and sent: without
// a name, in lower case, as Stytch compares them.
func parseEmail(text string) (string, error) {
	text = strings.TrimSpace(text)
	a, err := mail.ParseAddress(text)
	if err != nil || len(text) > MaxEmail || a.Address != text || strings.ContainsAny(text, "\"<>()\\ \t\r\n") {
		return "", fault.InvalidField("body.email", "want an e-mail address")
	}
	return strings.ToLower(text), nil
}
