// Package limit keeps a service from taking on more than it can finish: what
// is past a limit is refused at once with Retry-After, while what was accepted
// goes on undisturbed.
package limit

import (
	"math"
	"net/http"
	"time"

	"github.com/go-chi/httprate"

	"github.com/writ-project/writ/pkg/problem"
)

// retryAfter is what a refused client is told to wait, in seconds.
const retryAfter = "1"

// InFlight gives a middleware that lets at most max requests through at a time
// and answers any other 503 at once; 0 means no limit. It counts whole
// requests, so streams and requests that wait for an outcome hold a place.
func InFlight(max uint) func(http.Handler) http.Handler {
	places := make(chan struct{}, min(max, 1<<20)) // of all routes together: chi wraps each of a group by itself
	return func(next http.Handler) http.Handler {
		if max == 0 {
			return next
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case places <- struct{}{}:
				defer func() { <-places }()
				next.ServeHTTP(w, r)
			default:
				// Reading the body of what is refused would be work, too.
				w.Header().Set("Connection", "close")
				p := problem.New(http.StatusServiceUnavailable, "overloaded", "Too many requests are in flight; nothing was done")
				problem.Write(w, r, p.With("Retry-After", retryAfter))
			}
		})
	}
}

// Rate limits how often each of many may do something: a sliding window over
// the last second, in this process alone. It remembers who came within two
// seconds and nobody else.
type Rate struct{ limiter *httprate.RateLimiter }

// NewRate makes a Rate of perSecond for each key; nil, which allows
// everything, for 0.
func NewRate(perSecond uint) *Rate {
	if perSecond == 0 {
		return nil
	}
	return &Rate{httprate.NewRateLimiter(int(min(perSecond, math.MaxInt32)), time.Second, httprate.WithResponseHeaders(httprate.ResponseHeaders{}))}
}

// Allow counts one for key and gives nil, or the problem to answer with: 429.
func (l *Rate) Allow(w http.ResponseWriter, r *http.Request, key string) *problem.Problem {
	if l == nil || !l.limiter.OnLimit(w, r, key) {
		return nil
	}
	return problem.New(http.StatusTooManyRequests, "too-many-requests", "You send more requests a second than one principal may").
		With("Retry-After", retryAfter)
}
