package server

import (
	"context"
	"net/http"
	"time"
)

// deadline bounds a request: our own work and what the client asked to wait.
func deadline(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wait, _, _ := preferWait(r.Header.Values("Prefer")) // the handler reports what is wrong with it
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout+wait)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// within bounds a step of a request.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d)
}
