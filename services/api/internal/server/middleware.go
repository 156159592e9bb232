package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/writ-project/writ/pkg/events"
)

type contextKey int

const (
	requestKey contextKey = iota
	principalKey
)

// info is what decisions record of the request.
type info struct {
	events.RequestInfo
	r *http.Request
}

// requestID gives every request an id, or keeps the caller's if it is a
// reasonable one, and sends it back.
func requestID(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-ID")
		if !plain(id, 128) {
			id = uuid.NewString()
		}
		w.Header().Set("X-Request-ID", id)
		remote, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			remote = r.RemoteAddr
		}
		i := &info{RequestInfo: events.RequestInfo{ID: id, Method: r.Method, Remote: remote}, r: r}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), requestKey, i)))
	})
}

// plain reports whether s is 1 to limit visible ASCII characters.
func plain(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// requestInfo gives what a decision records of the request in ctx.
func requestInfo(ctx context.Context) events.RequestInfo {
	i, ok := ctx.Value(requestKey).(*info)
	if !ok {
		return events.RequestInfo{}
	}
	out := i.RequestInfo
	if c := chi.RouteContext(ctx); c != nil {
		out.Route = c.RoutePattern()
	}
	return out
}

// fieldLines gives a header's value, its field lines joined (RFC 9110, 5.3).
func fieldLines(ctx context.Context, name string) string {
	i, ok := ctx.Value(requestKey).(*info)
	if !ok {
		return ""
	}
	return strings.Join(i.r.Header.Values(name), ",")
}

// traceID gives the trace that ctx is in, "" for none.
func traceID(ctx context.Context) string {
	if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
		return sc.TraceID().String()
	}
	return ""
}

// allowed are the methods that the request's path takes (RFC 9110, 10.2.1).
func allowed(r *http.Request) []string {
	var out []string
	routes := chi.RouteContext(r.Context()).Routes
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete} {
		if routes.Match(chi.NewRouteContext(), method, r.URL.Path) {
			if out = append(out, method); method == http.MethodGet {
				out = append(out, http.MethodHead)
			}
		}
	}
	return out
}

// nameSpan names the server span by the route once it is known.
func nameSpan(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r)
		route := chi.RouteContext(r.Context()).RoutePattern()
		trace.SpanFromContext(r.Context()).SetName(r.Method + " " + route)
		if l, ok := otelhttp.LabelerFromContext(r.Context()); ok {
			l.Add(semconv.HTTPRoute(route))
		}
	})
}

// deadline bounds a request: our own work and what the client asked to wait.
func deadline(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wait, _, _ := preferWait(r.Header.Values("Prefer")) // the handler reports what is wrong with it
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout+wait)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// recoverer answers 500 when a handler panics.
func (s *Server) recoverer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler { //nolint:errorlint // compared as net/http does
				panic(v)
			}
			s.Log.ErrorContext(r.Context(), "handler crashed", "error", fmt.Sprint(v), "stack", string(debug.Stack()))
			writeProblem(w, r, newProblem(http.StatusInternalServerError, "internal", "Something went wrong on our side"))
		}()
		next.ServeHTTP(w, r)
	})
}

// within bounds a step of a request.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d)
}
