package events_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/writ-project/writ/pkg/events"
)

// decisions are bytes that are a decision's, or nearly.
func decisions(t testing.TB) []string {
	t.Helper()
	out := []string{
		``, `null`, `{}`, `{"id":"a"}x`, ` {"id":"a"}`, `{"id":"a","id":"b"}`, `{"ID":"a"}`, `{"id":null}`, `{"id":"a","new":1}`,
		`{"id":"a","id":"é"}`, `{"took_us":01}`, `{"took_us":-0}`, `{"took_us":1.0}`, `{"took_us":+1}`, `{"took_us":--1}`,
		`{"principal":{"id":"a","roles":[]}}`, `{"principal":{"id":"a","roles":["a","b"],"attr":{}}}`, `{"principal":{"roles":["a",]}}`, `{"principal":{"roles":[,"a"]}}`,
		`{"principal":{"attr":{"a":1}},"principal":{"attr":{"b":1}}}`, `{"principal":{"attr":{"a":1,"a":{"b":2}}}}`,
		`{"resource":{"kind":"k","attr":{"a":[1,-0.5e+3,true,false,null,"x",{"A b":[[]]}],"\u0061":2}}}`, `{"resource":{"attr":{"a":1e999}}}`,
		`{"resource":{"attr":{"a":01}}}`, `{"resource":{"attr":{"a":0x1}}}`, `{"resource":{"attr":{"a":.5}}}`, `{"resource":{"attr":{"a":5.}}}`,
		`{"resource":{"attr":{"a":Inf}}}`, `{"resource":{"attr":{"a":1_0}}}`, `{"resource":{"attr":{"a":}}}`, `{"resource":{"attr":{"a":[1}]}}`, `{"resource":{"attr":[]}}`, `{"resource":{"attr":{"a"}}}`,
		`{"evaluated_at":"2026-11-21T10:00:00Z"}`, `{"evaluated_at":null}`, `{"evaluated_at":"yesterday"}`, `{"plan":{"kind":"x"}}`, `{"plan":{kind}}`, `{"plan":null}`,
		`{"command":{"id":"c","sha256":"00","expires":"2026-11-21T10:00:00Z"}}`, `{"command":null}`, `{"command":{"id":"a"},"command":{"sha256":"b"}}`,
	}
	for _, m := range examples(t) {
		e, err := events.Parse(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		if e.RawDecision != nil {
			out = append(out, string(e.RawDecision))
		}
	}
	return out
}

// A decision is read as encoding/json reads it, whatever was written.
func FuzzReadDecision(f *testing.F) {
	for _, d := range decisions(f) {
		f.Add([]byte(d))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var want events.Decision
		err := json.Unmarshal(raw, &want)
		have, haveErr := events.ReadDecision(raw)
		if string(raw) == "null" && errors.Is(haveErr, events.ErrMalformed) {
			return // which encoding/json takes for nothing
		}
		if (err == nil) != (haveErr == nil) || err == nil && !reflect.DeepEqual(have, want) {
			t.Fatalf("%s\nread %+v, %v\nwant %+v, %v", raw, have, haveErr, want, err)
		}
	})
}

func BenchmarkReadDecision(b *testing.B) {
	raw, err := events.EncodeDecision(decision())
	if err != nil {
		b.Fatal(err)
	}
	b.Run("quick", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := events.ReadDecision(raw); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding/json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var d events.Decision
			if err := json.Unmarshal(raw, &d); err != nil {
				b.Fatal(err)
			}
		}
	})
}
