package identity_test

import (
	"crypto/rsa"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/writ-project/writ/pkg/identity"
)

func BenchmarkAuthenticateJWTCached(b *testing.B) {
	s := start(b)
	token := s.signIn(b, "sam@example.com").JWT
	ctx := b.Context()
	if _, err := s.Authenticate(ctx, token); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Authenticate(ctx, token); err != nil {
			b.Fatal(err)
		}
	}
}

// cacheOfOne makes every token a new one.
var cacheOfOne = identity.Config{CacheSize: 1}

func BenchmarkAuthenticateJWTUncached(b *testing.B) {
	s := start(b)
	k := newKey(b)
	s.net.set(func(n *network) { n.jwks = jwksOf(b, map[string]*rsa.PrivateKey{"k1": k}) })
	var tokens []string
	for i := range 512 {
		claims := goodClaims(s.clock.Now().Add(-time.Second))
		claims["n"] = i
		tokens = append(tokens, sign(b, jwt.SigningMethodRS256, "k1", k, claims))
	}
	c, n := s.client(b, cacheOfOne)
	n.set(func(n *network) { n.jwks = jwksOf(b, map[string]*rsa.PrivateKey{"k1": k}) })
	ctx := b.Context()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := c.Authenticate(ctx, tokens[i%len(tokens)]); err != nil {
			b.Fatal(err)
		}
	}
}
