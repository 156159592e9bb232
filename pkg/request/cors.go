package request

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/rs/cors"
)

// Origins are the web origins (RFC 6454) whose pages may use a service with a token
// of their own. The zero value is none.
type Origins []string

// maxOrigins bounds the origins in a setting.
const maxOrigins = 64

// ParseOrigins reads at most 64 origins as browsers write them
// (https://app.example.com), separated by commas. There are no patterns, and null
// is nobody's.
func ParseOrigins(list string) (Origins, error) {
	if strings.TrimSpace(list) == "" {
		return nil, nil
	}
	parts := strings.Split(list, ",")
	if len(parts) > maxOrigins {
		return nil, fmt.Errorf("%d origins, at most %d", len(parts), maxOrigins)
	}
	var out Origins
	for _, part := range parts {
		part = strings.TrimSpace(part)
		u, err := url.Parse(part)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.Scheme+"://"+u.Host != part || strings.Contains(part, "*") || part != strings.ToLower(part) {
			return nil, fmt.Errorf("%q is no origin like https://app.example.com: a scheme and a host in lower case, and nothing behind them", part)
		}
		if port := u.Port(); port == "443" && u.Scheme == "https" || port == "80" && u.Scheme == "http" || strings.HasSuffix(u.Host, ":") {
			return nil, fmt.Errorf("%q: browsers leave the scheme's own port out", part)
		}
		out = append(out, part)
	}
	return out, nil
}

// What pages of other origins may send and read (Fetch, 3.2).
var (
	corsMethods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}
	corsSent    = []string{
		"Authorization", "Content-Digest", "Content-Range", "Content-Type", "Idempotency-Key", "If-Match", "If-Modified-Since", "If-None-Match", "If-Range",
		"If-Unmodified-Since", "Last-Event-ID", "Prefer", "Range", "Repr-Digest", "Traceparent", "Tracestate", "Writ-Tenant", IDHeader,
	}
	corsRead = []string{
		"Accept-Encoding", "Accept-Patch", "Accept-Ranges", "Allow", "Content-Disposition", "Content-Range", "ETag", "Location", "Preference-Applied", "Repr-Digest",
		"Retry-After", "Upload-Complete", "Upload-Offset", "WWW-Authenticate", "Writ-Checkpoint", "Writ-Command", IDHeader,
	}
)

// corsMaxAge is for how long a browser need not ask again what it may send, in seconds.
const corsMaxAge = 600

// CORS is a middleware that lets pages of these origins read answers, and answers
// their browsers' preflights. It allows no credentials of the browser's own: a page
// of another origin sends Authorization: Bearer, and never acts with our cookie.
func (o Origins) CORS(next http.Handler) http.Handler {
	if len(o) == 0 {
		return next
	}
	return cors.New(cors.Options{
		AllowedOrigins: o, AllowedMethods: corsMethods, AllowedHeaders: corsSent, ExposedHeaders: corsRead, MaxAge: corsMaxAge,
	}).Handler(next)
}
