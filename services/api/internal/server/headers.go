package server

import (
	"reflect"
	"strings"
	"time"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/request"
)

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }

// preferWait reads wait from Prefer (RFC 7240): seconds, at most maxWait. One that
// cannot be met, and any other preference, is ignored, as section 2 says; of two
// the first counts.
func preferWait(values []string) (wait time.Duration, asked bool) {
	for _, p := range request.List(strings.Join(values, ",")) {
		name, value, _ := strings.Cut(strings.TrimSpace(request.Cut(p, ';')), "=")
		if !strings.EqualFold(strings.TrimSpace(name), "wait") {
			continue
		}
		text := strings.Trim(strings.TrimSpace(value), `"`)
		seconds, ok := digits(text)
		switch {
		case ok:
			return time.Duration(min(seconds, int64(maxWait/time.Second))) * time.Second, true
		case text != "" && strings.Trim(text, "0123456789") == "": // more than a number holds (RFC 9111, 1.2.2)
			return maxWait, true
		}
		return 0, false
	}
	return 0, false
}

// maxKey is the length of the longest idempotency key, in bytes.
const maxKey = 255

// idempotencyKey reads Idempotency-Key (draft-ietf-httpapi-idempotency-key-header):
// a quoted string; a bare one is accepted.
func idempotencyKey(v string) (string, error) {
	if v == "" {
		return "", nil
	}
	key, ok := v, true
	if strings.HasPrefix(v, `"`) {
		if len(v) < 2 || !strings.HasSuffix(v, `"`) {
			return "", fault.InvalidField("header.Idempotency-Key", "the closing quote is missing")
		}
		if key, ok = unquote(v[1 : len(v)-1]); !ok {
			return "", fault.InvalidField("header.Idempotency-Key", "want one string in quotes (RFC 8941, 3.3.3)")
		}
	}
	if key == "" || len(key) > maxKey {
		return "", fault.InvalidField("header.Idempotency-Key", "want 1 to %d characters", maxKey)
	}
	for i := range len(key) {
		if key[i] < ' ' || key[i] > '~' {
			return "", fault.InvalidField("header.Idempotency-Key", "want printable ASCII characters")
		}
	}
	return key, nil
}

// unquote reads what stands between a string's quotes (RFC 8941, 3.3.3).
func unquote(s string) (string, bool) {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return "", false
		case s[i] == '\\':
			if i++; i == len(s) || s[i] != '"' && s[i] != '\\' {
				return "", false
			}
		}
		out.WriteByte(s[i])
	}
	return out.String(), true
}
