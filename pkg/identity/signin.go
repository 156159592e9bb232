package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"github.com/stytchauth/stytch-go/v16/stytch/consumer/magiclinks"
	"github.com/stytchauth/stytch-go/v16/stytch/consumer/magiclinks/email"

	"github.com/writ-project/writ/pkg/fault"
)

// SessionMinutes is how long a session lasts from each sign-in.
const SessionMinutes = 60

// SignedIn is what a magic link comes to.
type SignedIn struct {
	Session Session
	Token   string // opaque, good as long as the session
	JWT     string // good for 5 minutes
	User    User
}

// NewPKCE makes a secret to keep in the browser that asks for a link and the
// challenge to send with the request (RFC 7636, S256).
func NewPKCE() (codeVerifier, codeChallenge string) {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails: crypto/rand
	codeVerifier = base64.RawURLEncoding.EncodeToString(b)
	return codeVerifier, Challenge(codeVerifier)
}

// Challenge gives the challenge of a verifier that is kept already.
func Challenge(codeVerifier string) string {
	sum := sha256.Sum256([]byte(codeVerifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// SendMagicLink mails a sign-in link to redirectURL and makes the user where
// there is none. The link works once, for an hour, and only with the verifier
// of codeChallenge ("" for none). Errors: fault.Invalid for an address or URL
// that Stytch refuses, fault.Unavailable; after the last the mail may have
// been sent all the same.
func (c *Client) SendMagicLink(ctx context.Context, emailAddress, redirectURL, codeChallenge string) error {
	_, err := call(ctx, c.credentials, "send magic link", func(ctx context.Context) (*email.LoginOrCreateResponse, error) {
		return c.api.MagicLinks.Email.LoginOrCreate(ctx, &email.LoginOrCreateParams{
			Email: emailAddress, LoginMagicLinkURL: redirectURL, SignupMagicLinkURL: redirectURL, CodeChallenge: codeChallenge,
		})
	})
	return err
}

// CreateToken makes a token that AuthenticateMagicLink takes in place of a
// mailed link's, good for an hour. A real project has to be allowed
// embeddable magic links by Stytch. Errors: fault.NotFound, fault.Unavailable.
func (c *Client) CreateToken(ctx context.Context, userID string) (string, error) {
	if err := checkUserID(userID); err != nil {
		return "", err
	}
	res, err := call(ctx, c.credentials, "create magic link", func(ctx context.Context) (*magiclinks.CreateResponse, error) {
		return c.api.MagicLinks.Create(ctx, &magiclinks.CreateParams{UserID: userID})
	})
	if err != nil {
		return "", missing(err, userID)
	}
	if res.Token == "" {
		return "", unreadable("create magic link")
	}
	return res.Token, nil
}

// AuthenticateMagicLink signs in with a link's token: a session of
// SessionMinutes, or existingSessionToken's extended to that where it is still
// good and the same user's. Errors: fault.Unauthenticated with the code
// invalid-link (used, expired or never sent) or foreign-link (asked for by
// another browser: the verifier does not fit); fault.Unavailable, after which
// the link may be spent.
func (c *Client) AuthenticateMagicLink(ctx context.Context, token, codeVerifier, existingSessionToken string) (SignedIn, error) {
	if token == "" || len(token) > maxToken {
		return SignedIn{}, errLink(nil)
	}
	params := magiclinks.AuthenticateParams{Token: token, CodeVerifier: codeVerifier, SessionDurationMinutes: SessionMinutes}
	if looksOpaque(existingSessionToken) {
		params.SessionToken = existingSessionToken
	}
	res, err := c.authenticateLink(ctx, params)
	if params.SessionToken != "" && strings.HasPrefix(code(err), "session-") {
		params.SessionToken = "" // it has ended: start another
		res, err = c.authenticateLink(ctx, params)
	}
	if err != nil {
		return SignedIn{}, linkFault(err)
	}
	s, err := sessionFrom(res.Session)
	if err != nil {
		return SignedIn{}, err
	}
	if res.SessionToken == "" || res.SessionJWT == "" {
		return SignedIn{}, unreadable("authenticate magic link")
	}
	u, err := userFrom(&res.User)
	if err != nil {
		return SignedIn{}, err
	}
	return SignedIn{Session: s, Token: res.SessionToken, JWT: res.SessionJWT, User: u}, nil
}

func (c *Client) authenticateLink(ctx context.Context, params magiclinks.AuthenticateParams) (*magiclinks.AuthenticateResponse, error) {
	return call(ctx, c.credentials, "authenticate magic link", func(ctx context.Context) (*magiclinks.AuthenticateResponse, error) {
		return c.api.MagicLinks.Authenticate(ctx, &params)
	})
}

// linkFault words what Stytch says of a link.
func linkFault(err error) error {
	switch {
	case Temporary(err) || fault.Is(err, fault.Internal):
		return err
	case strings.HasPrefix(code(err), "pkce-"):
		out := fault.New(fault.Unauthenticated, "foreign-link", "the sign-in link was asked for by another browser")
		out.Err = err
		return out
	}
	return errLink(err)
}

func errLink(err error) error {
	out := fault.New(fault.Unauthenticated, "invalid-link", "the sign-in link has been used, has expired or was never sent")
	out.Err = err
	return out
}
