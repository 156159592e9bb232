package problem

import (
	"log/slog"
	"net/http"

	"github.com/writ-project/writ/pkg/request"
)

// WellFormed gives a middleware that refuses what cannot be read as one thing only
// (see [request.WellFormed]) with 400, and a body in a content coding with 415. It
// stands in front of everything that reads a query or a header.
func WellFormed(log *slog.Logger) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := request.WellFormed(r); err != nil {
				Write(w, r, From(r.Context(), log, err))
				return
			}
			if request.Coded(r) {
				p := New(http.StatusUnsupportedMediaType, "unsupported-content-coding", "Send the body without a content coding")
				p.Errors = []FieldError{{Location: "header.Content-Encoding", Message: "want identity, or no such header"}}
				Write(w, r, p.With("Accept-Encoding", "identity")) // RFC 9110, 12.5.3
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}
