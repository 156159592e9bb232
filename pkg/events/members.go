package events

import "bytes"

// Members hands the members of a JSON object to take, in order, while it reads
// them: names and values as they stand. It reports false for what it does not
// understand, which encoding/json is to read then: odd names, white space. It finds
// where values end; whether they are JSON is not asked.
func Members(object []byte, take func(name, value []byte) bool) bool {
	if len(object) < 2 || object[0] != '{' || object[len(object)-1] != '}' {
		return false
	}
	rest := object[1 : len(object)-1]
	for len(rest) > 0 {
		if rest[0] != '"' {
			return false
		}
		end := bytes.IndexByte(rest[1:], '"') + 1
		if end < 1 || end+1 >= len(rest) || rest[end+1] != ':' {
			return false
		}
		for _, c := range rest[1:end] { // encoding/json takes capitals for the same
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
				return false
			}
		}
		n := valueEnd(rest[end+2:])
		if n < 1 || !take(rest[1:end], rest[end+2:end+2+n]) {
			return false
		}
		if rest = rest[end+2+n:]; len(rest) == 0 {
			return true
		}
		if rest[0] != ',' || len(rest) == 1 {
			return false
		}
		rest = rest[1:]
	}
	return true
}

// valueEnd gives the length of the JSON value that b begins with, 0 for none.
func valueEnd(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			for {
				n := bytes.IndexByte(b[i+1:], '"')
				if n < 0 {
					return 0
				}
				i += n + 1
				escapes := 0
				for b[i-1-escapes] == '\\' {
					escapes++
				}
				if escapes%2 == 0 {
					break
				}
			}
		case '{', '[':
			depth++
			continue
		case '}', ']':
			depth--
		case ',':
			if depth == 0 {
				return i
			}
			continue
		default:
			continue
		}
		if depth == 0 { // a string, or what has just been closed
			return i + 1
		}
		if depth < 0 {
			return i
		}
	}
	if depth != 0 {
		return 0
	}
	return len(b)
}

// text gives a JSON string that holds nothing to decode.
func text(value []byte, into *string) bool {
	if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
		return false
	}
	s := value[1 : len(value)-1]
	if !literal(s) {
		return false
	}
	*into = shared(s)
	return true
}
