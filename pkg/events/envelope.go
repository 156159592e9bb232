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
func parseOwn(e *Event, data []byte) bool { return parseWith(e, data, (*scanner).object) }

// parseWith is parseOwn; last takes the last part, up to the seal.
func parseWith(e *Event, data []byte, last func(*scanner) []byte) bool {
	r := scanner{data, true}
	r.literal(opening)
	e.Trace = string(r.trace())
	r.literal(`"id":"`)
	e.ID = string(r.text())
	r.literal(`,"source":"`)
	r.text()
	r.literal(`,"type":"`)
	e.Type = shared(r.text())
	r.literal(`,"subject":"`)
	r.text()
	r.literal(`,"time":"`)
	at := r.text()
	r.literal(`,"datacontenttype":"application/json","data":{`)
	switch e.Type {
	case TypeWrit:
		r.literal(`"decision":`)
		e.RawDecision = r.object()
		r.literal(`,"command":`)
		e.RawCommand = last(&r)
	case TypeDecision:
		r.literal(`"decision":`)
		e.RawDecision = last(&r)
	case TypeOutcome:
		r.literal(`"outcome":`)
		e.RawOutcome = last(&r)
	case TypeCheckpoint:
		r.literal(`"checkpoint":`)
		e.RawCheckpoint = last(&r)
	default:
		return false
	}
	r.literal(beforeSeal)
	e.Seal.KeyID = string(r.text())
	r.literal(`,"mac":"`)
	e.Seal.MAC = string(r.text())
	r.literal(`}}}`)
	return r.ok && len(r.rest) == 0 && e.ID != "" && e.Time.UnmarshalText(at) == nil
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

// trace takes the traceparent, if there is one.
func (r *scanner) trace() []byte {
	if !r.ok || len(r.rest) < len(beforeTrace) || string(r.rest[:len(beforeTrace)]) != beforeTrace {
		return nil
	}
	r.rest = r.rest[len(beforeTrace):]
	t := r.text()
	r.literal(",")
	return t
}

// text takes a string of printable ASCII without escapes and its closing quote.
func (r *scanner) text() []byte {
	end := bytes.IndexByte(r.rest, '"')
	if r.ok = r.ok && end >= 0 && literal(r.rest[:end]); !r.ok {
		return nil
	}
	s := r.rest[:end]
	r.rest = r.rest[end+1:]
	return s
}

// literal tells whether the inside of a JSON string holds nothing to decode.
func literal(s []byte) bool {
	for _, c := range s {
		if c < ' ' || c > '~' || c == '\\' {
			return false
		}
	}
	return true
}

// object takes a JSON object, up to the brace that closes it.
func (r *scanner) object() []byte {
	n := 0
	if r.ok && len(r.rest) > 0 && r.rest[0] == '{' {
		n = valueEnd(r.rest)
	}
	if r.ok = n > 0; !r.ok {
		return nil
	}
	out := r.rest[:n:n] // an append must not write into the message
	r.rest = r.rest[n:]
	return out
}

const beforeSeal = `,"seal":{"kid":"`

// untilSeal takes everything up to the seal, whatever it is.
func (r *scanner) untilSeal() []byte {
	n := -1
	if r.ok {
		n = bytes.LastIndex(r.rest, []byte(beforeSeal))
	}
	if r.ok = n > 0; !r.ok {
		return nil
	}
	out := r.rest[:n:n] // an append must not write into the message
	r.rest = r.rest[n:]
	return out
}

// shared is string(s), and for words that stand in most messages takes no memory.
func shared(s []byte) string {
	switch string(s) {
	case TypeDecision:
		return TypeDecision
	case TypeWrit:
		return TypeWrit
	case TypeOutcome:
		return TypeOutcome
	case string(Allow):
		return string(Allow)
	case string(Deny):
		return string(Deny)
	case string(StageRequest):
		return string(StageRequest)
	case string(StageApply):
		return string(StageApply)
	case string(StatusApplied):
		return string(StatusApplied)
	}
	return string(s)
}
