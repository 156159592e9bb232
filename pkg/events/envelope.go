package events

import (
	"bytes"
)

// parseOwn reads into e, which is zero, the envelope of a message that is, byte for byte,
// in the form that encode writes, and leaves everything else to parseAny. encoding/json
// would go through the parts twice, once to find their ends and once to read
// them, and copy them in between.
//
// It looks for the parts' ends only: whether they are JSON is for whoever reads
// them, so it takes no message with a part that Parse does not read.
func parseOwn(e *Event, data []byte) bool {
	at := ""
	r := scanner{data, true}
	r.literal(`{"specversion":"1.0","id":"`)
	e.ID = r.text()
	r.literal(`,"source":"`)
	r.text()
	r.literal(`,"type":"`)
	e.Type = r.text()
	r.literal(`,"subject":"`)
	r.text()
	r.literal(`,"time":"`)
	at = r.text()
	r.literal(`,"datacontenttype":"application/json","data":{`)
	switch e.Type {
	case TypeWrit:
		r.literal(`"decision":`)
		e.RawDecision = r.object()
		r.literal(`,"command":`)
		e.RawCommand = r.object()
	case TypeDecision:
		r.literal(`"decision":`)
		e.RawDecision = r.object()
	case TypeOutcome:
		r.literal(`"outcome":`)
		e.RawOutcome = r.object()
	case TypeCheckpoint:
		r.literal(`"checkpoint":`)
		e.RawCheckpoint = r.object()
	default:
		return false
	}
	r.literal(`,"seal":{"kid":"`)
	e.Seal.KeyID = r.text()
	r.literal(`,"mac":"`)
	e.Seal.MAC = r.text()
	r.literal(`}}}`)
	return r.ok && len(r.rest) == 0 && e.ID != "" && e.Time.UnmarshalText([]byte(at)) == nil
}

// scanner takes what it knows from the front of rest; ok ends with the first
// surprise.
type scanner struct {
	rest []byte
	ok   bool
}

func (r *scanner) literal(want string) {
	if r.ok = r.ok && len(r.rest) >= len(want) && string(r.rest[:len(want)]) == want; r.ok {
		r.rest = r.rest[len(want):]
	}
}

// text takes a string of printable ASCII without escapes and its closing quote.
func (r *scanner) text() string {
	end := bytes.IndexByte(r.rest, '"')
	if r.ok = r.ok && end >= 0; !r.ok {
		return ""
	}
	s := r.rest[:end]
	for _, c := range s {
		if c < ' ' || c > '~' || c == '\\' {
			r.ok = false
			return ""
		}
	}
	r.rest = r.rest[end+1:]
	return string(s)
}

// object takes a JSON object, up to the brace that closes it.
func (r *scanner) object() []byte {
	if r.ok = r.ok && len(r.rest) > 0 && r.rest[0] == '{'; !r.ok {
		return nil
	}
	depth := 0
	for i := 0; i < len(r.rest); i++ {
		switch r.rest[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				out := r.rest[: i+1 : i+1] // an append must not write into the message
				r.rest = r.rest[i+1:]
				return out
			}
		case '"':
			for i++; i < len(r.rest) && r.rest[i] != '"'; i++ {
				if r.rest[i] == '\\' {
					i++
				}
			}
		}
	}
	r.ok = false
	return nil
}
