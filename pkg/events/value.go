package events

import (
	"bytes"
	"strconv"
)

// maxValueDepth bounds how deep attributes nest that are read without
// encoding/json, which has its own bound.
const maxValueDepth = 32

// values reads JSON values as encoding/json reads them into an any: attributes,
// whose names nobody knows before. bad begins with the first surprise: white
// space, an escape, what is not ASCII, a name that stands twice, no JSON at all.
type values struct {
	rest []byte
	bad  bool
}

// attributes reads a JSON object.
func attributes(v []byte, into *map[string]any) bool {
	r := values{rest: v}
	m, ok := r.value(0).(map[string]any)
	*into = m
	return ok && r.end()
}

// texts reads a JSON array of strings.
func texts(v []byte, into *[]string) bool {
	r := values{rest: v}
	if r.byte() != '[' {
		return false
	}
	*into = []string{}
	for r.more(']', len(*into)) {
		*into = append(*into, r.text())
	}
	return r.end()
}

// end reports whether all was read, and understood.
func (r *values) end() bool { return !r.bad && len(r.rest) == 0 }

// byte takes a byte; 0 where there is none.
func (r *values) byte() byte {
	if len(r.rest) == 0 {
		r.bad = true
		return 0
	}
	c := r.rest[0]
	r.rest = r.rest[1:]
	return c
}

// more goes to the next element of a list that closes with end and of which n
// have been read.
func (r *values) more(end byte, n int) bool {
	switch {
	case r.bad || len(r.rest) == 0:
		r.bad = true
	case r.rest[0] == end:
		r.rest = r.rest[1:]
	case n == 0:
		return true
	case r.byte() == ',':
		return true
	default:
		r.bad = true
	}
	return false
}

func (r *values) text() (s string) {
	end := 1 + bytes.IndexByte(r.rest[min(1, len(r.rest)):], '"')
	if end < 1 || !text(r.rest[:end+1], &s) {
		r.bad = true
		return ""
	}
	r.rest = r.rest[end+1:]
	return s
}

func (r *values) value(depth int) any {
	if r.bad || len(r.rest) == 0 || depth > maxValueDepth {
		r.bad = true
		return nil
	}
	switch r.rest[0] {
	case '"':
		return r.text()
	case '{':
		r.byte()
		out := map[string]any{}
		for r.more('}', len(out)) {
			name := r.text()
			if _, twice := out[name]; twice || r.byte() != ':' {
				r.bad = true
				return nil
			}
			out[name] = r.value(depth + 1)
		}
		return out
	case '[':
		r.byte()
		out := []any{}
		for r.more(']', len(out)) {
			out = append(out, r.value(depth+1))
		}
		return out
	}
	n := bytes.IndexAny(r.rest, ",]}")
	if n < 0 {
		n = len(r.rest)
	}
	word := r.rest[:n]
	r.rest = r.rest[n:]
	switch string(word) {
	case "true":
		return true
	case "false":
		return false
	case "null":
		return nil
	}
	f, err := strconv.ParseFloat(string(word), 64)
	r.bad = r.bad || err != nil || !number(word)
	return f
}

// number reports whether b is a number as JSON writes it.
func number(b []byte) bool {
	digits := func() bool {
		n := 0
		for n < len(b) && '0' <= b[n] && b[n] <= '9' {
			n++
		}
		b = b[n:]
		return n > 0
	}
	b = bytes.TrimPrefix(b, []byte("-"))
	if len(b) > 1 && b[0] == '0' && '0' <= b[1] && b[1] <= '9' || !digits() {
		return false
	}
	if len(b) > 0 && b[0] == '.' {
		if b = b[1:]; !digits() {
			return false
		}
	}
	if len(b) > 0 && (b[0] == 'e' || b[0] == 'E') {
		b = b[1:]
		if len(b) > 0 && (b[0] == '+' || b[0] == '-') {
			b = b[1:]
		}
		if !digits() {
			return false
		}
	}
	return len(b) == 0
}
