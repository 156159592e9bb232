package events

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// Limits of one message of the ledger.
const (
	// MaxBatch is how many events a message holds at most.
	MaxBatch = 256
	// MaxBody is the size of the largest message's body, in bytes: one event of
	// MaxEvent and the brackets around it.
	MaxBody = MaxEvent + 2
)

// BatchContentType is the value of a message's Content-Type (CloudEvents JSON
// format 1.0.2, section 4: JSON batch format).
const BatchContentType = "application/cloudevents-batch+json"

// The headers of a message.
const (
	// HeaderLengths holds the lengths of the events in the body, in bytes,
	// separated by commas: so a reader splits it without looking into it.
	HeaderLengths = "Writ-Lengths"
	// HeaderAnswers stands on outcomes: the address of the last command of the
	// shard that they, and the outcomes before them, answer.
	HeaderAnswers = "Writ-Answers"
)

// Address is where an event stands on the ledger: the sequence of its message
// times 256, plus its index there. Addresses ascend in ledger order.
type Address = uint64

const addressBits = 8 // MaxBatch is 1<<addressBits

// At makes an address.
func At(sequence uint64, index int) Address { return sequence<<addressBits | uint64(index) }

// SequenceOf is the sequence of the message that holds the event at an address.
func SequenceOf(a Address) uint64 { return a >> addressBits }

// IndexOf is the event's index in its message, from 0.
func IndexOf(a Address) int { return int(a & (MaxBatch - 1)) }

// End is the last address that belongs to a message, whether an event stands
// there or not.
func End(sequence uint64) Address { return At(sequence, MaxBatch-1) }

// Join makes a message's body of events, and the value of HeaderLengths.
func Join(all []Message) (body []byte, lengths string) {
	size := 2
	for i := range all {
		size += all[i].size() + 1
	}
	body = make([]byte, 0, size)
	sizes := make([]byte, 0, 8*len(all))
	for i := range all {
		start := len(body) + 1
		if i == 0 {
			body = append(body, '[')
		} else {
			body, sizes = append(body, ','), append(sizes, ',')
		}
		body = all[i].appendTo(body)
		sizes = strconv.AppendInt(sizes, int64(len(body)-start), 10)
	}
	return append(body, ']'), string(sizes)
}

// Split gives the events of a message, which alias body. An error is
// ErrMalformed: then nothing of the message can be told apart.
func Split(body []byte, lengths string) ([][]byte, error) {
	if len(body) > MaxBody {
		return nil, fmt.Errorf("%w: a message of %d bytes, at most %d", ErrMalformed, len(body), MaxBody)
	}
	n := strings.Count(lengths, ",") + 1
	if n > MaxBatch {
		return nil, fmt.Errorf("%w: a message of %d events, at most %d", ErrMalformed, n, MaxBatch)
	}
	out := make([][]byte, 0, n)
	at := 0
	for field := range strings.SplitSeq(lengths, ",") {
		length, err := strconv.ParseUint(field, 10, 24) // MaxBody is less
		before, end := byte('['), at+1+int(length)
		if at > 0 {
			before = ','
		}
		if err != nil || length == 0 || end >= len(body) || body[at] != before {
			return nil, fmt.Errorf("%w: %s %q does not fit a body of %d bytes", ErrMalformed, HeaderLengths, brief(lengths), len(body))
		}
		out = append(out, body[at+1:end:end]) // an append must not write into the next one
		at = end
	}
	if at != len(body)-1 || body[at] != ']' {
		return nil, fmt.Errorf("%w: %s %q does not fit a body of %d bytes", ErrMalformed, HeaderLengths, brief(lengths), len(body))
	}
	return out, nil
}

// brief bounds what an error quotes.
func brief(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}

// Count is how many events a message with this HeaderLengths holds; one that
// cannot be split counts as one.
func Count(lengths string) int {
	if n := strings.Count(lengths, ",") + 1; n <= MaxBatch {
		return n
	}
	return 1
}

const (
	opening     = `{"specversion":"1.0",`
	beforeTrace = `"traceparent":"`
)

// size is how many bytes the event takes in a body at most.
func (m *Message) size() int {
	if m.Trace == "" {
		return len(m.Data)
	}
	return len(m.Data) + len(beforeTrace) + len(m.Trace) + 2
}

// appendTo writes the event with its trace (CloudEvents' Distributed Tracing
// extension). The trace is not part of what is sealed, and is left out where the
// event would be too large with it.
func (m *Message) appendTo(b []byte) []byte {
	rest, ok := bytes.CutPrefix(m.Data, []byte(opening))
	if m.Trace == "" || !ok || !plain(m.Trace) || m.size() > MaxEvent {
		return append(b, m.Data...)
	}
	b = append(b, opening...)
	b = append(b, beforeTrace...)
	b = append(b, m.Trace...)
	b = append(b, `",`...)
	return append(b, rest...)
}

// IDOf gives the id of an event in the form in which writ writes it, without
// reading the rest; "" for any other.
func IDOf(data []byte) string {
	r := scanner{data, true}
	r.literal(opening)
	r.trace()
	r.literal(`"id":"`)
	id := r.text()
	if !r.ok {
		return ""
	}
	return string(id)
}

// TraceOf gives the traceparent of an event in the form in which writ writes it.
func TraceOf(data []byte) string {
	r := scanner{data, true}
	r.literal(opening)
	return string(r.trace())
}
