package stytchemu

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/stytchauth/stytch-go/v16/stytch/consumer/magiclinks"
	"github.com/stytchauth/stytch-go/v16/stytch/consumer/magiclinks/email"
	"github.com/stytchauth/stytch-go/v16/stytch/consumer/sessions"
	"github.com/stytchauth/stytch-go/v16/stytch/consumer/users"
)

// The bounds of a link's life, in minutes; an hour if not said.
const (
	minExpiration     = 5
	maxExpiration     = 10_080
	defaultExpiration = 60
)

func lifetime(minutes int32) (time.Duration, error) {
	if minutes != 0 && (minutes < minExpiration || minutes > maxExpiration) {
		return 0, errExpiration
	}
	return time.Duration(cmp.Or(minutes, defaultExpiration)) * time.Minute, nil
}

func (e *Emulator) loginOrCreate(r *http.Request) (any, error) {
	in, err := decode[email.LoginOrCreateParams](r)
	if err != nil {
		return nil, err
	}
	address, err := parseEmail(in.Email)
	if err != nil {
		return nil, err
	}
	out, err := e.sendLink(address, in)
	if err != nil {
		return nil, err
	}
	if out.UserCreated {
		e.changed("create", out.UserID)
	}
	return out, nil
}

// sendLink puts a mail into the mailbox and makes the user where there is
// none. The link goes straight to the login (or sign-up) URL: what Stytch's
// own redirect page comes to.
func (e *Emulator) sendLink(address string, in email.LoginOrCreateParams) (*email.LoginOrCreateResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var changes []change
	u, known := e.state.users[e.state.userByEmail[address]]
	target, minutes := in.LoginMagicLinkURL, in.LoginExpirationMinutes
	if !known {
		u = e.newUser(address, in.CreateUserAsPending)
		changes = append(changes, put("user", u.UserID, u))
		target, minutes = cmp.Or(in.SignupMagicLinkURL, target), cmp.Or(in.SignupExpirationMinutes, minutes)
	}
	life, err := lifetime(minutes)
	if err != nil {
		return nil, err
	}
	now := e.now()
	l := link{
		Token: newSecret(), UserID: u.UserID, Email: address,
		Challenge: strings.TrimRight(in.CodeChallenge, "="), SentAt: now, ExpiresAt: now.Add(life),
	}
	clickable, err := withToken(target, l.Token)
	if err != nil {
		return nil, err
	}
	m := Mail{Seq: e.state.lastMail + 1, To: address, URL: clickable, SentAt: now}
	changes = append(changes, put("link", l.Token, l), put("mail", strconv.FormatInt(m.Seq, 10), m))
	if err := e.state.commit(now, changes...); err != nil {
		return nil, err
	}
	return &email.LoginOrCreateResponse{UserID: u.UserID, EmailID: u.Emails[0].EmailID, UserCreated: !known}, nil
}

// withToken adds the token to the redirect URL as Stytch does.
func withToken(target, token string) (string, error) {
	u, err := url.Parse(target)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return "", errLinkURL
	}
	q := u.Query()
	q.Set("stytch_token_type", "magic_links")
	q.Set("token", token)
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// createLink makes an embeddable link: the token is answered, not mailed.
func (e *Emulator) createLink(r *http.Request) (any, error) {
	in, err := decode[magiclinks.CreateParams](r)
	if err != nil {
		return nil, err
	}
	life, err := lifetime(in.ExpirationMinutes)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	u, err := e.user(in.UserID)
	if err != nil {
		return nil, err
	}
	now := e.now()
	l := link{Token: newSecret(), UserID: u.UserID, SentAt: now, ExpiresAt: now.Add(life)}
	if err := e.state.commit(now, put("link", l.Token, l)); err != nil {
		return nil, err
	}
	return magiclinks.CreateResponse{UserID: u.UserID, Token: l.Token}, nil
}

func (e *Emulator) authenticateLink(r *http.Request) (any, error) {
	in, err := decode[magiclinks.AuthenticateParams](r)
	if err != nil {
		return nil, err
	}
	if in.SessionToken != "" && in.SessionJWT != "" {
		return nil, errSessionArguments
	}
	if err := checkDuration(in.SessionDurationMinutes); err != nil {
		return nil, err
	}
	s, u, err := e.useLink(in)
	if err != nil {
		return nil, err
	}
	e.changed("update", u.UserID)
	out := magiclinks.AuthenticateResponse{UserID: u.UserID, MethodID: u.Emails[0].EmailID, User: *u}
	if s != nil {
		out.Session, out.SessionToken = &s.Session, s.Token
		if out.SessionJWT, err = e.sign(s); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// useLink takes the link out in the same transaction that makes the session,
// so that it works once. A refusal leaves it as it is: a thief with the wrong
// verifier must not spend it for its owner.
func (e *Emulator) useLink(in magiclinks.AuthenticateParams) (*session, *users.User, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	l, ok := e.state.links[in.Token]
	if !ok || !now.Before(l.ExpiresAt) {
		return nil, nil, errLink
	}
	if err := checkVerifier(l.Challenge, in.CodeVerifier); err != nil {
		return nil, nil, err
	}
	old, err := e.user(l.UserID)
	if err != nil {
		return nil, nil, err
	}
	s, err := e.signIn(old, l, in)
	if err != nil {
		return nil, nil, err
	}
	u := verified(old, l.Email)
	changes := []change{del("link", l.Token), put("user", u.UserID, u)}
	if s != nil {
		changes = append(changes, put("session", s.SessionID, s))
	}
	return s, u, e.state.commit(now, changes...)
}

// signIn extends the session that was given or starts one; none without a
// duration. Somebody else's session is as good as none at all.
func (e *Emulator) signIn(u *users.User, l *link, in magiclinks.AuthenticateParams) (*session, error) {
	now := e.now()
	g := grant{
		minutes: in.SessionDurationMinutes, claims: in.SessionCustomClaims, attributes: in.Attributes,
		factor: &sessions.AuthenticationFactor{Type: sessions.AuthenticationFactorTypeMagicLink, CreatedAt: &now, UpdatedAt: &now},
	}
	if l.Email == "" {
		g.factor.DeliveryMethod = sessions.AuthenticationFactorDeliveryMethodEmbedded
		g.factor.EmbeddableMagicLinkFactor = &sessions.EmbeddableMagicLinkFactor{EmbeddedID: e.newID("embeddable-magic-link")}
	} else {
		g.factor.DeliveryMethod = sessions.AuthenticationFactorDeliveryMethodEmail
		g.factor.EmailFactor = &sessions.EmailFactor{EmailID: u.Emails[0].EmailID, EmailAddress: l.Email}
	}
	if in.SessionToken != "" || in.SessionJWT != "" {
		old, err := e.findSession(in.SessionToken, in.SessionJWT)
		if err != nil || old.UserID != u.UserID {
			return nil, errSession
		}
		return e.extend(old, g)
	}
	if g.minutes == 0 {
		return nil, nil
	}
	return e.startSession(u.UserID, g)
}

// checkVerifier is RFC 7636 with S256.
func checkVerifier(challenge, verifier string) error {
	switch {
	case challenge == "" && verifier == "":
		return nil
	case challenge == "":
		return errVerifierTooMuch
	case verifier == "":
		return errVerifierMissing
	}
	sum := sha256.Sum256([]byte(verifier))
	got := base64.RawURLEncoding.EncodeToString(sum[:])
	if subtle.ConstantTimeCompare([]byte(got), []byte(challenge)) != 1 {
		return errVerifier
	}
	return nil
}

// verified gives a copy of the user whose address is proven; a link that was
// not mailed proves none.
func verified(old *users.User, address string) *users.User {
	u := *old
	u.Status = "active"
	u.Emails = append([]users.Email(nil), old.Emails...)
	for i := range u.Emails {
		u.Emails[i].Verified = u.Emails[i].Verified || u.Emails[i].Email == address
	}
	return &u
}
