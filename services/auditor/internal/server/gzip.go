package server

import (
	"bytes"
	"compress/gzip"
	"errors"
	"strconv"
	"strings"
)

// acceptsGzip reports whether an Accept-Encoding takes gzip (RFC 9110, 12.5.3): named, or by *, and not with the weight 0.
func acceptsGzip(lines []string) bool {
	accepted, named := false, false
	for coding := range strings.SplitSeq(strings.Join(lines, ","), ",") {
		name, weight, weighed := strings.Cut(coding, ";")
		name = strings.ToLower(strings.TrimSpace(name))
		own := name == "gzip" || name == "x-gzip"
		if !own && (name != "*" || named) {
			continue
		}
		named = named || own
		accepted = true
		if text, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(weight)), "q="); weighed && ok {
			q, err := strconv.ParseFloat(text, 64)
			accepted = err == nil && q > 0
		}
	}
	return accepted
}

func zipped(b []byte) ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	_, err = z.Write(b)
	err = errors.Join(err, z.Close()) // which writes the rest
	return out.Bytes(), err
}
