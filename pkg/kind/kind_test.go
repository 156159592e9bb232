package kind_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/writ-project/writ/pkg/kind"
)

type state string

type clip struct {
	Title string            `json:"title"`
	Tags  map[string]string `json:"tags,omitempty"`
	At    []int             `json:"at,omitempty"`
}

// thing has a field of every type that a kind may have.
type thing struct {
	kind.Meta
	Text    string            `json:"text"`
	State   state             `json:"state" default:"draft"`
	Flag    bool              `json:"flag" default:"true"`
	Small   int32             `json:"small"`
	Count   int64             `json:"count" default:"7"`
	Size    uint32            `json:"size"`
	Ratio   float64           `json:"ratio" default:"0.5"`
	When    time.Time         `json:"when"`
	Ended   *time.Time        `json:"ended"`
	Nick    *string           `json:"nick"`
	Rank    *int64            `json:"rank"`
	Labels  map[string]string `json:"labels" default:"{\"a\":\"1\"}"`
	List    []string          `json:"list" default:"[\"x\"]"`
	Clip    clip              `json:"clip"`
	Any     map[string]any    `json:"any,omitempty"`
	Secret  string            `json:"-"`
	private int               //lint:ignore U1000 a field that is no column
}

var things = kind.Define[thing]("thing", kind.Plural("stuff"), kind.Search("text", "state"),
	kind.Attr("state", "flag", "small", "count", "size", "ratio", "when", "ended", "nick", "rank", "list"))

func TestDefine(t *testing.T) {
	if things.Name != "thing" || things.Plural != "stuff" || kind.Define[thing]("note").Plural != "notes" {
		t.Errorf("%s, %s", things.Name, things.Plural)
	}
	var names []string
	for _, c := range things.Columns {
		names = append(names, c.Name)
	}
	want := strings.Fields("id tenant owner_id version created_at updated_at text state flag small count size ratio when ended nick rank labels list clip any")
	if !slices.Equal(names, want) {
		t.Errorf("columns %v, want %v", names, want)
	}
	if c, ok := things.Column("ended"); !ok || c.Type() != reflect.TypeFor[*time.Time]() {
		t.Errorf("column ended: %v", c.Type())
	}
	if _, ok := things.Column("Secret"); ok {
		t.Error("a field without a JSON name is a column")
	}
	if things.Type() != reflect.TypeFor[thing]() || len(things.AttrNames()) != 13 {
		t.Errorf("%v, %v", things.Type(), things.AttrNames())
	}
	things.AttrNames()[0] = "changed"
	if things.AttrNames()[0] != "owner_id" {
		t.Error("the attributes' names can be changed from outside")
	}
}

func TestDefinePanicsOnWhatDoesNotFit(t *testing.T) {
	type noMeta struct {
		Name string `json:"name"`
	}
	type named struct {
		Meta kind.Meta
		Name string `json:"name"`
	}
	type shadow struct {
		kind.Meta
		Owner string `json:"owner_id"`
	}
	type badDefault struct {
		kind.Meta
		Flag bool `json:"flag" default:"yes"`
	}
	for name, define := range map[string]func(){
		"no Meta":            func() { kind.Define[noMeta]("x") },
		"Meta not embedded":  func() { kind.Define[named]("x") },
		"Meta's name again":  func() { kind.Define[shadow]("x") },
		"default":            func() { kind.Define[badDefault]("x") },
		"unknown attribute":  func() { kind.Define[thing]("x", kind.Attr("colour")) },
		"unknown search":     func() { kind.Define[thing]("x", kind.Search("colour")) },
		"search in a number": func() { kind.Define[thing]("x", kind.Search("count")) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("taken")
				}
			}()
			define()
		})
	}
}

func decode(t testing.TB, body string) (kind.Row, *thing) {
	t.Helper()
	r, err := things.Decode(json.RawMessage(body))
	if err != nil {
		t.Fatal(err)
	}
	return r, r.Value.(*thing)
}

func TestDecodeSetsDefaultsAndRefusesWhatItDoesNotKnow(t *testing.T) {
	r, v := decode(t, `{"text":"a","count":null,"list":[],"labels":{"b":"2"},"clip":{"title":"c"}}`)
	want := thing{Text: "a", State: "draft", Flag: true, Count: 7, Ratio: 0.5, Labels: map[string]string{"b": "2"},
		List: []string{}, Clip: clip{Title: "c"}}
	if !reflect.DeepEqual(*v, want) {
		t.Errorf("%+v\nwant %+v", *v, want)
	}
	if r.Meta != &v.Meta {
		t.Error("Meta does not point into the row")
	}
	b, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(b), `"text":"a"`) || strings.Contains(string(b), "Value") {
		t.Errorf("%s (%v)", b, err)
	}
	// The last of two members of one name counts, as in encoding/json.
	if _, v := decode(t, `{"text":"a","text":"b"}`); v.Text != "b" {
		t.Errorf("text %q", v.Text)
	}
	for _, body := range []string{
		``, `null`, `[]`, `"text"`, `7`, `{`, `{"text":"a"} x`, `{"colour":"red"}`, `{"Text":"a"}`, `{"Secret":"a"}`, `{"-":1}`,
		`{"text":7}`, `{"flag":"true"}`, `{"count":1.5}`, `{"count":9223372036854775808}`, `{"size":-1}`, `{"small":3000000000}`,
		`{"ratio":"1"}`, `{"ratio":1e999}`, `{"when":"yesterday"}`, `{"ended":7}`, `{"list":"a"}`, `{"labels":[]}`, `{"clip":[]}`, `{"Meta":{}}`,
	} {
		if _, err := things.Decode(json.RawMessage(body)); err == nil {
			t.Errorf("%s was taken", body)
		}
	}
}

func TestPatchIsAMergePatch(t *testing.T) {
	const before = `{"text":"a","state":"live","flag":false,"count":1,"ended":"2026-01-02T03:04:05Z","nick":"n",
		"labels":{"a":"1","b":"2"},"list":["p","q"],"clip":{"title":"c","tags":{"k":"v","l":"w"},"at":[1,2]},"any":{"deep":{"x":1,"y":[1]}}}`
	for name, c := range map[string]struct {
		patch, want string
		names       []string
	}{
		"nothing":            {`{}`, before, []string{}},
		"a value":            {`{"text":"b"}`, strings.Replace(before, `"text":"a"`, `"text":"b"`, 1), []string{"text"}},
		"null is default":    {`{"state":null,"count":null,"flag":null}`, `{"state":"draft","count":7,"flag":true}`, []string{"count", "flag", "state"}},
		"null empties":       {`{"ended":null,"nick":null}`, `{"ended":null,"nick":null}`, []string{"ended", "nick"}},
		"through a pointer":  {`{"nick":"m"}`, `{"nick":"m"}`, []string{"nick"}},
		"map is merged":      {`{"labels":{"a":null,"c":"3"}}`, `{"labels":{"b":"2","c":"3"}}`, []string{"labels"}},
		"list is replaced":   {`{"list":["r"]}`, `{"list":["r"]}`, []string{"list"}},
		"struct is merged":   {`{"clip":{"tags":{"k":null,"m":"x"}}}`, `{"clip":{"title":"c","tags":{"l":"w","m":"x"},"at":[1,2]}}`, []string{"clip"}},
		"nested list":        {`{"clip":{"at":[3]}}`, `{"clip":{"title":"c","tags":{"k":"v","l":"w"},"at":[3]}}`, []string{"clip"}},
		"deep":               {`{"any":{"deep":{"x":null,"z":{"n":null,"m":1}}}}`, `{"any":{"deep":{"y":[1],"z":{"m":1}}}}`, []string{"any"}},
		"object over scalar": {`{"any":{"deep":{"x":{"y":2}}}}`, `{"any":{"deep":{"x":{"y":2},"y":[1]}}}`, []string{"any"}},
	} {
		t.Run(name, func(t *testing.T) {
			r, v := decode(t, before)
			_, untouched := decode(t, before)
			next, names, err := things.Patch(r, json.RawMessage(c.patch))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(names, c.names) {
				t.Errorf("names %v, want %v", names, c.names)
			}
			if !reflect.DeepEqual(v, untouched) {
				t.Errorf("the row that was patched changed to %+v", v)
			}
			_, want := decode(t, before)
			_, given := decode(t, c.want)
			for _, n := range names {
				c, _ := things.Column(n)
				f, _ := things.Type().FieldByNameFunc(func(s string) bool { return strings.EqualFold(s, c.Name) })
				reflect.ValueOf(want).Elem().FieldByIndex(f.Index).Set(reflect.ValueOf(given).Elem().FieldByIndex(f.Index))
			}
			if have := next.Value.(*thing); !reflect.DeepEqual(have, want) {
				t.Errorf("%+v\nwant %+v", have, want)
			}
		})
	}
	r, _ := decode(t, before)
	for _, patch := range []string{``, `null`, `[]`, `7`, `{"colour":1}`, `{"text":7}`, `{"list":{"a":1}}`, `{"labels":{"a":7}}`} {
		if _, _, err := things.Patch(r, json.RawMessage(patch)); err == nil {
			t.Errorf("%s was taken", patch)
		}
		if _, err := things.Update(r, json.RawMessage(patch), time.Now()); err == nil {
			t.Errorf("%s was taken as an update", patch)
		}
	}
}

// TestPatchAgreesWithRFC7396 compares maps with the RFC's own algorithm.
func TestPatchAgreesWithRFC7396(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		object := objects()
		before, patch := object.Draw(t, "before"), object.Draw(t, "patch")
		r := things.New()
		r.Value.(*thing).Any = before
		raw, err := json.Marshal(map[string]any{"any": patch})
		if err != nil {
			t.Fatal(err)
		}
		kept, _ := json.Marshal(before)
		next, _, err := things.Patch(r, raw)
		if err != nil {
			t.Fatal(err)
		}
		if now, _ := json.Marshal(before); string(now) != string(kept) {
			t.Fatalf("the original changed: %s, was %s", now, kept)
		}
		have, _ := json.Marshal(next.Value.(*thing).Any)
		want, _ := json.Marshal(mergePatch(clone(before), clone(patch)))
		if string(have) != string(want) {
			t.Fatalf("%s + %s = %s, want %s", kept, raw, have, want)
		}
	})
}

func objects() *rapid.Generator[map[string]any] {
	var value func(depth int) *rapid.Generator[any]
	names := rapid.SampledFrom([]string{"a", "b", "c", "<&>"})
	value = func(depth int) *rapid.Generator[any] {
		leaf := rapid.OneOf(rapid.Just[any](nil), rapid.Map(rapid.String(), func(s string) any { return s }),
			rapid.Map(rapid.Int32(), func(i int32) any { return float64(i) }), rapid.Just[any](true), rapid.Just[any]([]any{1.0, nil}))
		if depth == 0 {
			return leaf
		}
		return rapid.OneOf(leaf, rapid.Map(rapid.MapOfN(names, value(depth-1), 0, 3), func(m map[string]any) any { return m }))
	}
	return rapid.MapOfN(names, value(2), 0, 3)
}

// mergePatch is the pseudocode of RFC 7396 section 2.
func mergePatch(target, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	t, ok := target.(map[string]any)
	if !ok {
		t = map[string]any{}
	}
	for name, value := range p {
		if value == nil {
			delete(t, name)
		} else {
			t[name] = mergePatch(t[name], value)
		}
	}
	return t
}

func clone(v map[string]any) map[string]any {
	b, _ := json.Marshal(v)
	var out map[string]any
	_ = json.Unmarshal(b, &out)
	return out
}

func TestAttrsArePlainValues(t *testing.T) {
	_, v := decode(t, `{"small":-3,"size":4,"ratio":1.25,"when":"2026-01-02T05:04:05.000006+02:00","rank":9,"nick":"n","list":["a"]}`)
	v.OwnerID, v.Tenant = "u", "acme"
	have := things.Attrs(kind.Row{Meta: &v.Meta, Value: v})
	want := map[string]any{
		"owner_id": "u", "tenant": "acme", "state": "draft", "flag": true, "small": -3.0, "count": 7.0, "size": 4.0, "ratio": 1.25,
		"when": "2026-01-02T03:04:05.000006Z", "rank": 9.0, "nick": "n", "list": []string{"a"}, // ended is NULL
	}
	if !reflect.DeepEqual(have, want) {
		t.Errorf("%#v\nwant %#v", have, want)
	}
}

func TestChangeAttrsNameTheChanges(t *testing.T) {
	r, _ := decode(t, `{}`)
	attrs := things.ChangeAttrs(r, []string{"flag", "owner_id", "text"})
	if !reflect.DeepEqual(attrs["changes"], []any{"flag", "owner_id", "text"}) || attrs["owner_id"] != "" {
		t.Errorf("%v", attrs)
	}
	for _, object := range []string{``, `null`, `[]`} {
		if names, err := kind.Names(json.RawMessage(object)); err == nil {
			t.Errorf("%q: %v", object, names)
		}
	}
}
