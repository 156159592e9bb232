package request

import (
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/writ-project/writ/pkg/fault"
)

// singular are the headers that writ reads and that have one value (RFC 9110, 5.3).
// Of two it is not known which one is meant, and whoever stands in front may have
// looked at the other one.
var singular = []string{
	"Authorization", "Content-Range", "Content-Type", "Idempotency-Key", "If-Modified-Since", "If-Range", "If-Unmodified-Since",
	"Last-Event-ID", "Origin", "Range", "Sec-Fetch-Site", "Svix-Id", "Svix-Signature", "Svix-Timestamp", "Writ-Tenant", IDHeader,
}

// filled are the headers that mean less where they are empty: no precondition, no
// protection from a second try. An empty tenant is the default one.
var filled = []string{"Content-Range", "Idempotency-Key", "If-Match", "If-None-Match", "Last-Event-ID"}

// WellFormed says what of a request's query and headers cannot be read as one
// thing only: fault.Malformed that names it, and nobody is to guess. What can is brought
// into the form that everybody behind it reads alike: the query is encoded anew, and
// the media type is in lower case (RFC 9110, 8.3.1). r is changed in place.
func WellFormed(r *http.Request) error {
	for _, name := range singular {
		if len(r.Header.Values(name)) > 1 {
			return malformed("header."+name, "given more than once")
		}
	}
	for _, name := range filled {
		if lines := r.Header.Values(name); len(lines) > 0 && strings.Trim(strings.Join(lines, ""), " \t") == "" {
			return malformed("header."+name, "is empty")
		}
	}
	query, err := canonicalQuery(r.URL.RawQuery)
	if err != nil {
		return err
	}
	r.URL.RawQuery = query
	if v := r.Header.Get("Content-Type"); v != "" {
		kind, rest, _ := strings.Cut(v, ";")
		if lower := strings.ToLower(strings.TrimSpace(kind)); lower != kind {
			r.Header.Set("Content-Type", strings.TrimSuffix(lower+";"+rest, ";"))
		}
	}
	return nil
}

// canonicalQuery reads a query as [url.ParseQuery] does, but passes nothing over,
// and encodes it anew.
func canonicalQuery(raw string) (string, error) {
	if raw == "" {
		return "", nil
	}
	var names []string
	var out strings.Builder
	for pair := range strings.SplitSeq(raw, "&") {
		if pair == "" {
			continue
		}
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name, err := queryText(rawName)
		if err != "" {
			return "", malformed("query."+shown(rawName), "the name %s", err)
		}
		value, err := queryText(rawValue)
		if err != "" {
			return "", malformed("query."+shown(name), "%s", err)
		}
		if slices.Contains(names, name) {
			return "", malformed("query."+shown(name), "given more than once")
		}
		if names = append(names, name); len(names) > maxParameters {
			return "", malformed("query."+shown(name), "at most %d parameters", maxParameters)
		}
		if out.Len() > 0 {
			out.WriteByte('&')
		}
		out.WriteString(url.QueryEscape(name) + "=" + url.QueryEscape(value))
	}
	return out.String(), nil
}

// maxParameters bounds the parameters of a query: no route knows as many.
const maxParameters = 64

// queryText decodes a part of a query, or says what is wrong with it.
func queryText(raw string) (text, wrong string) {
	if strings.Contains(raw, ";") {
		return "", "has a semicolon: write %3B, or & between parameters"
	}
	text, err := url.QueryUnescape(raw)
	switch {
	case err != nil:
		return "", "has a % that no two hex digits follow"
	case !utf8.ValidString(text):
		return "", "is not UTF-8"
	case strings.ContainsRune(text, 0):
		return "", "holds the character U+0000"
	}
	return text, ""
}

// shown makes a name fit to be told: printable, and not long.
func shown(name string) string {
	name = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, name)
	if len(name) > 64 {
		name = strings.ToValidUTF8(name[:64], "") + "…"
	}
	return name
}

// malformed is the answer to what cannot be read: 400.
func malformed(location, format string, args ...any) error {
	e := fault.InvalidField(location, format, args...)
	e.Kind, e.Code = fault.Malformed, "malformed"
	return e
}

// Coded reports whether a body comes in a content coding (RFC 9110, 8.4), of which
// writ decodes none.
func Coded(r *http.Request) bool {
	for _, line := range r.Header.Values("Content-Encoding") {
		for coding := range strings.SplitSeq(line, ",") {
			if coding = strings.Trim(coding, " \t"); coding != "" && !strings.EqualFold(coding, "identity") {
				return r.ContentLength != 0
			}
		}
	}
	return false
}

// MediaType gives the type of a request's body in lower case, "" if it does not
// say; false if what it says is none.
func MediaType(r *http.Request) (string, bool) {
	v := r.Header.Get("Content-Type")
	if v == "" {
		return "", true
	}
	t, _, err := mime.ParseMediaType(v)
	return t, err == nil && strings.Contains(t, "/")
}

// List splits a header's value at its commas, those in quoted strings aside (RFC
// 9110, 5.6.1 and 5.6.4). Empty elements are left out.
func List(v string) []string {
	var out []string
	for v != "" {
		element := Cut(v, ',')
		if v = strings.TrimPrefix(v[len(element):], ","); strings.Trim(element, " \t") != "" {
			out = append(out, strings.Trim(element, " \t"))
		}
	}
	return out
}

// Cut gives what stands before the first sep that is not in a quoted string.
func Cut(v string, sep byte) string {
	quoted := false
	for i := 0; i < len(v); i++ {
		switch {
		case v[i] == '"':
			quoted = !quoted
		case quoted && v[i] == '\\':
			i++
		case !quoted && v[i] == sep:
			return v[:i]
		}
	}
	return v
}
