package signin

import (
	"net/http"
	"strings"
	"time"

	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/problem"
)

// cookies are the names of ours and how they are set.
//
// __Host- makes browsers refuse them without Secure, with a Domain or from a
// subdomain (RFC 6265bis, 4.1.3.2). Chromium takes them from http://localhost and
// http://127.0.0.1, too, but not every browser does: a local stack on plain HTTP
// has names of its own, without Secure.
type cookies struct {
	session, asked, form string
	secure               bool
}

func newCookies(plain bool) cookies {
	if plain {
		return cookies{session: "writ_session", asked: "writ_signin", form: "writ_form"}
	}
	return cookies{session: "__Host-writ_session", asked: "__Host-writ_signin", form: "__Host-writ_form", secure: true}
}

// make makes a cookie that lives for a time; 0 until the browser is closed.
func (c cookies) make(name, value string, life time.Duration) *http.Cookie {
	return &http.Cookie{
		Name: name, Value: value, Path: "/", HttpOnly: true, Secure: c.secure, SameSite: http.SameSiteLaxMode,
		MaxAge: int(life / time.Second),
	}
}

// drop makes the cookie that takes one away.
func (c cookies) drop(name string) *http.Cookie {
	out := c.make(name, "", 0)
	out.MaxAge = -1
	return out
}

// value gives a cookie's value, "" for none.
func value(r *http.Request, name string) string {
	c, err := r.Cookie(name)
	if err != nil {
		return ""
	}
	return c.Value
}

// SessionCookie is the name of the session's cookie.
func (s *SignIn) SessionCookie() string { return s.cookies.session }

// Bearer is a middleware that turns the session's cookie into the Authorization
// header that programs send, so that everything behind it knows one way only. A
// browser sends the cookie whoever made it send the request, so one that changes
// something must come from a page of ours: without a header that says so it is
// refused. Requests with Authorization: Bearer pass as they are; any other scheme
// is for whoever stands before the api, such as a proxy that asks for a password.
func (s *SignIn) Bearer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := value(r, s.cookies.session)
		if len(r.CookiesNamed(s.cookies.session)) > 1 { // whose session is meant?
			p := problem.New(http.StatusBadRequest, "malformed", "The session's cookie is given more than once")
			p.Errors = []problem.FieldError{{Location: "header.Cookie", Message: s.cookies.session + " is given more than once"}}
			problem.Write(w, r, p)
			return
		}
		if _, bearer := bearerOf(r); token == "" || bearer {
			next.ServeHTTP(w, r)
			return
		}
		if !safe(r.Method) {
			silent := r.Header.Get("Sec-Fetch-Site") == "" && r.Header.Get("Origin") == ""
			if err := s.sameOrigin(r); err != nil || silent {
				problem.Write(w, r, problem.From(r.Context(), s.Log, crossOrigin()))
				return
			}
		}
		// Shared caches know not to keep answers to Authorization (RFC 9111, 3.5), but nothing of our cookie.
		w.Header().Set("Cache-Control", "no-store")
		clone := r.Clone(r.Context())
		clone.Header.Set("Authorization", "Bearer "+token)
		next.ServeHTTP(w, clone)
	})
}

// bearerOf gives the token of Authorization: Bearer; false where that header is not
// there, or of another scheme.
func bearerOf(r *http.Request) (token string, bearer bool) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.TrimSpace(token), strings.EqualFold(scheme, "Bearer")
}

func safe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

// session makes the cookie of a session: it ends when the session does.
func (s *SignIn) session(in identity.SignedIn) *http.Cookie {
	return s.cookies.make(s.cookies.session, in.Token, max(time.Until(in.Session.ExpiresAt), time.Second))
}
