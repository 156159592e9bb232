package openapi

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"slices"
	"strings"
	"testing"

	"github.com/writ-project/writ/test/e2e/outside"
)

// The operations that only answer as they should to who has asked for a link before, with cookies.
const (
	sendLink = "/v1/auth/magic-link"
	redeem   = "/v1/auth/callback"
	signOut  = "/v1/auth/logout"
)

// signIn signs in and out as a program with cookies does.
func (s *suite) signIn(t *testing.T, dev *outside.Dev) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Jar: jar, Transport: transport}
	send := func(path, query, body string, want int, headers ...string) {
		t.Helper()
		op := s.operations[slices.IndexFunc(s.operations, func(op *operation) bool { return op.path == path })]
		r, err := http.NewRequestWithContext(t.Context(), op.method, dev.API+path+query, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != want {
			t.Errorf("%s: %d %s, want %d", op, res.StatusCode, text, want)
		}
		if err := s.check(op, outside.Answer{Status: res.StatusCode, Header: res.Header, Body: text}); err != nil {
			t.Errorf("%s: %v", op, err)
		}
	}
	const email = "signs-in@openapi.example"
	send(sendLink, "", `{"email":"`+email+`","return_to":"/docs"}`, http.StatusAccepted)
	_, query, _ := strings.Cut(outside.Mailed(t, dev.Mailbox, email, 0), "?")
	send(redeem, "?"+query, "", http.StatusOK)
	send(redeem, "?"+query, "", http.StatusUnauthorized) // it works once
	send("/account", "", "", http.StatusOK)
	send(signOut, "", "", http.StatusForbidden) // nothing says that it comes from this site
	send(signOut, "", "", http.StatusNoContent, "Origin", dev.API)
	send("/account", "", "", http.StatusUnauthorized)
	for range 5 {
		send(sendLink, "", `{"email":"flooded@openapi.example"}`, http.StatusAccepted)
	}
	send(sendLink, "", `{"email":"flooded@openapi.example"}`, http.StatusTooManyRequests)
}
