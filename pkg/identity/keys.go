package identity

import (
	"context"
	"crypto/rsa"
	"encoding/base64"
	"math/big"
	"sync"
	"time"

	"github.com/stytchauth/stytch-go/v16/stytch/consumer/sessions"
	"golang.org/x/sync/singleflight"

	"github.com/writ-project/writ/pkg/fault"
)

const (
	// refreshAfter is the age at which the keys are fetched again, in the
	// background; Stytch keeps an old key in the set for a month.
	refreshAfter = time.Hour
	// staleAfter is the age at which keys are no longer trusted: Stytch could
	// not be reached for a day.
	staleAfter = 24 * time.Hour
	// unknownEvery is how often keys are fetched, with or without success, while
	// there are keys: unknown key ids are free to invent.
	unknownEvery = time.Minute
	// failedEvery is how often a fetch that failed is tried again while there
	// are no keys.
	failedEvery = time.Second
	// pingEvery is how long a fetch that went well answers Ping.
	pingEvery = 15 * time.Second

	maxKeys = 64
)

// keySet is the project's signing keys, fetched when they are needed. However
// many requests want a key, one fetch runs at a time.
type keySet struct {
	ctx   context.Context // of New: bounds fetches, which belong to no request
	clock func() time.Time
	fetch func(context.Context) (map[string]*rsa.PublicKey, error)

	flight singleflight.Group

	mu      sync.Mutex
	keys    map[string]*rsa.PublicKey
	fetched time.Time // the last fetch that went well began
	tried   time.Time // the last fetch ended
	err     error     // how it ended
}

// get gives the key with an id. The error is fault.Unauthenticated where the
// project has no such key, and fault.Unavailable where that cannot be told.
func (s *keySet) get(ctx context.Context, id string) (*rsa.PublicKey, error) {
	s.mu.Lock()
	now := s.clock()
	age := now.Sub(s.fetched)
	key, known := s.keys[id]
	fresh := s.keys != nil && age < staleAfter
	recent := s.err == nil && s.keys != nil && age < unknownEvery
	every := failedEvery
	if fresh {
		every = unknownEvery
	}
	failed, wait := s.err, now.Sub(s.tried) < every
	s.mu.Unlock()

	switch {
	case known && fresh:
		if age > refreshAfter && (failed == nil || !wait) {
			s.refresh()
		}
		return key, nil
	case recent:
		return nil, errToken
	case failed != nil && wait:
		return nil, failed
	}
	if err := s.await(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if key, ok := s.keys[id]; ok {
		return key, nil
	}
	return nil, errToken
}

func (s *keySet) ping(ctx context.Context) error {
	s.mu.Lock()
	now := s.clock()
	good := s.err == nil && s.keys != nil && now.Sub(s.fetched) < pingEvery
	failed, wait := s.err, now.Sub(s.tried) < failedEvery
	s.mu.Unlock()
	switch {
	case good:
		return nil
	case failed != nil && wait:
		return failed
	}
	return s.await(ctx)
}

// refresh starts a fetch, or joins the one that runs.
func (s *keySet) refresh() <-chan singleflight.Result {
	return s.flight.DoChan("", func() (any, error) {
		began := s.clock()
		keys, err := s.fetch(s.ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.tried, s.err = s.clock(), err
		if err == nil {
			s.keys, s.fetched = keys, began
		}
		return nil, err
	})
}

// await waits for a fetch, but no longer than ctx.
func (s *keySet) await(ctx context.Context) error {
	select {
	case res := <-s.refresh():
		return res.Err
	case <-ctx.Done():
		return fault.Unreachable("stytch", ctx.Err())
	}
}

func (c *Client) fetchKeys(ctx context.Context) (map[string]*rsa.PublicKey, error) {
	const doing = "fetch the project's keys"
	projectID := &sessions.GetJWKSParams{ProjectID: c.api.Sessions.C.GetConfig().ProjectID}
	set, err := call(ctx, nil, doing, func(ctx context.Context) (*sessions.GetJWKSResponse, error) {
		return c.api.Sessions.GetJWKS(ctx, projectID)
	})
	if CredentialsRefused(err) { // anybody may have the keys: they prove nothing else
		c.credentials.note(err)
	}
	if err != nil {
		return nil, err
	}
	keys := map[string]*rsa.PublicKey{}
	for _, k := range set.Keys[:min(len(set.Keys), maxKeys)] {
		if pub, ok := parseKey(k); ok {
			keys[k.Kid] = pub
		}
	}
	if len(keys) == 0 {
		return nil, unreadable(doing)
	}
	return keys, nil
}

// parseKey reads an RSA signing key (RFC 7518, 6.3.1) of 2048 to 8192 bits;
// keys of other kinds are passed over.
func parseKey(k sessions.JWK) (*rsa.PublicKey, bool) {
	if k.Kty != "RSA" || k.Kid == "" || (k.Use != "" && k.Use != "sig") || (k.Alg != "" && k.Alg != "RS256") {
		return nil, false
	}
	n, errN := base64.RawURLEncoding.DecodeString(k.N)
	e, errE := base64.RawURLEncoding.DecodeString(k.E)
	if errN != nil || errE != nil || len(e) == 0 || len(e) > 4 {
		return nil, false
	}
	pub := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	bits := pub.N.BitLen()
	return pub, bits >= 2048 && bits <= 8192 && pub.E >= 3 && pub.E&1 == 1
}
