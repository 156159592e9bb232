package request

import (
	"net/http"
	"strings"
	"time"

	"github.com/writ-project/writ/pkg/fault"
)

// Bounds of the entity tags in one header.
const (
	maxTags      = 16
	maxTagsBytes = 1024
)

// Tags are the entity tags that If-Match or If-None-Match names (RFC 9110, 13.1.1
// and 13.1.2).
type Tags struct {
	// Given says that the header is there, Any that it is *.
	Given, Any bool
	List       []Tag
}

// Tag is an entity tag (RFC 9110, 8.8.3) without its quotes.
type Tag struct {
	Opaque string
	Weak   bool
}

// Conditions are a request's preconditions. A date that cannot be read is none
// (RFC 9110, 13.1.3 and 13.1.4).
type Conditions struct {
	IfMatch, IfNoneMatch           Tags
	modifiedSince, unmodifiedSince date
	ifRange                        string
}

// date is a date that may not have been given.
type date struct {
	time.Time
	given bool
}

// Validators are what a resource's state is compared by.
type Validators struct {
	// Exists says that there is a current representation.
	Exists bool
	// Is compares a tag's opaque part with the current one; nil matches none. strong
	// is true for If-Match. It is never asked about a weak tag then.
	Is func(opaque string, strong bool) bool
	// Modified is when it changed last; zero if that is not known, and then no date is looked at.
	Modified time.Time
}

// Verdict is what preconditions come to.
type Verdict int

// The verdicts.
const (
	Proceed     Verdict = iota
	NotModified         // 304: for GET and HEAD only
	Failed              // 412
)

// ReadConditions reads the preconditions of a request. The error is fault.Invalid
// and names the header.
func ReadConditions(h http.Header) (c Conditions, err error) {
	if c.IfMatch, err = readTags(h, "If-Match"); err != nil {
		return c, err
	}
	if c.IfNoneMatch, err = readTags(h, "If-None-Match"); err != nil {
		return c, err
	}
	c.modifiedSince, c.unmodifiedSince = readDate(h, "If-Modified-Since"), readDate(h, "If-Unmodified-Since")
	c.ifRange = strings.TrimSpace(h.Get("If-Range"))
	return c, nil
}

// None reports whether a request has no preconditions; If-Range is none by itself.
func (c Conditions) None() bool {
	return !c.IfMatch.Given && !c.IfNoneMatch.Given && !c.modifiedSince.given && !c.unmodifiedSince.given
}

// BeyondIfMatch reports whether there is a precondition of a write beside If-Match.
func (c Conditions) BeyondIfMatch() bool {
	return c.IfNoneMatch.Given || !c.IfMatch.Given && c.unmodifiedSince.given
}

// WithoutIfNoneMatch gives the other preconditions.
func (c Conditions) WithoutIfNoneMatch() Conditions {
	c.IfNoneMatch = Tags{}
	return c
}

// Judge evaluates the preconditions in the order of RFC 9110, 13.2.2. It is to be
// asked where the answer without them would be a success (13.2.1).
func (c Conditions) Judge(method string, now Validators) Verdict {
	reads := method == http.MethodGet || method == http.MethodHead
	switch {
	case c.IfMatch.Given: // steps 1 and 2
		if !c.IfMatch.match(now, true) {
			return Failed
		}
	case c.unmodifiedSince.given && !now.Modified.IsZero() && seconds(now.Modified).After(c.unmodifiedSince.Time):
		return Failed
	}
	switch {
	case c.IfNoneMatch.Given: // steps 3 and 4
		if c.IfNoneMatch.match(now, false) {
			if reads {
				return NotModified
			}
			return Failed
		}
	case reads && c.modifiedSince.given && !now.Modified.IsZero() && !seconds(now.Modified).After(c.modifiedSince.Time):
		return NotModified
	}
	return Proceed
}

// RangeHolds reports whether If-Range lets a range be answered (RFC 9110, 13.1.5,
// step 5 of 13.2.2): it is not there, or is the strong tag or the very date of what is there.
func (c Conditions) RangeHolds(now Validators) bool {
	if c.ifRange == "" {
		return true
	}
	if tags, err := parseTags("If-Range", c.ifRange); err == nil && !tags.Any && len(tags.List) == 1 {
		return tags.match(now, true)
	}
	at, err := http.ParseTime(c.ifRange)
	// A date is a weak validator unless it is a minute old when it is compared (8.8.2.2): a file that was replaced twice in a second has one date.
	return err == nil && !now.Modified.IsZero() && seconds(now.Modified).Equal(at) && time.Since(at) > time.Minute
}

// match compares strongly or weakly (RFC 9110, 8.8.3.2).
func (t Tags) match(now Validators, strong bool) bool {
	if t.Any {
		return now.Exists
	}
	for _, tag := range t.List {
		if now.Exists && now.Is != nil && !(strong && tag.Weak) && now.Is(tag.Opaque, strong) {
			return true
		}
	}
	return false
}

func readDate(h http.Header, name string) date {
	at, err := http.ParseTime(h.Get(name))
	return date{at, err == nil}
}

// seconds is a time as HTTP tells it.
func seconds(t time.Time) time.Time { return t.Truncate(time.Second) }

func readTags(h http.Header, name string) (Tags, error) {
	lines := h.Values(name)
	if len(lines) == 0 {
		return Tags{}, nil
	}
	return parseTags(name, strings.Join(lines, ","))
}

// parseTags reads * or a list of entity tags (RFC 9110, 5.6.1 and 8.8.3). Between
// the quotes a comma is a comma and a backslash a backslash.
func parseTags(name, v string) (Tags, error) {
	wrong := func() (Tags, error) {
		return Tags{}, fault.InvalidField("header."+name, `want * or "TAG", "TAG": the ETags of answers`)
	}
	out := Tags{Given: true}
	if len(v) > maxTagsBytes {
		return Tags{}, fault.InvalidField("header."+name, "at most %d bytes", maxTagsBytes)
	}
	if strings.Trim(v, " \t") == "*" {
		out.Any = true
		return out, nil
	}
	for rest := strings.TrimLeft(v, " \t,"); rest != ""; rest = strings.TrimLeft(rest, " \t,") {
		var t Tag
		var opened bool
		rest, t.Weak = strings.CutPrefix(rest, "W/")
		rest, opened = strings.CutPrefix(rest, `"`)
		end := strings.IndexByte(rest, '"')
		if !opened || end < 0 || strings.ContainsFunc(rest[:end], func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return wrong()
		}
		t.Opaque, rest = rest[:end], strings.TrimLeft(rest[end+1:], " \t")
		if rest != "" && rest[0] != ',' {
			return wrong()
		}
		if out.List = append(out.List, t); len(out.List) > maxTags {
			return Tags{}, fault.InvalidField("header."+name, "at most %d entity tags", maxTags)
		}
	}
	if len(out.List) == 0 {
		return wrong()
	}
	return out, nil
}
