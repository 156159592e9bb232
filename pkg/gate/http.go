package gate

import (
	"context"
	"net/http"

	"github.com/writ-project/writ/pkg/problem"
)

// With gives ctx a caller: the one that Again has looked up, for what is decided
// late in a long request.
func With(ctx context.Context, c *Caller) context.Context {
	return context.WithValue(ctx, contextKey{}, c)
}

// HTTP is Middleware for routes outside huma, such as those that stream.
func (g *Gate) HTTP(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		Private(w.Header())
		c, err := g.Admit(r.Context(), r.Header.Get("Authorization"), r.Header.Get(TenantHeader))
		if err != nil {
			problem.Write(w, r, problem.From(r.Context(), g.Log, err))
			return
		}
		next.ServeHTTP(w, r.WithContext(With(r.Context(), c)))
	})
}
