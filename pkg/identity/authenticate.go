package identity

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/stytchauth/stytch-go/v16/stytch/consumer/sessions"

	"github.com/writ-project/writ/pkg/fault"
)

// Authenticate gives the session that a token proves: a session JWT, verified
// here, or an opaque session token, verified by Stytch without extending the
// session and then trusted for at most 30 s.
//
// A revoked session's JWT passes until it expires, 5 minutes at most, unless
// it was revoked through this Client.
//
// Errors: fault.Unauthenticated with the code expired-token or invalid-token;
// fault.Unavailable where Stytch is needed and does not answer. What cannot be
// a token (over 8 KiB, wrong characters), forged, expired and other projects'
// JWTs cause no call to Stytch; a JWT signed by a key that we do not know
// causes at most one fetch of the keys a minute.
func (c *Client) Authenticate(ctx context.Context, token string) (Session, error) {
	if token == "" || len(token) > maxToken {
		return Session{}, errToken
	}
	key := digestOf(token)
	if s, ok := c.verified.get(key, c.clock()); ok {
		return s, nil
	}
	switch {
	case looksLikeJWT(token):
		return c.authenticateJWT(ctx, token, key)
	case looksOpaque(token):
		return c.authenticateOpaque(ctx, token, key)
	}
	return Session{}, errToken
}

func (c *Client) authenticateJWT(ctx context.Context, token string, key digest) (Session, error) {
	s, until, err := c.jwts.verify(ctx, token)
	if err == nil {
		err = c.remember(c.verified, key, s, until)
	}
	if err != nil {
		return Session{}, err
	}
	return s, nil
}

// remember caches a session unless it was revoked. Revoke notes the session
// and then forgets its tokens, so it is asked about after the put again.
func (c *Client) remember(cache *lru[digest, Session], key digest, s Session, until time.Time) error {
	if c.isRevoked(s.ID) {
		return errToken
	}
	cache.put(key, s, until)
	if c.isRevoked(s.ID) {
		c.forget(s.ID)
		return errToken
	}
	return nil
}

func (c *Client) authenticateOpaque(ctx context.Context, token string, key digest) (Session, error) {
	now := c.clock()
	if s, ok := c.opaque.get(key, now); ok {
		return s, nil
	}
	if err, ok := c.refused.get(key, now); ok {
		return Session{}, err
	}
	// The lookup belongs to everybody who waits for it: it outlives the one who
	// came first, and has its own deadline.
	flight := c.lookups.DoChan(string(key[:]), func() (any, error) {
		return c.lookup(context.WithoutCancel(ctx), token, key)
	})
	select {
	case res := <-flight:
		s, _ := res.Val.(Session)
		return s, res.Err
	case <-ctx.Done():
		return Session{}, fault.Unreachable("stytch", ctx.Err())
	}
}

// lookup asks Stytch about an opaque token and remembers the answer.
func (c *Client) lookup(ctx context.Context, token string, key digest) (Session, error) {
	select {
	case c.room <- struct{}{}:
		defer func() { <-c.room }()
	default:
		return Session{}, fault.Unreachable("stytch", errors.New("too many opaque tokens wait to be authenticated"))
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return Session{}, fault.Unreachable("stytch", ctx.Err())
	}
	asked := c.clock()
	res, err := call(ctx, c.credentials, "authenticate session", func(ctx context.Context) (*sessions.AuthenticateResponse, error) {
		return c.api.Sessions.Authenticate(ctx, &sessions.AuthenticateParams{SessionToken: token})
	})
	if err != nil {
		if Temporary(err) || fault.Is(err, fault.Internal) {
			return Session{}, err
		}
		c.refused.put(key, errToken, asked.Add(refusedTTL))
		return Session{}, errToken
	}
	s, err := sessionFrom(&res.Session)
	if err != nil {
		return Session{}, err
	}
	if !asked.Before(s.ExpiresAt) {
		return Session{}, errExpired
	}
	until := asked.Add(c.ttl)
	if s.ExpiresAt.Before(until) {
		until = s.ExpiresAt
	}
	if err := c.remember(c.opaque, key, s, until); err != nil {
		return Session{}, err
	}
	return s, nil
}

func sessionFrom(s *sessions.Session) (Session, error) {
	if s == nil || s.SessionID == "" || s.UserID == "" || s.ExpiresAt == nil {
		return Session{}, unreadable("read session")
	}
	return Session{ID: s.SessionID, UserID: s.UserID, ExpiresAt: *s.ExpiresAt}, nil
}

// Revoke ends a session, named by its id or by one of its tokens (a JWT may
// have expired). This Client refuses the session's tokens at once; others
// refuse opaque tokens within 30 s and JWTs within 5 minutes. A session that
// has ended already, and what cannot be a token, is no error. Errors:
// fault.Unavailable.
func (c *Client) Revoke(ctx context.Context, credential string) error {
	var params sessions.RevokeParams
	key := digestOf(credential)
	id, ours := "", true
	switch {
	case len(credential) > maxToken:
		return nil
	case strings.HasPrefix(credential, "session-"):
		id, params.SessionID = credential, credential
	case looksLikeJWT(credential):
		id, params.SessionJWT, ours = c.sessionIn(credential), credential, false
	case looksOpaque(credential):
		s, err := c.authenticateOpaque(ctx, credential, key) // whose it is
		if fault.Is(err, fault.Unauthenticated) {
			return nil
		} else if err != nil {
			return err
		}
		id, params.SessionToken = s.ID, credential
	default:
		return nil
	}
	_, err := call(ctx, c.credentials, "revoke session", func(ctx context.Context) (*sessions.RevokeResponse, error) {
		return c.api.Sessions.Revoke(ctx, &params)
	})
	if Temporary(err) || fault.Is(err, fault.Internal) {
		return err
	}
	// A JWT that Stytch refuses may be forged: it must not end the session that
	// it names. Any other refusal says that the session has ended before.
	if err == nil || ours {
		c.Refuse(id)
	}
	return nil
}

// Refuse makes this Client refuse a session's tokens from now on, without asking
// Stytch: for a session that is known to have ended elsewhere. It is remembered
// for 6 minutes, longer than any JWT of the session lives, for the last 10,000
// sessions (Config.CacheSize); an opaque token is not cached any more, so Stytch
// is asked about it.
func (c *Client) Refuse(sessionID string) {
	c.revoked.put(sessionID, struct{}{}, c.clock().Add(revokedTTL))
	c.forget(sessionID)
}

func (c *Client) isRevoked(sessionID string) bool {
	_, revoked := c.revoked.get(sessionID, c.clock())
	return revoked
}

// forget takes a session's tokens out of the caches.
func (c *Client) forget(sessionID string) {
	of := func(_ digest, s Session) bool { return s.ID == sessionID }
	c.verified.dropIf(of)
	c.opaque.dropIf(of)
}
