package events

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

// written are messages as encode writes them.
func written() map[string][]byte {
	d := []byte(`{"id":"d\"}{","principal":{"attr":{"a":["}",{"b":"\\"}]}}}`)
	h := header{id: "a", kind: TypeWrit, source: "/writ/api", subject: "contact/c", at: time.Unix(1, 2)}
	s := Seal{KeyID: "k", MAC: "m"}
	out := map[string][]byte{"writ": encode(h, s, part{"decision", d}, part{"command", []byte(`{}`)})}
	h.kind = TypeDecision
	out["decision"] = encode(h, s, part{"decision", d})
	h.kind = TypeOutcome
	out["outcome"] = encode(h, s, part{"outcome", []byte(`{"status":"applied"}`)})
	return out
}

func TestOwnMessagesAreReadTheShortWay(t *testing.T) {
	for name, data := range written() {
		own := &Event{}
		ok := parseOwn(own, data)
		if !ok {
			t.Errorf("%s: not recognized: %s", name, data)
			continue
		}
		sameAsAny(t, data, own)
	}
}

func TestOthersMessagesAreReadTheLongWay(t *testing.T) {
	for name, data := range written() {
		for old, changed := range map[string]string{
			`"specversion":"1.0"`: `"specversion":"1.1"`, `{"specversion"`: `{ "specversion"`, `"id":"a"`: `"id":""`, `"source":"/writ/api"`: `"source":"\u002f"`,
			`"subject":"contact/c"`: `"subject":"é"`, `"time":"1970`: `"time":"x970`, `"type":"writ.`: `"type":"wrot.`, `}}}`: `}}} `, `,"seal"`: `,"other":{},"seal"`,
			`"data":{`: `"data":{"decision":{},`, `"mac":"m"}`: `"mac":"m","mac":"n"}`,
		} {
			if parseOwn(&Event{}, []byte(strings.Replace(string(data), old, changed, 1))) {
				t.Errorf("%s with %s: recognized", name, changed)
			}
		}
		for n := range data {
			if parseOwn(&Event{}, data[:n]) {
				t.Errorf("%s: recognized when cut to %d bytes", name, n)
			}
		}
	}
}

func sameAsAny(t *testing.T, data []byte, own *Event) {
	t.Helper()
	wanted := &Event{}
	if err := parseAny(wanted, data); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	if !reflect.DeepEqual(own, wanted) {
		t.Fatalf("%s: short %+v, long %+v", data, own, wanted)
	}
}

func TestStringsAreWrittenAsEncodingJSONDoes(t *testing.T) {
	for r := rune(0); r < 0x2100; r++ {
		s := "a" + string(r) + "b"
		want, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := appendString(nil, s); !bytes.Equal(got, want) {
			t.Errorf("%q: %s, not %s", s, got, want)
		}
	}
}

// FuzzParseOwn changes messages of ours: the short way must read the same as
// the long one, or nothing.
func FuzzParseOwn(f *testing.F) {
	for _, data := range written() {
		f.Add(data, 0, []byte(nil))
		f.Add(data, bytes.Index(data, []byte(`"data":{`))+8, []byte(`"command":{},`))
	}
	f.Fuzz(func(t *testing.T, data []byte, at int, insert []byte) {
		if at >= 0 && at <= len(data) {
			data = bytes.Join([][]byte{data[:at], data[at:]}, insert)
		}
		own := &Event{}
		ok := parseOwn(own, data)
		if !ok {
			return
		}
		for _, raw := range [][]byte{own.RawDecision, own.RawCommand, own.RawOutcome} {
			if raw != nil && !json.Valid(raw) {
				return // Parse refuses it when it reads the part
			}
		}
		sameAsAny(t, data, own)
	})
}
