// Package request knows the HTTP request that a context belongs to: its id, its
// route and where it came from, as decisions record them.
package request

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/writ-project/writ/pkg/events"
)

// IDHeader carries a request's id in both directions.
const IDHeader = "X-Request-ID"

type contextKey struct{}

// info is what decisions record of the request.
type info struct {
	events.RequestInfo
	r *http.Request
}

// Identify is a middleware that gives every request an id, or keeps the
// caller's if it is 1 to 128 visible ASCII characters, and sends it back. Where
// the request comes from is its connection's address, or what the trusted
// proxies say.
func Identify(trusted Proxies) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			id := r.Header.Get(IDHeader)
			if !plain(id, 128) {
				id = uuid.NewString()
			}
			w.Header().Set(IDHeader, id)
			i := &info{RequestInfo: events.RequestInfo{ID: id, Method: r.Method, Remote: trusted.client(r)}, r: r}
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), contextKey{}, i)))
		})
	}
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

// Info gives what a decision records of the request in ctx: nothing where
// [Identify] has not seen it.
func Info(ctx context.Context) events.RequestInfo {
	i, ok := ctx.Value(contextKey{}).(*info)
	if !ok {
		return events.RequestInfo{}
	}
	out := i.RequestInfo
	if c := chi.RouteContext(ctx); c != nil {
		out.Route = c.RoutePattern()
	}
	return out
}

// HTTP gives the request that ctx belongs to: an empty one where [Identify] has
// not seen it.
func HTTP(ctx context.Context) *http.Request {
	if i, ok := ctx.Value(contextKey{}).(*info); ok {
		return i.r
	}
	return &http.Request{}
}

// Gone reports whether the client of the request in ctx has gone away: nobody
// waits for the answer any more, and what fails for that reason failed for no other.
func Gone(ctx context.Context) bool {
	i, ok := ctx.Value(contextKey{}).(*info)
	return ok && errors.Is(i.r.Context().Err(), context.Canceled)
}

// FieldLines gives a header's value, its field lines joined (RFC 9110, 5.3).
func FieldLines(ctx context.Context, name string) string {
	return strings.Join(HTTP(ctx).Header.Values(name), ",")
}

// TraceID gives the trace that ctx is in, "" for none.
func TraceID(ctx context.Context) string {
	if sc := trace.SpanContextFromContext(ctx); sc.HasTraceID() {
		return sc.TraceID().String()
	}
	return ""
}

// NameSpan is a middleware that names the server span and the metric of a request by the route once it is known, also when it crashes.
func NameSpan(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			route := chi.RouteContext(r.Context()).RoutePattern()
			trace.SpanFromContext(r.Context()).SetName(r.Method + " " + route)
			if l, ok := otelhttp.LabelerFromContext(r.Context()); ok {
				l.Add(semconv.HTTPRoute(route))
			}
		}()
		next.ServeHTTP(w, r)
	})
}
