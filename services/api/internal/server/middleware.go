package server

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/limit"
	"github.com/writ-project/writ/pkg/problem"
	"github.com/writ-project/writ/pkg/request"
)

// deadline bounds a request: our own work and what the client asked to wait.
func deadline(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wait, _ := preferWait(r.Header.Values("Prefer"))
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout+wait)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// notTooOften refuses requests of a principal who sends too many. It comes
// after the gate: who is not signed in is refused there.
func (s *Server) notTooOften(rate *limit.Rate) func(huma.Context, func(huma.Context)) {
	return func(hc huma.Context, next func(huma.Context)) {
		if c := gate.CallerOf(hc.Context()); c != nil {
			r, w := humachi.Unwrap(hc)
			if p := rate.Allow(w, r, c.ID); p != nil {
				p.RequestID = request.Info(hc.Context()).ID
				problem.Answer(s.api, hc, p)
				return
			}
		}
		next(hc)
	}
}

// within bounds a step of a request.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d)
}
