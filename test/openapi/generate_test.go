package openapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// generator makes values that fit a schema, and values that do not.
type generator struct {
	*rand.Rand
	d *document
}

// letters are what texts are made of: some that mean something to SQL, JSON, HTML or UTF-8.
var letters = []rune(`abcXYZ019 _%'"\<>&;-/{}[]äßЖ漢😀` + "\t\n\u2028\u202e")

// value makes a value that fits.
func (g *generator) value(schema map[string]any) any {
	schema = g.d.resolve(schema)
	if enum, ok := schema["enum"].([]any); ok {
		return enum[g.IntN(len(enum))]
	}
	switch kind := typeOf(schema); kind {
	case "object":
		return g.object(schema)
	case "array":
		items, _ := schema["items"].(map[string]any)
		out := make([]any, max(int(number(schema["minItems"], 0)), g.IntN(3)))
		for i := range out {
			out[i] = g.value(items)
		}
		if schema["uniqueItems"] == true && len(out) > 0 {
			out = out[:1]
		}
		return out
	case "string":
		return g.text(schema)
	case "integer":
		low, high := bounds(schema, -1e6, 1e6)
		return int64(low) + g.Int64N(int64(high-low)+1)
	case "number":
		low, high := bounds(schema, -1e6, 1e6)
		return []float64{low, high, low + g.Float64()*(high-low)}[g.IntN(3)]
	case "boolean":
		return g.IntN(2) == 0
	case "":
		return nil // anything
	default:
		panic("a schema of type " + kind)
	}
}

// typeOf is the schema's type, null aside.
func typeOf(schema map[string]any) string {
	switch t := schema["type"].(type) {
	case string:
		return t
	case []any:
		for _, one := range t {
			if one != "null" {
				return one.(string)
			}
		}
	}
	return ""
}

func nullable(schema map[string]any) bool {
	types, _ := schema["type"].([]any)
	return slices.Contains(types, any("null"))
}

// opaque are members whose values only the server makes; an owner must be a user of
// the tenant, so most that are made up would be refused.
var opaque = map[string]bool{"token": true, "cursor": true, "owner_id": true}

func (g *generator) object(schema map[string]any) map[string]any {
	out := map[string]any{}
	properties, _ := schema["properties"].(map[string]any)
	required, _ := schema["required"].([]any)
	// What the members beside evaluations must be depends on what those leave out, which the schema cannot tell.
	several := properties["evaluations"] != nil
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		if opaque[name] || !slices.Contains(required, any(name)) && !several && g.IntN(2) == 0 {
			continue
		}
		p := properties[name].(map[string]any)
		if nullable(g.d.resolve(p)) && g.IntN(4) == 0 {
			out[name] = nil
			continue
		}
		out[name] = g.value(p)
		if words := likely[name]; words != nil && g.IntN(2) == 0 {
			out[name] = words[g.IntN(len(words))]
		}
		if known := patterned[name]; known != nil {
			out[name] = g.known(name)
		}
	}
	return out
}

// patterned are values of members whose schema has a pattern.
var patterned = map[string][]string{
	"return_to": {"/account", "/docs?x=1"}, "key": {"t-NEW"}, "tenant": {"default"}, "url": {"https://hooks.example/NEW", "https://hooks.example:8443/?a=NEW"},
	"kinds": {}, "actions": {},
}

// known is a value of a member whose schema has a pattern; NEW in it is never the same.
func (g *generator) known(name string) any {
	all := patterned[name]
	if len(all) == 0 {
		return []string{}
	}
	return strings.ReplaceAll(all[g.IntN(len(all))], "NEW", uuid.NewString())
}

// likely are values that mean something where any text will do.
var likely = map[string][]string{"type": {"user", "contact", "video", "expense"}, "name": {"read", "update", "delete", "approve"}}

func (g *generator) text(schema map[string]any) string {
	if format, _ := schema["format"].(string); format != "" {
		return g.formatted(format)
	}
	low, high := int(number(schema["minLength"], 0)), int(number(schema["maxLength"], 40))
	n := low + g.IntN(min(high, low+40)-low+1)
	if g.IntN(8) == 0 {
		n = min(high, 2000) // as long as it may be
	}
	out := make([]rune, n)
	for i := range out {
		out[i] = letters[g.IntN(len(letters))]
	}
	return string(out)
}

func (g *generator) formatted(format string) string {
	switch format {
	case "email":
		return fmt.Sprintf("a%d.b+c@example%d.com", g.IntN(1e6), g.IntN(10))
	case "uuid":
		return uuid.NewString()
	case "uri":
		return "https://hooks.example/" + uuid.NewString()
	case "date-time":
		return time.Unix(g.Int64N(4e9), 0).UTC().Format(time.RFC3339)
	}
	panic("a text of the format " + format)
}

func number(v any, otherwise float64) float64 {
	n, ok := v.(json.Number)
	if !ok {
		if f, ok := v.(float64); ok {
			return f
		}
		return otherwise
	}
	f, err := n.Float64()
	if err != nil {
		panic(err)
	}
	return f
}

func bounds(schema map[string]any, low, high float64) (float64, float64) {
	low = number(schema["minimum"], low)
	return low, max(low, number(schema["maximum"], max(low, high)))
}

// wrong is a value that does not fit, and why not.
type wrong struct {
	what  string
	value any
	// ignored: it is in a place that the document says nobody looks at, so that it may be accepted.
	ignored bool
}

// wrongs gives the ways in which one value can fail to fit.
func (g *generator) wrongs(schema map[string]any) []wrong {
	schema = g.d.resolve(schema)
	var out []wrong
	add := func(what string, v any) { out = append(out, wrong{what: what, value: v}) }
	kind := typeOf(schema)
	for name, v := range map[string]any{"string": "x", "number": 1.5, "boolean": true, "array": []any{1}, "object": map[string]any{"x": 1}} {
		if kind != "" && kind != name && !(kind == "integer" && name == "number") {
			add("a "+name+" for a "+kind, v)
		}
	}
	if schema["enum"] != nil {
		add("not in the enum", "no such value")
	}
	switch kind {
	case "integer":
		add("a fraction", 1.5)
		fallthrough
	case "number":
		if schema["minimum"] != nil {
			add("too small", number(schema["minimum"], 0)-1)
		}
		if schema["maximum"] != nil {
			add("too large", number(schema["maximum"], 0)*2+1)
		}
	case "string":
		if n := number(schema["maxLength"], 0); n > 0 {
			add("too long", strings.Repeat("é", int(n)+1))
		}
		if number(schema["minLength"], 0) > 0 {
			add("too short", "")
		}
		if schema["format"] != nil {
			add("not of the format", "not of the format")
		}
		if schema["pattern"] != nil {
			add("not of the pattern", "é É <é>")
		}
	}
	return out
}

// says reports whether a schema's description holds a text.
func says(schema map[string]any, text string) bool {
	description, _ := schema["description"].(string)
	return strings.Contains(description, text)
}

// wrongObjects gives bodies that do not fit, each for one reason.
func (g *generator) wrongObjects(schema map[string]any) []wrong {
	schema = g.d.resolve(schema)
	properties, _ := schema["properties"].(map[string]any)
	required, _ := schema["required"].([]any)
	var out []wrong
	ignored := false
	with := func(what string, change func(map[string]any)) {
		o := g.object(schema)
		change(o)
		out = append(out, wrong{what, o, ignored})
	}
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		p := properties[name].(map[string]any)
		ignored = says(p, "gnored") || says(schema, name+" is ignored") || says(schema, name+" are ignored")
		for _, w := range g.wrongs(p) {
			with(name+": "+w.what, func(o map[string]any) { o[name] = w.value })
		}
		if slices.Contains(required, any(name)) {
			with(name+" is missing", func(o map[string]any) { delete(o, name) })
			if p := g.d.resolve(p); typeOf(p) == "object" {
				for _, w := range g.wrongObjects(p) {
					ignored = w.ignored
					with(name+"."+w.what, func(o map[string]any) { o[name] = w.value })
				}
			}
		}
	}
	ignored = false
	if schema["additionalProperties"] == false {
		with("an unknown member", func(o map[string]any) { o["unknown"] = 1 })
		with("a member of a parent's name", func(o map[string]any) { o["__proto__"] = map[string]any{} })
	}
	return out
}
