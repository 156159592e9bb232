package signin

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"strings"

	"github.com/writ-project/writ/pkg/problem"
)

//go:embed pages
var files embed.FS

// pages are the templates, the style within each page, and the headers that
// keep anything else out.
type pages struct {
	templates map[string]*template.Template
	csp       string
}

func newPages() (*pages, error) {
	style, err := files.ReadFile("pages/style.css")
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(style)
	p := &pages{templates: map[string]*template.Template{}, csp: "default-src 'none'; style-src 'sha256-" +
		base64.StdEncoding.EncodeToString(sum[:]) + "'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"}
	funcs := template.FuncMap{
		"style": func() template.CSS { return template.CSS(style) }, // our own file
		"join":  strings.Join,
		"pretty": func(v any) (string, error) {
			text, err := json.MarshalIndent(v, "", "  ")
			return string(text), err
		},
	}
	for _, name := range []string{"login", "sent", "trouble", "account"} {
		t, err := template.New("layout.html").Funcs(funcs).ParseFS(files, "pages/layout.html", "pages/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("read the page %s: %w", name, err)
		}
		p.templates[name] = t
	}
	return p, nil
}

// page is what every page is told.
type page struct {
	Title     string
	FormToken string
	Local     bool
	SignedIn  bool
	Data      any
}

// show answers with a page. Nothing of it is kept anywhere, run, framed or
// fetched from elsewhere; its address is told to nobody else.
func (s *SignIn) show(w http.ResponseWriter, r *http.Request, status int, name string, p page) {
	p.FormToken, p.Local = s.formToken(w, r), s.Local
	var b bytes.Buffer
	if err := s.pages.templates[name].Execute(&b, p); err != nil {
		s.Log.ErrorContext(r.Context(), "a page cannot be made", "page", name, "error", err)
		problem.Write(w, r, problem.Internal())
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", s.pages.csp)
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "same-origin") // no-referrer would make browsers send Origin: null with our forms
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = b.WriteTo(w) // the client may be gone
	}
}

// see sends the browser to one of our paths with GET (RFC 9110, 15.4.4).
func see(w http.ResponseWriter, path string, cookies ...*http.Cookie) {
	for _, c := range cookies {
		http.SetCookie(w, c)
	}
	w.Header().Set("Location", path)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "same-origin")
	w.WriteHeader(http.StatusSeeOther)
}

// WantsPage reports whether a request comes from somebody who reads: Accept
// names HTML.
func WantsPage(r *http.Request) bool {
	return strings.Contains(strings.Join(r.Header.Values("Accept"), ","), "text/html")
}
