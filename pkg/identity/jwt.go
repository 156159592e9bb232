package identity

import (
	"context"
	"crypto/rsa"
	"errors"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/writ-project/writ/pkg/fault"
)

const (
	// maxToken is the longest token that is looked at, in bytes.
	maxToken = 8 << 10
	// leeway is how far clocks may differ where a JWT's times are judged.
	leeway = 5 * time.Second
)

var (
	errToken   = fault.New(fault.Unauthenticated, "invalid-token", "the session token is not valid")
	errExpired = fault.New(fault.Unauthenticated, "expired-token", "the session token has expired")
)

// claims are what is read of a session JWT. Connected apps and M2M clients get
// JWTs of the same issuer, audience and keys: only the session's claim tells
// them apart.
type claims struct {
	jwt.RegisteredClaims
	Session struct {
		ID        string    `json:"id"`
		ExpiresAt time.Time `json:"expires_at"`
	} `json:"https://stytch.com/session"`
}

// verifier verifies session JWTs (RFC 7519) and never calls Stytch but for an
// unknown key of a JWT whose every claim is right.
type verifier struct {
	parser  *jwt.Parser
	times   *jwt.Validator
	issuers []string
	keys    *keySet
	clock   func() time.Time
}

func newVerifier(projectID, baseURL string, keys *keySet, clock func() time.Time) *verifier {
	issuers := []string{"stytch.com/" + projectID}
	if baseURL != "" {
		issuers = append(issuers, strings.TrimSuffix(baseURL, "/")) // a project's own domain
	}
	return &verifier{
		parser: jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodRS256.Alg()}), jwt.WithoutClaimsValidation(), jwt.WithStrictDecoding()),
		times: jwt.NewValidator(jwt.WithAudience(projectID), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
			jwt.WithLeeway(leeway), jwt.WithTimeFunc(clock)),
		issuers: issuers, keys: keys, clock: clock,
	}
}

// verify gives the session of a JWT and when the JWT stops being good.
func (v *verifier) verify(ctx context.Context, token string) (Session, time.Time, error) {
	var cl claims
	_, err := v.parser.ParseWithClaims(token, &cl, func(t *jwt.Token) (any, error) {
		return v.key(ctx, t, &cl)
	})
	if err != nil {
		if f, ok := errors.AsType[*fault.Error](err); ok {
			return Session{}, time.Time{}, f
		}
		return Session{}, time.Time{}, errToken
	}
	until := cl.ExpiresAt.Add(leeway)
	if end := cl.Session.ExpiresAt; !end.IsZero() && end.Before(until) {
		until = end
	}
	s := Session{ID: cl.Session.ID, UserID: cl.Subject, ExpiresAt: cl.Session.ExpiresAt}
	if s.ExpiresAt.IsZero() {
		s.ExpiresAt = cl.ExpiresAt.Time
	}
	return s, until, nil
}

// key checks the claims before it looks for the key: a JWT that cannot be good
// whatever its key must not make us fetch one.
func (v *verifier) key(ctx context.Context, t *jwt.Token, cl *claims) (*rsa.PublicKey, error) {
	if _, critical := t.Header["crit"]; critical { // RFC 7515, 4.1.11: we understand none
		return nil, errToken
	}
	if !v.issued(cl) || cl.Subject == "" || cl.Session.ID == "" {
		return nil, errToken
	}
	switch err := v.times.Validate(cl); {
	case err == nil:
	case errors.Is(err, jwt.ErrTokenExpired) && !errors.Is(err, jwt.ErrTokenInvalidAudience):
		return nil, errExpired
	default:
		return nil, errToken
	}
	if end := cl.Session.ExpiresAt; !end.IsZero() && !v.clock().Before(end) {
		return nil, errExpired
	}
	id, _ := t.Header["kid"].(string)
	if id == "" {
		return nil, errToken
	}
	return v.keys.get(ctx, id)
}

func (v *verifier) issued(cl *claims) bool {
	for _, iss := range v.issuers {
		if cl.Issuer == iss {
			return true
		}
	}
	return false
}

// looksLikeJWT reports whether a token has three dot-separated parts.
func looksLikeJWT(token string) bool {
	parts := strings.SplitN(token, ".", 4)
	return len(parts) == 3 && parts[0] != "" && parts[1] != "" && parts[2] != ""
}

// looksOpaque reports whether a token can be one of Stytch's opaque ones:
// base64url, 44 characters today.
func looksOpaque(token string) bool {
	if len(token) < 32 || len(token) > 256 {
		return false
	}
	for _, r := range []byte(token) {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '=':
		default:
			return false
		}
	}
	return true
}

// sessionIn gives the session id that a JWT names, verified or not.
func (c *Client) sessionIn(token string) string {
	var cl claims
	if _, _, err := c.jwts.parser.ParseUnverified(token, &cl); err != nil {
		return ""
	}
	return cl.Session.ID
}
