package server

import (
	"encoding/base64"
	"encoding/hex"
	"mime"
	"strconv"
	"strings"

	"github.com/writ-project/writ/pkg/fault"
)

// contentRange is what a Content-Range of a PUT says (RFC 9110, 14.4 and 14.5).
type contentRange struct {
	first, last int64 // both inclusive
	total       int64
	// asks is "bytes */total": nothing is sent, how far has it got?
	asks bool
}

// length is how many bytes the request holds.
func (c contentRange) length() int64 {
	if c.asks {
		return 0
	}
	return c.last - c.first + 1
}

// parseContentRange reads "bytes first-last/total" and "bytes */total". The
// total must be known: it is what the store is asked to keep.
func parseContentRange(v string) (contentRange, error) {
	wrong := func() (contentRange, error) {
		return contentRange{}, fault.InvalidField("header.Content-Range", "want bytes FIRST-LAST/TOTAL, or bytes */TOTAL to ask how far it has got")
	}
	unit, rest, ok := strings.Cut(v, " ")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return wrong()
	}
	span, all, ok := strings.Cut(rest, "/")
	if !ok {
		return wrong()
	}
	c := contentRange{asks: span == "*"}
	if c.total, ok = digits(all); !ok {
		return wrong()
	}
	if c.asks {
		return c, nil
	}
	first, last, ok := strings.Cut(span, "-")
	if !ok {
		return wrong()
	}
	var okFirst, okLast bool
	c.first, okFirst = digits(first)
	c.last, okLast = digits(last)
	if !okFirst || !okLast || c.first > c.last || c.last >= c.total {
		return wrong()
	}
	return c, nil
}

// digits reads a number of digits alone, as HTTP writes lengths.
func digits(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// maxRanges is how many ranges one GET may ask for (RFC 9110, 14.2 lets a server
// refuse egregious ones).
const maxRanges = 16

// tooManyRanges reports whether a Range header asks for more than maxRanges.
func tooManyRanges(v string) bool { return strings.Count(v, ",") >= maxRanges }

// sha256Digest reads the sha-256 of a Repr-Digest or Content-Digest (RFC 9530, a
// dictionary of byte sequences) as hex, "" if it has none: other algorithms are
// ignored, as the RFC says.
func sha256Digest(header, v string) (string, error) {
	if len(v) > 1024 {
		return "", fault.InvalidField("header."+header, "at most 1024 bytes")
	}
	found := ""
	for member := range strings.SplitSeq(v, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(member), "=")
		if strings.TrimSpace(name) != "sha-256" {
			continue
		}
		value = strings.TrimSpace(value)
		if len(value) < 2 || value[0] != ':' || value[len(value)-1] != ':' {
			return "", fault.InvalidField("header."+header, "want sha-256=:BASE64:")
		}
		sum, err := base64.StdEncoding.DecodeString(value[1 : len(value)-1])
		if err != nil || len(sum) != 32 {
			return "", fault.InvalidField("header."+header, "a SHA-256 has 32 bytes, in base64")
		}
		found = hex.EncodeToString(sum) // of two members of one name the last counts (RFC 8941, 3.2)
	}
	return found, nil
}

// reprDigest writes a hex SHA-256 as Repr-Digest.
func reprDigest(sum string) string {
	b, _ := hex.DecodeString(sum) // ours: it was hex when it was stored
	return "sha-256=:" + base64.StdEncoding.EncodeToString(b) + ":"
}

// mediaType reads a Content-Type; one that is not given says nothing.
func mediaType(v string) (string, error) {
	if v == "" {
		return "application/octet-stream", nil
	}
	if len(v) > 255 {
		return "", fault.InvalidField("header.Content-Type", "at most 255 bytes")
	}
	t, _, err := mime.ParseMediaType(v)
	if err != nil || !strings.Contains(t, "/") {
		return "", fault.InvalidField("header.Content-Type", "want a media type, such as video/mp4")
	}
	return t, nil
}

// served is the type that content is served as: one that a browser would run
// or show as a page is not.
func served(t string) string {
	if strings.HasPrefix(t, "video/") || strings.HasPrefix(t, "audio/") {
		return t
	}
	return "application/octet-stream"
}
