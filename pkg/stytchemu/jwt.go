package stytchemu

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/stytchauth/stytch-go/v16/stytch/consumer/attribute"
	"github.com/stytchauth/stytch-go/v16/stytch/consumer/sessions"
)

const (
	// jwtLifetime is how long a session JWT is good, whatever the session.
	jwtLifetime  = 5 * time.Minute
	sessionClaim = "https://stytch.com/session"
)

// signingKey is the project's RSA key.
type signingKey struct {
	id      string
	private *rsa.PrivateKey
}

// loadKey takes the key from the state, or makes one of 2048 bits.
func (e *Emulator) loadKey() (signingKey, error) {
	for id, raw := range e.state.keys {
		var der []byte
		if err := json.Unmarshal(raw, &der); err != nil {
			return signingKey{}, fmt.Errorf("stytchemu: read signing key: %w", err)
		}
		private, err := x509.ParsePKCS1PrivateKey(der)
		if err != nil {
			return signingKey{}, fmt.Errorf("stytchemu: read signing key: %w", err)
		}
		return signingKey{id: id, private: private}, nil
	}
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return signingKey{}, fmt.Errorf("stytchemu: make signing key: %w", err)
	}
	k := signingKey{id: e.newID("jwk"), private: private}
	return k, e.state.commit(e.now(), put("key", k.id, x509.MarshalPKCS1PrivateKey(private)))
}

func (e *Emulator) getJWKS(r *http.Request) (any, error) {
	if r.PathValue("project") != e.cfg.ProjectID {
		return nil, errProject
	}
	pub := e.key.private.PublicKey
	return sessions.GetJWKSResponse{Keys: []sessions.JWK{{
		Kty: "RSA", Use: "sig", KeyOps: []string{"verify"}, Alg: "RS256", Kid: e.key.id,
		N: base64.RawURLEncoding.EncodeToString(pub.N.Bytes()),
		E: base64.RawURLEncoding.EncodeToString(big.NewInt(int64(pub.E)).Bytes()),
	}}}, nil
}

// sign makes the JWT of a session, custom claims beside Stytch's own.
func (e *Emulator) sign(s *session) (string, error) {
	now := e.now()
	claims := jwt.MapClaims{}
	maps.Copy(claims, s.CustomClaims)
	claims["iss"] = "stytch.com/" + e.cfg.ProjectID
	claims["aud"] = []string{e.cfg.ProjectID}
	claims["sub"] = s.UserID
	claims["iat"] = now.Unix()
	claims["nbf"] = now.Unix()
	claims["exp"] = now.Add(jwtLifetime).Unix()
	claims[sessionClaim] = sessions.SessionClaim{
		ID:                    s.SessionID,
		StartedAt:             s.StartedAt.Format(time.RFC3339),
		LastAccessedAt:        s.LastAccessedAt.Format(time.RFC3339),
		ExpiresAt:             s.ExpiresAt.Format(time.RFC3339),
		Attributes:            attributes(s.Attributes),
		AuthenticationFactors: s.AuthenticationFactors,
		Roles:                 s.Roles,
	}
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
	token.Header["kid"] = e.key.id
	signed, err := token.SignedString(e.key.private)
	if err != nil {
		return "", fmt.Errorf("stytchemu: sign session: %w", err)
	}
	return signed, nil
}

func attributes(a *attribute.Attributes) attribute.Attributes {
	if a == nil {
		return attribute.Attributes{}
	}
	return *a
}

// sessionOf gives the session id of a JWT of ours. An expired JWT will do: it
// is how clients ask for a fresh one.
func (e *Emulator) sessionOf(token string) (string, error) {
	var claims sessions.Claims
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithoutClaimsValidation())
	_, err := parser.ParseWithClaims(token, &claims, func(t *jwt.Token) (any, error) {
		if t.Header["kid"] != e.key.id {
			return nil, errors.New("unknown key")
		}
		return &e.key.private.PublicKey, nil
	})
	if err != nil || claims.Issuer != "stytch.com/"+e.cfg.ProjectID {
		return "", errJWT
	}
	return claims.StytchSession.ID, nil
}
