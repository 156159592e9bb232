package problem

import (
	"log/slog"
	"net/http"
	"strings"

	"github.com/writ-project/writ/pkg/request"
)

// Conditional gives a middleware that judges the preconditions of a GET or HEAD
// (RFC 9110, 13) by the answer that it would have: only what the answer says of
// itself, its ETag and Last-Modified, tells whether the client has it already.
// Where the precondition fails nothing of the answer is sent.
func Conditional(log *slog.Logger) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				next.ServeHTTP(w, r)
				return
			}
			c, err := request.ReadConditions(r.Header)
			switch {
			case err != nil:
				Write(w, r, From(r.Context(), log, err))
			case c.None():
				next.ServeHTTP(w, r)
			default:
				next.ServeHTTP(&conditional{ResponseWriter: w, r: r, conditions: c}, r)
			}
		})
	}
}

// conditional holds an answer back whose precondition fails.
type conditional struct {
	http.ResponseWriter
	r          *http.Request
	conditions request.Conditions
	wrote      bool
	drop       bool
}

// Unwrap is for [http.ResponseController].
func (c *conditional) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (c *conditional) WriteHeader(status int) {
	if c.wrote || status < http.StatusOK { // 1xx come before the answer
		c.ResponseWriter.WriteHeader(status)
		return
	}
	c.wrote = true
	if status != http.StatusOK { // RFC 9110, 13.2.1: it is no success
		c.ResponseWriter.WriteHeader(status)
		return
	}
	h := c.Header()
	switch c.conditions.Judge(c.r.Method, validators(h)) {
	case request.NotModified:
		c.drop = true
		for _, name := range []string{"Content-Type", "Content-Length", "Content-Disposition", "Last-Modified"} {
			h.Del(name) // RFC 9110, 15.4.5: what is not needed to know which answer is meant
		}
		c.ResponseWriter.WriteHeader(http.StatusNotModified)
	case request.Failed:
		c.drop = true
		for _, name := range []string{"ETag", "Content-Length", "Content-Disposition"} {
			h.Del(name)
		}
		Write(c.ResponseWriter, c.r, PreconditionFailed())
	default:
		c.ResponseWriter.WriteHeader(status)
	}
}

// Write implements io.Writer.
func (c *conditional) Write(b []byte) (int, error) {
	if !c.wrote {
		c.WriteHeader(http.StatusOK)
	}
	if c.drop {
		return len(b), nil
	}
	return c.ResponseWriter.Write(b)
}

// validators are what an answer's headers say.
func validators(h http.Header) request.Validators {
	v := request.Validators{Exists: true}
	if tag := h.Get("ETag"); tag != "" {
		opaque := strings.Trim(strings.TrimPrefix(tag, "W/"), `"`)
		weak := strings.HasPrefix(tag, "W/")
		v.Is = func(other string, strong bool) bool { return other == opaque && !(strong && weak) }
	}
	if at, err := http.ParseTime(h.Get("Last-Modified")); err == nil {
		v.Modified = at
	}
	return v
}

// PreconditionFailed is the answer where what is there is not what the request wants.
func PreconditionFailed() *Problem {
	return New(http.StatusPreconditionFailed, VersionConflict, "It is not what the request's preconditions want")
}
