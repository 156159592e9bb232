package authz

import (
	"bytes"
	"encoding/json"
	"slices"
	"unicode/utf8"

	runtimev1 "github.com/cerbos/cerbos/api/genpb/cerbos/runtime/v1"
)

// attrSchemas are what the policies' schemas say of attributes that no rule
// reads. Two values that a schema both finds right make no difference to it, if
// it says of each attribute for itself what is right (fits); of one that may say
// anything every value counts.
type attrSchemas struct {
	opaque     bool            // a schema may say anything of anything
	required   map[string]bool // names that a schema wants
	properties map[string][]valueSchema
}

// valueSchema is what a schema says of one value.
type valueSchema struct {
	opaque     bool // more than is known here
	typ        string
	minLength  int
	minimum    *float64
	enum       []string
	items      *valueSchema
	properties map[string]valueSchema
}

// readSchemas reads the schemas that are enforced.
func readSchemas(t *runtimev1.RuleTable) attrSchemas {
	out := attrSchemas{required: map[string]bool{}, properties: map[string][]valueSchema{}}
	refs := map[string]bool{}
	for ref, s := range t.GetJsonSchemas() {
		refs[ref] = true
		out.read(s.GetContent())
	}
	for _, s := range t.GetSchemas() {
		for _, ref := range []string{s.GetPrincipalSchema().GetRef(), s.GetResourceSchema().GetRef()} {
			out.opaque = out.opaque || ref != "" && !refs[ref]
		}
	}
	return out
}

// read takes a schema of attributes. What it says of their names alone, which
// there must be and which there may be, needs no look at it: names always count.
func (s *attrSchemas) read(schema []byte) {
	var top map[string]json.RawMessage
	if json.Unmarshal(schema, &top) != nil {
		s.opaque = true
		return
	}
	for keyword, v := range top {
		switch keyword {
		case "$schema", "$id", "title", "description", "type", "properties", "required":
		case "additionalProperties":
			if !bytes.Equal(v, []byte("true")) && !bytes.Equal(v, []byte("false")) {
				s.opaque = true
			}
		default:
			s.opaque = true
		}
	}
	var required []string
	if top["required"] != nil && json.Unmarshal(top["required"], &required) != nil {
		s.opaque = true
	}
	for _, name := range required {
		s.required[name] = true
	}
	var properties map[string]json.RawMessage
	if top["properties"] != nil && json.Unmarshal(top["properties"], &properties) != nil {
		s.opaque = true
	}
	for name, p := range properties {
		s.properties[name] = append(s.properties[name], readValueSchema(p))
	}
}

// readValueSchema errs on the side of more than is known here.
func readValueSchema(schema []byte) valueSchema {
	var keywords map[string]json.RawMessage
	if json.Unmarshal(schema, &keywords) != nil || keywords == nil {
		return valueSchema{opaque: true}
	}
	var out valueSchema
	for keyword, v := range keywords {
		known := false
		switch keyword {
		case "title", "description":
			known = true
		case "type":
			known = json.Unmarshal(v, &out.typ) == nil && out.typ != ""
		case "minLength":
			known = json.Unmarshal(v, &out.minLength) == nil
		case "minimum":
			known = json.Unmarshal(v, &out.minimum) == nil && out.minimum != nil
		case "enum":
			var of []*string
			known = json.Unmarshal(v, &of) == nil && !slices.Contains(of, nil)
			for i := 0; known && i < len(of); i++ {
				out.enum = append(out.enum, *of[i])
			}
		case "items":
			items := readValueSchema(v)
			out.items, known = &items, !items.opaque
		case "properties":
			out.properties, known = readProperties(v)
		}
		out.opaque = out.opaque || !known
	}
	return out
}

func readProperties(schema []byte) (properties map[string]valueSchema, known bool) {
	var raw map[string]json.RawMessage
	if json.Unmarshal(schema, &raw) != nil {
		return nil, false
	}
	properties, known = map[string]valueSchema{}, true
	for name, p := range raw {
		properties[name] = readValueSchema(p)
		known = known && !properties[name].opaque
	}
	return properties, known
}

// fit reports whether all schemas find an attribute's value right, whatever the
// kind: false where it is not known.
func (s *attrSchemas) fit(name string, v any) bool {
	if s.opaque {
		return false
	}
	of := s.properties[name]
	for i := range of {
		if !of[i].fits(v) {
			return false
		}
	}
	return len(of) > 0 || anyFits(v)
}

// anyFits is fits for what no schema speaks of: a value without parts, or a list of texts.
func anyFits(v any) bool {
	switch x := v.(type) {
	case string:
		return utf8.ValidString(x)
	case bool:
		return true
	case []string:
		return !slices.ContainsFunc(x, func(e string) bool { return !utf8.ValidString(e) })
	}
	return false
}

func (s *valueSchema) fits(v any) bool {
	if s.opaque {
		return false
	}
	switch x := v.(type) {
	case string:
		return (s.typ == "string" || s.typ == "") && utf8.ValidString(x) && (s.minLength == 0 || utf8.RuneCountInString(x) >= s.minLength) &&
			(s.enum == nil || slices.Contains(s.enum, x))
	case bool:
		return (s.typ == "boolean" || s.typ == "") && s.enum == nil
	case float64:
		// One that is no number of JSON is not at all.
		return (s.typ == "number" || s.typ == "") && s.enum == nil && x-x == 0 && (s.minimum == nil || x >= *s.minimum)
	case []string:
		return s.list(len(x), func(i int) any { return x[i] })
	case []any:
		return s.list(len(x), func(i int) any { return x[i] })
	case map[string]any:
		return s.object(x)
	}
	return false
}

func (s *valueSchema) list(n int, element func(int) any) bool {
	if s.typ != "array" && s.typ != "" || s.enum != nil {
		return false
	}
	for i := range n {
		if e := element(i); s.items == nil && !anyFits(e) || s.items != nil && !s.items.fits(e) {
			return false
		}
	}
	return true
}

func (s *valueSchema) object(o map[string]any) bool {
	if s.typ != "object" && s.typ != "" || s.enum != nil {
		return false
	}
	for name, v := range o {
		if p, ok := s.properties[name]; ok && !p.fits(v) || !ok && !anyFits(v) {
			return false
		}
	}
	return true
}
