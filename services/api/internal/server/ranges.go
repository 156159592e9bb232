package server

import (
	"encoding/base64"
	"encoding/hex"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/problem"
	"github.com/writ-project/writ/pkg/request"
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

// byteRanges reads the Range of a GET for a file of size bytes (RFC 9110, 14.1 and
// 14.2): the ranges that it has, as a header; "" where all of the file is to be
// sent, because the unit is another or the header none. The error is the 416.
func byteRanges(v string, size int64) (string, error) {
	unit, list, ok := strings.Cut(v, "=")
	if !ok || !strings.EqualFold(strings.TrimSpace(unit), "bytes") || size == 0 {
		return "", nil
	}
	var has []string
	specs := request.List(list)
	if len(specs) > maxRanges {
		return "", unsatisfiable("too-many-ranges", "At most 16 ranges in one request", size)
	}
	for _, spec := range specs {
		a, b, ok := strings.Cut(spec, "-")
		first, last, fine := span(a, b, size)
		if !ok || !fine {
			return "", nil
		}
		if first < size && first <= last {
			has = append(has, strconv.FormatInt(first, 10)+"-"+strconv.FormatInt(last, 10))
		}
	}
	if len(specs) == 0 {
		return "", nil
	}
	if len(has) == 0 {
		return "", unsatisfiable("range", "The file has none of these bytes", size)
	}
	return "bytes=" + strings.Join(has, ","), nil
}

// span reads FIRST-LAST, FIRST- and -LENGTH, both ends inclusive; not ok if it is
// none of them. A span that the file has nothing of begins behind its end.
func span(a, b string, size int64) (first, last int64, ok bool) {
	number := func(s string) (int64, bool) {
		if n, ok := digits(s); ok {
			return n, true
		}
		return size, s != "" && strings.Trim(s, "0123456789") == "" // of more digits than any file
	}
	if a == "" {
		n, ok := number(b)
		return size - min(n, size), size - 1, ok
	}
	first, ok = number(a)
	if !ok || b == "" {
		return first, size - 1, ok
	}
	last, ok = number(b)
	return first, min(last, size-1), ok && (first <= last || len(a) > 18)
}

func unsatisfiable(code, detail string, size int64) error {
	p := problem.New(http.StatusRequestedRangeNotSatisfiable, code, detail)
	return p.With("Content-Range", "bytes */"+strconv.FormatInt(size, 10)) // RFC 9110, 15.5.17
}

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
