package request

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestPagesOfNamedOriginsOnlyMayUseIt: with a token, never with a cookie.
func TestPagesOfNamedOriginsOnlyMayUseIt(t *testing.T) {
	origins, err := ParseOrigins("https://app.example.com, http://localhost:3000")
	if err != nil {
		t.Fatal(err)
	}
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for _, c := range []struct {
		origins Origins
		origin  string
		allowed bool
	}{
		{origins, "https://app.example.com", true}, {origins, "http://localhost:3000", true}, {origins, "http://app.example.com", false},
		{origins, "https://app.example.com.evil.example", false}, {origins, "https://evil.example", false}, {origins, "null", false}, {nil, "https://app.example.com", false},
	} {
		r := httptest.NewRequest("OPTIONS", "/v1/contacts", nil)
		r.Header.Set("Origin", c.origin)
		r.Header.Set("Access-Control-Request-Method", "PATCH")
		r.Header.Set("Access-Control-Request-Headers", "authorization,content-type,idempotency-key,if-match,prefer,writ-tenant")
		w := httptest.NewRecorder()
		c.origins.CORS(answer).ServeHTTP(w, r)
		h := w.Header()
		if got := h.Get("Access-Control-Allow-Origin") == c.origin && strings.Contains(h.Get("Access-Control-Allow-Methods"), "PATCH") && h.Get("Access-Control-Allow-Headers") != ""; got != c.allowed {
			t.Errorf("a preflight from %s is allowed: %v, want %v: %v", c.origin, got, c.allowed, h)
		}
		r = httptest.NewRequest("GET", "/v1/contacts", nil)
		r.Header.Set("Origin", c.origin)
		w = httptest.NewRecorder()
		c.origins.CORS(answer).ServeHTTP(w, r)
		h = w.Header()
		if got := h.Get("Access-Control-Allow-Origin") == c.origin && strings.Contains(h.Get("Access-Control-Expose-Headers"), "Writ-Command"); got != c.allowed || w.Code != http.StatusTeapot {
			t.Errorf("an answer (%d) to %s may be read: %v, want %v: %v", w.Code, c.origin, got, c.allowed, h)
		}
		if h.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s may act with our cookie", c.origin)
		}
		if c.origins != nil && !strings.Contains(strings.Join(h.Values("Vary"), ","), "Origin") {
			t.Errorf("the answer to %s does not say that it depends on Origin: %v", c.origin, h)
		}
	}
}

func TestMalformedOriginsAreRefused(t *testing.T) {
	for _, list := range []string{"*", "null", "app.example.com", "https://*.example.com", "https://app.example.com/", "https://app.example.com/x", "https://u@app.example.com", "HTTPS://app.example.com",
		"https://App.example.com", "https://app.example.com:443", "http://app.example.com:80", "https://app.example.com:", "https://a.example,", "ftp://a.example", strings.Repeat("https://a.example,", 64) + "https://a.example"} {
		if o, err := ParseOrigins(list); err == nil {
			t.Errorf("%.60q is read as %q, want it refused", list, o)
		}
	}
	for _, list := range []string{"", " ", "https://a.example", " https://a.example , http://[::1]:8080 "} {
		if _, err := ParseOrigins(list); err != nil {
			t.Errorf("%q: %v", list, err)
		}
	}
}
