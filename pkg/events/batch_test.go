package events_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/events"
)

const traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// TestJoinedEventsAreACloudEventsBatch checks section 4 of the CloudEvents JSON
// format 1.0.2: a JSON array of events.
func TestJoinedEventsAreACloudEventsBatch(t *testing.T) {
	all := []events.Message{examples(t)["writ"], examples(t)["decision"], examples(t)["outcome"]}
	body, _ := events.Join(all)
	var list []json.RawMessage
	if err := json.Unmarshal(body, &list); err != nil || len(list) != len(all) {
		t.Fatalf("%d events (%v), want %d\n%s", len(list), err, len(all), body)
	}
	for i, m := range all {
		if !bytes.Equal(list[i], m.Data) {
			t.Errorf("event %d is %s, want its exact bytes %s", i, list[i], m.Data)
		}
	}
}

func TestWhatWasJoinedIsSplitIntoTheSameBytes(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		all := make([]events.Message, 1+random.IntN(events.MaxBatch))
		for i := range all {
			all[i].Data = []byte(`{"x":"` + strings.Repeat("],[{", random.IntN(300)) + `"}`)
		}
		body, lengths := events.Join(all)
		parts, err := events.Split(body, lengths)
		if err != nil || len(parts) != len(all) || events.Count(lengths) != len(all) {
			t.Fatalf("%d events (%v), Count %d; want %d", len(parts), err, events.Count(lengths), len(all))
		}
		for i, p := range parts {
			if !bytes.Equal(p, all[i].Data) {
				t.Fatalf("event %d of %d is %s, want %s", i, len(all), p, all[i].Data)
			}
			if cap(p) != len(p) {
				t.Fatalf("an append to event %d would write into the next one", i)
			}
		}
	}
}

func TestTheTraceIsReadAndNotSealed(t *testing.T) {
	k := ring(t, key1)
	for name, m := range examples(t) {
		m.Trace = traceparent
		body, lengths := events.Join([]events.Message{m, m})
		parts, err := events.Split(body, lengths)
		if err != nil {
			t.Fatal(err)
		}
		for _, data := range parts {
			e := parse(t, data)
			if e.Trace != traceparent || events.TraceOf(data) != traceparent {
				t.Errorf("%s: trace %q and %q, want %q", name, e.Trace, events.TraceOf(data), traceparent)
			}
			if events.IDOf(data) != m.ID || events.IDOf(m.Data) != m.ID {
				t.Errorf("%s: id %q with the trace, %q without, want %q", name, events.IDOf(data), events.IDOf(m.Data), m.ID)
			}
			if err := e.Verify(k, subjectOf(m)); err != nil {
				t.Errorf("%s: the trace broke the seal: %v", name, err)
			}
			other := bytes.Replace(data, []byte("4bf9"), []byte("0000"), 1)
			if err := parse(t, other).Verify(k, subjectOf(m)); err != nil {
				t.Errorf("%s: the trace is sealed: %v", name, err)
			}
		}
	}
	for _, data := range []string{"", "{}", `{"specversion":"1.0",`, `{"specversion":"1.0","traceparent":"x`, `{"specversion":"1.0","id":"\u0061"}`} {
		if id, trace := events.IDOf([]byte(data)), events.TraceOf([]byte(data)); id != "" || trace != "" {
			t.Errorf("%s: id %q, trace %q, want none", data, id, trace)
		}
	}
}

// TestATraceThatDoesNotFitIsLeftOut: the event is what must arrive.
func TestATraceThatDoesNotFitIsLeftOut(t *testing.T) {
	large := events.Message{Data: fmt.Appendf(nil, `{"specversion":"1.0","id":%q}`, strings.Repeat("x", events.MaxEvent-29)), Trace: traceparent}
	if len(large.Data) != events.MaxEvent {
		t.Fatalf("%d bytes, want the largest event", len(large.Data))
	}
	odd := events.Message{Data: []byte(`{"specversion":"1.0","id":"a"}`), Trace: `x","id":"forged`}
	foreign := events.Message{Data: []byte(`{"id":"a","specversion":"1.0"}`), Trace: traceparent}
	for name, m := range map[string]events.Message{"largest event": large, "odd trace": odd, "another form": foreign} {
		body, lengths := events.Join([]events.Message{m})
		parts, err := events.Split(body, lengths)
		if err != nil || len(parts) != 1 || !bytes.Equal(parts[0], m.Data) {
			t.Errorf("%s: %d events (%v), want the event as it was", name, len(parts), err)
		}
	}
}

func TestLengthsThatDoNotFitAreRefused(t *testing.T) {
	const body = `[{"a":1},{"b":2}]`
	if parts, err := events.Split([]byte(body), "7,7"); err != nil || len(parts) != 2 {
		t.Fatalf("%d parts, %v", len(parts), err)
	}
	for _, lengths := range []string{
		"", ",", "7", "7,", ",7", "7,7,", "7,7,0", "7,8", "8,7", "7,6", "6,7", "15,", "7,7,7", "-7,7", "+7,7", " 7,7", "7, 7", "7;7", "0,7,7", "7,0",
		"7,18446744073709551615", "18446744073709551616,7", "4294967295,7", "2147483647", "16777215", "1e1,7", "0x7,7",
		strings.Repeat("1,", events.MaxBatch) + "1", strings.Repeat("9", 1<<16),
	} {
		if parts, err := events.Split([]byte(body), lengths); !errors.Is(err, events.ErrMalformed) || parts != nil || len(err.Error()) > 300 {
			t.Errorf("lengths %.40q: %d parts (%.300v), want a short %v", lengths, len(parts), err, events.ErrMalformed)
		}
	}
	for _, body := range []string{"", "[", "]", "[]", `{"a":1},{"b":2}`, `({"a":1},{"b":2}]`, `[{"a":1},{"b":2})`, `[{"a":1};{"b":2}]`, `[{"a":1},{"b":2}] `} {
		if parts, err := events.Split([]byte(body), "7,7"); !errors.Is(err, events.ErrMalformed) {
			t.Errorf("body %s: %d parts (%v), want %v", body, len(parts), err, events.ErrMalformed)
		}
	}
	if _, err := events.Split(make([]byte, events.MaxBody+1), fmt.Sprint(events.MaxBody-1)); !errors.Is(err, events.ErrMalformed) {
		t.Errorf("a body larger than MaxBody: %v", err)
	}
	if n := events.Count(strings.Repeat(",", 1<<16)); n != 1 {
		t.Errorf("a message that cannot be split counts as %d events, want 1", n)
	}
}

func TestAddressesAscendInLedgerOrder(t *testing.T) {
	previous := events.Address(0)
	for _, sequence := range []uint64{1, 2, 1 << 40} {
		for _, index := range []int{0, 1, events.MaxBatch - 1} {
			a := events.At(sequence, index)
			if a <= previous || events.SequenceOf(a) != sequence || events.IndexOf(a) != index || a > events.End(sequence) {
				t.Errorf("(%d, %d) is %d, after %d: it names (%d, %d)", sequence, index, a, previous, events.SequenceOf(a), events.IndexOf(a))
			}
			previous = a
		}
		if events.End(sequence)+1 != events.At(sequence+1, 0) {
			t.Errorf("after the end of %d stands %d, want the beginning of the next message", sequence, events.End(sequence)+1)
		}
	}
}

// FuzzSplit: whatever stands in a message, it is split into what is in it, or refused.
func FuzzSplit(f *testing.F) {
	for _, m := range examples(f) {
		m.Trace = traceparent
		body, lengths := events.Join([]events.Message{m, {Data: []byte("{}")}})
		f.Add(body, lengths)
	}
	f.Add([]byte("[{},{}]"), "2,2")
	f.Add([]byte("[{},{}]"), "2,4294967298")
	f.Add([]byte("[]"), "0")
	f.Add([]byte(""), "")
	f.Fuzz(func(t *testing.T, body []byte, lengths string) {
		before := bytes.Clone(body)
		parts, err := events.Split(body, lengths)
		if err != nil {
			if !errors.Is(err, events.ErrMalformed) || parts != nil {
				t.Fatalf("%d parts beside %v", len(parts), err)
			}
			return
		}
		if len(parts) == 0 || len(parts) != events.Count(lengths) {
			t.Fatalf("%d parts, Count says %d", len(parts), events.Count(lengths))
		}
		rebuilt := append(append([]byte("["), bytes.Join(parts, []byte(","))...), ']')
		if !bytes.Equal(rebuilt, before) {
			t.Fatalf("%q was split into %q", before, parts)
		}
		for _, p := range parts {
			_ = append(p, 'x')
			_, _ = events.IDOf(p), events.TraceOf(p)
		}
		if !bytes.Equal(body, before) {
			t.Fatal("an append to a part wrote into the message")
		}
	})
}
