package server

import (
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/writ-project/writ/pkg/fault"
)

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }

// preferWait reads wait from Prefer (RFC 7240): seconds, at most maxWait. Other
// preferences are ignored, as the RFC says.
func preferWait(values []string) (wait time.Duration, asked bool, err error) {
	for _, v := range values {
		for p := range strings.SplitSeq(v, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(strings.SplitN(p, ";", 2)[0]), "=")
			if !strings.EqualFold(strings.TrimSpace(name), "wait") {
				continue
			}
			seconds, err := strconv.Atoi(strings.Trim(strings.TrimSpace(value), `"`))
			if err != nil || seconds < 0 {
				return 0, false, fault.InvalidField("header.Prefer", "wait wants a number of seconds")
			}
			return min(time.Duration(min(seconds, 3600))*time.Second, maxWait), true, nil
		}
	}
	return 0, false, nil
}

// maxKey is the length of the longest idempotency key, in bytes.
const maxKey = 255

// idempotencyKey reads Idempotency-Key (draft-ietf-httpapi-idempotency-key-header):
// a quoted string; a bare one is accepted.
func idempotencyKey(v string) (string, error) {
	if v == "" {
		return "", nil
	}
	key := v
	if strings.HasPrefix(v, `"`) {
		if len(v) < 2 || !strings.HasSuffix(v, `"`) {
			return "", fault.InvalidField("header.Idempotency-Key", "the closing quote is missing")
		}
		key = strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(v[1 : len(v)-1])
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

// etag is a version as an entity tag.
func etag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

// maxETags bounds the entity tags in one header.
const maxETags = 16

// entityTags reads If-Match or If-None-Match (RFC 9110, 13.1): the versions
// named, or any for *. Weak tags never match (strong comparison) and are left
// out, so that versions may be empty although the header was there.
func entityTags(header, v string) (versions []int64, any, present bool, err error) {
	if v == "" {
		return nil, false, false, nil
	}
	if strings.TrimSpace(v) == "*" {
		return nil, true, true, nil
	}
	tags := strings.Split(v, ",")
	if len(tags) > maxETags {
		return nil, false, false, fault.InvalidField("header."+header, "at most %d entity tags", maxETags)
	}
	for _, t := range tags {
		t = strings.TrimSpace(t)
		if strings.HasPrefix(t, "W/") {
			continue
		}
		if len(t) < 2 || t[0] != '"' || t[len(t)-1] != '"' {
			return nil, false, false, fault.InvalidField("header."+header, `want "version", the ETag of an answer`)
		}
		n, err := strconv.ParseInt(t[1:len(t)-1], 10, 64)
		if err != nil || n < 1 {
			continue // another's tag: it matches nothing of ours
		}
		versions = append(versions, n)
	}
	return versions, false, true, nil
}
