package problem

import (
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"

	"github.com/go-chi/chi/v5"
)

// NotFound answers where there is no such path.
func NotFound(w http.ResponseWriter, r *http.Request) {
	Write(w, r, New(http.StatusNotFound, "not-found", "There is no "+r.URL.Path))
}

// MethodNotAllowed answers where there is the path and not the method.
func MethodNotAllowed(w http.ResponseWriter, r *http.Request) {
	p := New(http.StatusMethodNotAllowed, "method-not-allowed", r.Method+" is not allowed here")
	Write(w, r, p.With("Allow", strings.Join(allowed(r), ", ")))
}

// allowed are the methods that the request's path takes (RFC 9110, 10.2.1).
func allowed(r *http.Request) []string {
	var out []string
	routes := chi.RouteContext(r.Context()).Routes
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if routes.Match(chi.NewRouteContext(), method, r.URL.Path) {
			if out = append(out, method); method == http.MethodGet {
				out = append(out, http.MethodHead)
			}
		}
	}
	return out
}

// Recover gives a middleware that answers 500 when a handler panics.
func Recover(log *slog.Logger) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer func() {
				v := recover()
				if v == nil {
					return
				}
				if v == http.ErrAbortHandler { //nolint:errorlint // compared as net/http does
					panic(v)
				}
				log.ErrorContext(r.Context(), "handler crashed", "error", fmt.Sprint(v), "stack", string(debug.Stack()))
				Write(w, r, Internal())
			}()
			next.ServeHTTP(w, r)
		})
	}
}
