package attacks

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/test/e2e/outside"
)

// part is one part of a JWT.
func part(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func sign(t *testing.T, key *rsa.PrivateKey, text string) string {
	t.Helper()
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(sig)
}

// forgedJWTs: refused, and none of them makes us ask Stytch anything, in the header or in the cookie.
func (x *target) forgedJWTs(t *testing.T) {
	b := x.browser(t)
	link := b.ask(t, x, "jwt@example.com")
	a := b.send(t, "GET", link, "")
	var in struct {
		UserID       string `json:"user_id"`
		SessionToken string `json:"session_token"`
		SessionJWT   string `json:"session_jwt"`
	}
	if err := json.Unmarshal([]byte(a.body), &in); err != nil || a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	client := outside.NewClient(t, x.API, "")
	client.With(in.SessionJWT).Want(t, http.StatusOK, nil, "GET", "/v1/me", "") // the keys are known from here on

	parts := strings.Split(in.SessionJWT, ".")
	var head, claims map[string]any
	for i, into := range []*map[string]any{&head, &claims} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err == nil {
			err = json.Unmarshal(raw, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	with := func(m map[string]any, changes ...any) map[string]any {
		out := map[string]any{}
		for k, v := range m {
			out[k] = v
		}
		for i := 0; i < len(changes); i += 2 {
			out[changes[i].(string)] = changes[i+1]
		}
		return out
	}
	own, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	otherProject := "project-test-33333333-3333-4333-8333-333333333333"
	past := time.Now().Add(-time.Hour).Unix()
	unsigned := func(h, c map[string]any) string { return part(t, h) + "." + part(t, c) }
	hs := unsigned(with(head, "alg", "HS256"), claims)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(hs))
	forged := map[string]string{
		"alg none":                        unsigned(with(head, "alg", "none"), claims) + ".x",
		"alg none without a signature":    unsigned(with(head, "alg", "none"), claims) + ".",
		"alg None":                        unsigned(with(head, "alg", "None"), claims) + "." + parts[2],
		"HS256 with the project's secret": hs + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)),
		"own key under the known id":      sign(t, own, unsigned(head, claims)),
		"own key under an unknown id":     sign(t, own, unsigned(with(head, "kid", "jwk-test-unknown"), claims)),
		"own key in the header":           sign(t, own, unsigned(with(head, "jwk", map[string]any{"kty": "RSA"}, "jku", "https://evil.example/keys"), claims)),
		"no key id":                       sign(t, own, unsigned(with(head, "kid", ""), claims)),
		"expired":                         sign(t, own, unsigned(head, with(claims, "exp", past, "iat", past-300, "nbf", past-300))),
		"not valid yet":                   sign(t, own, unsigned(head, with(claims, "nbf", time.Now().Add(time.Hour).Unix()))),
		"wrong issuer":                    sign(t, own, unsigned(head, with(claims, "iss", "stytch.com/"+otherProject))),
		"no issuer":                       sign(t, own, unsigned(head, with(claims, "iss", ""))),
		"another project's":               sign(t, own, unsigned(head, with(claims, "iss", "stytch.com/"+otherProject, "aud", []string{otherProject}))),
		"another audience":                sign(t, own, unsigned(head, with(claims, "aud", []string{otherProject}))),
		"no session":                      sign(t, own, unsigned(head, with(claims, "https://stytch.com/session", nil))),
		"somebody else's claims":          parts[0] + "." + part(t, with(claims, "sub", "user-test-somebody-else")) + "." + parts[2],
		"a changed signature":             parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2])),
		"no signature":                    parts[0] + "." + parts[1] + ".",
		"a critical header":               sign(t, own, unsigned(with(head, "crit", []string{"x"}, "x", 1), claims)),
	}
	x.counted()
	keys := x.keyFetches()
	for name, jwt := range forged {
		for _, where := range [][]string{{"Authorization", "Bearer " + jwt}, {"Cookie", "__Host-writ_session=" + jwt}} {
			for _, path := range []string{"/v1/me", "/account", "/v1/contacts"} {
				if a := client.Do(t, "GET", path, "", where...); a.Status != http.StatusUnauthorized {
					t.Errorf("%s in %s: %s is answered %d %s", name, where[0], path, a.Status, a.Body)
				}
			}
		}
		want := http.StatusNoContent
		if name == "expired" { // its session may go on
			want = http.StatusUnauthorized
		}
		if a := client.Do(t, "POST", "/v1/auth/logout", "", "Authorization", "Bearer "+jwt); a.Status != want {
			t.Errorf("%s: signing out is answered %d", name, a.Status)
		}
	}
	if calls := x.counted(); len(calls) > 0 {
		t.Errorf("forged tokens made us call Stytch: %v", calls)
	}
	if n := x.keyFetches() - keys; n > 0 {
		t.Errorf("forged tokens made us fetch the keys %d times", n)
	}
	// Nor did anything of it end the session that the forgeries name.
	client.With(in.SessionJWT).Want(t, http.StatusOK, nil, "GET", "/v1/me", "")
	client.With(in.SessionToken).Want(t, http.StatusOK, nil, "GET", "/v1/me", "")
}
