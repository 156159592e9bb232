package signin

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"mime"
	"net/http"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/problem"
)

// maxForm bounds a form's body, in bytes.
const maxForm = 16 << 10

// The answers to requests that no page of ours sent.
func crossOrigin() error {
	return problem.New(http.StatusForbidden, "cross-origin",
		"A request with the session's cookie must come from a page of this site (Sec-Fetch-Site or Origin); programs send Authorization: Bearer")
}

func staleForm() error {
	return problem.New(http.StatusForbidden, "form-token", "The form is too old, or was not one of this site's: try again")
}

// forms gives every form a token that fits a cookie of the browser that asked
// for the page (a signed double submit).
type forms struct{ keys [][]byte }

func (f forms) mac(key []byte, id string) string {
	m := hmac.New(sha256.New, key)
	_, _ = m.Write([]byte(id)) // never fails: hash.Hash
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

func (f forms) fits(id, token string) bool {
	ok := false
	for _, key := range f.keys {
		ok = hmac.Equal([]byte(f.mac(key, id)), []byte(token)) || ok
	}
	return ok && id != ""
}

// formToken gives the token for a page's forms, and the cookie where the browser
// has none yet.
func (s *SignIn) formToken(w http.ResponseWriter, r *http.Request) string {
	id := value(r, s.cookies.form)
	if len(id) != len(secret()) {
		id = secret()
		http.SetCookie(w, s.cookies.make(s.cookies.form, id, 0))
	}
	return s.forms.mac(s.forms.keys[0], id)
}

// sameOrigin refuses what a page of another site sent.
func (s *SignIn) sameOrigin(r *http.Request) error {
	if err := s.origin.Check(r); err != nil {
		return crossOrigin()
	}
	return nil
}

// form reads a form that one of our pages sent.
func (s *SignIn) form(w http.ResponseWriter, r *http.Request) error {
	if err := s.sameOrigin(r); err != nil {
		return err
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		out := fault.New(fault.Malformed, "malformed", "the form cannot be read")
		out.Err = err
		return out
	}
	if !s.forms.fits(value(r, s.cookies.form), r.PostForm.Get("form_token")) {
		return staleForm()
	}
	return nil
}

// isForm reports whether a request's body is what a form sends.
func isForm(r *http.Request) bool {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return kind == "application/x-www-form-urlencoded"
}
