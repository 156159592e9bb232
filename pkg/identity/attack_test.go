package identity_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/identity"
)

func newKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// jwksOf is the key set of a Stytch whose keys we hold.
func jwksOf(t testing.TB, keys map[string]*rsa.PrivateKey) []byte {
	t.Helper()
	var list []map[string]string
	for id, k := range keys {
		list = append(list, map[string]string{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": id,
			"n": base64.RawURLEncoding.EncodeToString(k.N.Bytes()),
			"e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(k.E)).Bytes())})
	}
	raw, err := json.Marshal(map[string]any{"status_code": 200, "keys": list})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// goodClaims are the claims of a session JWT as Stytch writes them.
func goodClaims(now time.Time) jwt.MapClaims {
	return jwt.MapClaims{
		"iss": "stytch.com/" + projectID, "aud": []string{projectID}, "sub": "user-test-sam",
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
		"https://stytch.com/session": map[string]any{
			"id": "session-test-1", "started_at": now.UTC().Format(time.RFC3339), "last_accessed_at": now.UTC().Format(time.RFC3339),
			"expires_at": now.Add(time.Hour).UTC().Format(time.RFC3339),
		},
	}
}

func sign(t testing.TB, method jwt.SigningMethod, kid any, key any, claims jwt.MapClaims) string {
	t.Helper()
	tok := jwt.NewWithClaims(method, claims)
	if kid != nil {
		tok.Header["kid"] = kid
	}
	s, err := tok.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func with(claims jwt.MapClaims, name string, value any) jwt.MapClaims {
	out := maps.Clone(claims)
	if value == nil {
		delete(out, name)
	} else {
		out[name] = value
	}
	return out
}

func TestBadTokensAreRefusedWithoutACall(t *testing.T) {
	s := start(t)
	ours, theirs := newKey(t), newKey(t)
	s.net.set(func(n *network) { n.jwks = jwksOf(t, map[string]*rsa.PrivateKey{"k1": ours}) })
	now := s.clock.Now()
	good := goodClaims(now)
	rs := func(claims jwt.MapClaims) string { return sign(t, jwt.SigningMethodRS256, "k1", ours, claims) }
	if got, err := s.Authenticate(t.Context(), rs(good)); err != nil || got.ID != "session-test-1" || got.UserID != "user-test-sam" {
		t.Fatalf("the good one: %+v, %v", got, err)
	}
	s.net.count()

	parts := strings.Split(rs(good), ".")
	session := good["https://stytch.com/session"].(map[string]any)
	ended := maps.Clone(session)
	ended["expires_at"] = now.Add(-time.Second).UTC().Format(time.RFC3339)
	critical := jwt.NewWithClaims(jwt.SigningMethodRS256, good)
	critical.Header["kid"], critical.Header["crit"] = "k1", []string{"exp"}
	crit, err := critical.SignedString(ours)
	if err != nil {
		t.Fatal(err)
	}
	pub := []byte(ours.N.String())
	for name, c := range map[string]struct{ token, code string }{
		"signed by another key":        {sign(t, jwt.SigningMethodRS256, "k1", theirs, good), "invalid-token"},
		"expired":                      {rs(with(good, "exp", now.Add(-10*time.Second).Unix())), "expired-token"},
		"expired and another key's id": {sign(t, jwt.SigningMethodRS256, "kx", theirs, with(good, "exp", now.Add(-10*time.Second).Unix())), "expired-token"},
		"session has ended":            {rs(with(good, "https://stytch.com/session", ended)), "expired-token"},
		"not yet":                      {rs(with(good, "nbf", now.Add(10*time.Second).Unix())), "invalid-token"},
		"issued in the future":         {rs(with(good, "iat", now.Add(time.Minute).Unix())), "invalid-token"},
		"no expiry":                    {rs(with(good, "exp", nil)), "invalid-token"},
		"wrong issuer":                 {rs(with(good, "iss", "evil.example.com")), "invalid-token"},
		"no issuer":                    {rs(with(good, "iss", nil)), "invalid-token"},
		"other project":                {sign(t, jwt.SigningMethodRS256, "their-key", theirs, with(with(good, "iss", "stytch.com/project-test-2"), "aud", []string{"project-test-2"})), "invalid-token"},
		"other audience, our key":      {rs(with(good, "aud", []string{"project-test-2"})), "invalid-token"},
		"no audience":                  {rs(with(good, "aud", nil)), "invalid-token"},
		"no subject":                   {rs(with(good, "sub", nil)), "invalid-token"},
		"no session (M2M)":             {rs(with(good, "https://stytch.com/session", nil)), "invalid-token"},
		"no key id":                    {sign(t, jwt.SigningMethodRS256, nil, ours, good), "invalid-token"},
		"key id is a number":           {sign(t, jwt.SigningMethodRS256, 1, ours, good), "invalid-token"},
		"critical header":              {crit, "invalid-token"},
		"alg none":                     {sign(t, jwt.SigningMethodNone, "k1", jwt.UnsafeAllowNoneSignatureType, good), "invalid-token"},
		"alg none, made to fit":        {base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","kid":"k1"}`)) + "." + parts[1] + ".x", "invalid-token"},
		"HS256 with the public key":    {sign(t, jwt.SigningMethodHS256, "k1", pub, good), "invalid-token"},
		"PS256":                        {sign(t, jwt.SigningMethodPS256, "k1", ours, good), "invalid-token"},
		"RS512":                        {sign(t, jwt.SigningMethodRS512, "k1", ours, good), "invalid-token"},
		"claims exchanged":             {parts[0] + "." + strings.Split(rs(with(good, "sub", "user-test-admin")), ".")[1] + "." + parts[2], "invalid-token"},
		"padded signature":             {rs(good) + "=", "invalid-token"},
		"two parts":                    {parts[0] + "." + parts[1], "invalid-token"},
		"four parts":                   {rs(good) + ".x", "invalid-token"},
		"empty parts":                  {"..", "invalid-token"},
		"garbage in three parts":       {"a.b.c", "invalid-token"},
		"empty":                        {"", "invalid-token"},
		"garbage":                      {"Robert'); DROP TABLE users;--                    ", "invalid-token"},
		"short":                        {"abc", "invalid-token"},
		"long":                         {strings.Repeat("a", 300), "invalid-token"},
		"oversized":                    {strings.Repeat("a", 8<<10+1), "invalid-token"},
		"oversized JWT":                {rs(with(good, "x", strings.Repeat("a", 8<<10))), "invalid-token"},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				_, err := s.Authenticate(t.Context(), c.token)
				wantFault(t, err, fault.Unauthenticated, c.code)
			}
			if n := s.net.count(); n != 0 {
				t.Fatalf("%d calls to Stytch", n)
			}
		})
	}
}

func TestBadTokensBeforeTheFirstKeysCauseNoCall(t *testing.T) {
	s := start(t)
	k := newKey(t)
	good := goodClaims(s.clock.Now())
	for _, claims := range []jwt.MapClaims{
		with(good, "iss", "evil.example.com"), with(good, "aud", "project-test-2"), with(good, "exp", 1),
	} {
		if _, err := s.Authenticate(t.Context(), sign(t, jwt.SigningMethodRS256, "k", k, claims)); !fault.Is(err, fault.Unauthenticated) {
			t.Fatalf("error %v", err)
		}
	}
	if n := s.net.count(); n != 0 {
		t.Fatalf("%d calls", n)
	}
}

func TestRandomKeyIDsCauseNoStorm(t *testing.T) {
	s := start(t)
	k := newKey(t)
	forged := func(i int) string {
		return sign(t, jwt.SigningMethodRS256, fmt.Sprintf("k%d", i), k, goodClaims(s.clock.Now()))
	}
	flood := func(kind fault.Kind) {
		t.Helper()
		errs := make(chan error, 40)
		for i := range cap(errs) {
			token := forged(i)
			go func() {
				_, err := s.Authenticate(t.Context(), token)
				errs <- err
			}()
		}
		for range cap(errs) {
			if err := <-errs; !fault.Is(err, kind) {
				t.Fatalf("error %v", err)
			}
		}
	}
	flood(fault.Unauthenticated)
	if n := s.net.count(); n != 1 {
		t.Fatalf("%d calls at first", n)
	}
	s.clock.Add(59 * time.Second)
	flood(fault.Unauthenticated)
	if n := s.net.count(); n != 0 {
		t.Fatalf("%d calls within a minute", n)
	}
	s.clock.Add(2 * time.Second)
	flood(fault.Unauthenticated)
	if n := s.net.count(); n != 1 {
		t.Fatalf("%d calls in the next minute", n)
	}
	// Nor while Stytch is down.
	s.net.set(func(n *network) { n.cut = true })
	s.clock.Add(61 * time.Second)
	flood(fault.Unavailable)
	s.clock.Add(30 * time.Second)
	flood(fault.Unavailable)
	if n := s.net.count(); n != 1 {
		t.Fatalf("%d calls while Stytch is down", n)
	}
}

func TestKeyRotation(t *testing.T) {
	s := start(t)
	k1, k2 := newKey(t), newKey(t)
	s.net.set(func(n *network) { n.jwks = jwksOf(t, map[string]*rsa.PrivateKey{"k1": k1}) })
	auth := func(kid string, k *rsa.PrivateKey) error {
		_, err := s.Authenticate(t.Context(), sign(t, jwt.SigningMethodRS256, kid, k, goodClaims(s.clock.Now())))
		return err
	}
	if err := auth("k1", k1); err != nil {
		t.Fatal(err)
	}
	s.clock.Add(2 * time.Minute)
	s.net.set(func(n *network) { n.jwks = jwksOf(t, map[string]*rsa.PrivateKey{"k1": k1, "k2": k2}) })
	if err := auth("k2", k2); err != nil {
		t.Fatalf("the new key: %v", err)
	}
	// After an hour the keys are fetched behind the request's back.
	s.net.count()
	asked := make(chan struct{}, 8)
	s.net.set(func(n *network) { n.before = func(*http.Request) { asked <- struct{}{} } })
	s.clock.Add(61 * time.Minute)
	if err := auth("k1", k1); err != nil {
		t.Fatal(err)
	}
	<-asked
	if err := s.Ping(t.Context()); err != nil { // joins that fetch, so that none runs on
		t.Fatal(err)
	}
	// A day without Stytch, and the keys are too old to trust.
	s.net.set(func(n *network) { n.cut = true })
	s.clock.Add(25 * time.Hour)
	if err := auth("k1", k1); !identity.Temporary(err) {
		t.Fatalf("error %v", err)
	}
}
