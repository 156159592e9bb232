package kind

import (
	"encoding/json"
	"reflect"
	"testing"
)

// reference is MergePatch of RFC 7396, section 2, over decoded values, line by line.
func reference(target, patch any) any {
	changes, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	object, ok := target.(map[string]any)
	if !ok {
		object = map[string]any{}
	}
	for name, value := range changes {
		if value == nil {
			delete(object, name)
		} else {
			object[name] = reference(object[name], value)
		}
	}
	return object
}

// FuzzMergePatch holds mergePatch against the RFC's own algorithm, and against
// its second application, which must change nothing.
func FuzzMergePatch(f *testing.F) {
	// The RFC's examples, appendix A.
	for _, c := range [][2]string{
		{`{"a":"b"}`, `{"a":"c"}`}, {`{"a":"b"}`, `{"b":"c"}`}, {`{"a":"b"}`, `{"a":null}`}, {`{"a":"b","b":"c"}`, `{"a":null}`},
		{`{"a":["b"]}`, `{"a":"c"}`}, {`{"a":"c"}`, `{"a":["b"]}`}, {`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`}, {`["a","b"]`, `["c","d"]`}, {`{"a":"b"}`, `["c"]`}, {`{"a":"foo"}`, `null`},
		{`{"a":"foo"}`, `"bar"`}, {`{"e":null}`, `{"a":1}`}, {`[1,2]`, `{"a":"b","c":null}`}, {`{}`, `{"a":{"bb":{"ccc":null}}}`},
	} {
		f.Add([]byte(c[0]), []byte(c[1]))
	}
	f.Fuzz(func(t *testing.T, target, patch []byte) {
		var before, change any
		if json.Unmarshal(target, &before) != nil || json.Unmarshal(patch, &change) != nil {
			return // what reaches it has been read as JSON
		}
		compact := func(raw []byte) json.RawMessage {
			var m json.RawMessage
			_ = json.Unmarshal(raw, &m) // without the white space around it, as a member of an object is
			return m
		}
		merged, err := mergePatch(compact(target), compact(patch))
		if err != nil {
			t.Fatalf("%s with %s: %v", target, patch, err)
		}
		var have any
		if err := json.Unmarshal(merged, &have); err != nil {
			t.Fatalf("%s with %s gave %s: %v", target, patch, merged, err)
		}
		want := reference(before, change)
		if !reflect.DeepEqual(have, want) {
			t.Fatalf("%s with %s gave %s, want %v", target, patch, merged, want)
		}
		again, err := mergePatch(merged, compact(patch))
		if err != nil {
			t.Fatal(err)
		}
		var twice any
		if err := json.Unmarshal(again, &twice); err != nil || !reflect.DeepEqual(twice, have) {
			t.Fatalf("%s applied twice to %s gave %s, once %s", patch, target, again, merged)
		}
	})
}

// FuzzPatch patches a row as an update command does: an error that names the
// field, or a row that is the same after the same patch again and after its
// own JSON.
func FuzzPatch(f *testing.F) {
	type sample struct {
		Meta
		Text  string            `json:"text" default:"x"`
		Count *int64            `json:"count,omitempty"`
		On    bool              `json:"on"`
		Tags  []string          `json:"tags"`
		More  map[string]string `json:"more"`
	}
	def := Define[sample]("sample")
	for _, p := range []string{
		`{"text":"a"}`, `{"text":null}`, `{"count":9223372036854775807}`, `{"count":1e3}`, `{"more":{"a":"b","c":null}}`, `{"more":null}`,
		`{"tags":["a"]}`, `{"tags":{}}`, `{"on":"true"}`, `{"Text":"a"}`, `{"id":"x","version":7}`, `{"text":"a","text":"b"}`, `[]`, `null`, `{"text":"\ud800"}`,
	} {
		f.Add([]byte(p))
	}
	f.Fuzz(func(t *testing.T, patch []byte) {
		row := def.New()
		row.Value.(*sample).More = map[string]string{"c": "d"}
		row.Value.(*sample).Tags = []string{}
		once, names, err := def.Patch(row, patch)
		if err != nil {
			return
		}
		if !json.Valid(patch) {
			t.Fatalf("%q is no JSON and was applied", patch)
		}
		if m := row.Value.(*sample).More; len(m) != 1 || m["c"] != "d" {
			t.Fatalf("%q changed the row it was applied to: %v", patch, m)
		}
		for _, name := range names {
			if _, ok := def.Column(name); !ok {
				t.Fatalf("%q set %q, which is no field", patch, name)
			}
		}
		twice, _, err := def.Patch(once, patch)
		if err != nil || !reflect.DeepEqual(once.Value, twice.Value) {
			t.Fatalf("%q: %+v, again %+v (%v)", patch, once.Value, twice.Value, err)
		}
	})
}
