package authz

import (
	"encoding/binary"
	"math"
	"slices"
	"time"
)

// A key is all of a question that the answer depends on: one question with the
// same key is answered like another. Each part of a key tells its kind and its
// length, so that no two different questions write the same.
//
//   - roles, in their order, kind, actions and scope as they are
//   - attributes that rules read, and those that a schema may look into, as they are;
//     of the others that they are there and right, or missing
//   - of an id that is only compared, whether it is the principal's; as it is where
//     it equals a constant in the policies or has a policy of its own
//
// What stands for a value in a key:
const (
	keyRight  = '.' // one that is read by nobody, and right; an id like any other
	keySame   = '=' // is the principal's id
	keyOther  = '!' // is not
	keyNull   = 'z'
	keyTrue   = 't'
	keyFalse  = 'f'
	keyText   = 's'
	keyNumber = 'n'
	keyList   = 'l'
	keyObject = 'o'
)

// askedBy is the part of questions that is about who asks.
type askedBy struct {
	id    string
	roles []string
	attr  map[string]any
}

func (x *readIndex) appendAsker(b []byte, r *readSet, who *askedBy, anybody bool) ([]byte, error) {
	b = appendTexts(b, who.roles)
	if anybody {
		b = append(b, keyRight)
	} else {
		b = appendText(append(b, keyText), who.id)
	}
	return x.appendAttrs(b, who.attr, func(b []byte, name string, v any) ([]byte, error) {
		if x.unseen(r, name, v) {
			return append(b, keyRight), nil
		}
		return appendValue(b, v)
	})
}

// unseen reports whether it makes no difference which value an attribute of the
// principal has, or that it has none.
func (x *readIndex) unseen(r *readSet, name string, v any) bool {
	return !r.principal.has(name) && !x.schemas.required[name] && x.schemas.fit(name, v)
}

// anybody reports whether a principal is answered as any other of whom the same
// comparisons hold.
func (x *readIndex) anybody(r *readSet, id string) bool { return !r.principalID && x.ordinary(id) }

func (x *readIndex) appendResource(b []byte, r *readSet, id string, attr map[string]any, who string) ([]byte, error) {
	switch {
	case !r.resourceIDs:
		b = append(b, keyRight)
	case !r.resourceID && x.ordinary(id):
		b = append(appendSame(b, id, who), keyRight)
	default:
		b = appendText(append(appendSame(b, id, who), keyText), id)
	}
	return x.appendResourceAttrs(b, r, attr, who)
}

func (x *readIndex) appendResourceAttrs(b []byte, r *readSet, attr map[string]any, who string) ([]byte, error) {
	return x.appendAttrs(b, attr, func(b []byte, name string, v any) ([]byte, error) {
		if r.compared[name] {
			b = appendSame(b, v, who)
		}
		if x.alike(r, name, v) {
			return append(b, keyRight), nil
		}
		return appendValue(b, v)
	})
}

// alike reports whether an attribute of a resource is as good as any other of
// which appendSame says the same.
func (x *readIndex) alike(r *readSet, name string, v any) bool {
	if r.resource.has(name) || !x.schemas.fit(name, v) {
		return false
	}
	_, compared := r.compared[name]
	return !compared || x.likeAny(v)
}

// likeAny reports whether a value is an id that is like any other by all comparisons but those with another id.
func (x *readIndex) likeAny(v any) bool {
	id, ok := v.(string)
	return ok && id != "" && !x.constants[id]
}

// appendSame writes whether a value is the principal's id.
func appendSame(b []byte, v any, who string) []byte {
	if v == who {
		return append(b, keySame)
	}
	return append(b, keyOther)
}

// appendAttrs writes the names of attributes, in order, and what write makes of their values.
func (x *readIndex) appendAttrs(b []byte, attr map[string]any, write func(b []byte, name string, v any) ([]byte, error)) ([]byte, error) {
	names := make([]string, 0, 16) // on the stack, mostly
	for name := range attr {
		names = append(names, name)
	}
	slices.Sort(names)
	b = binary.AppendUvarint(b, uint64(len(names)))
	for _, name := range names {
		v, err := plainValue(attr[name])
		if err != nil {
			return nil, attrError(name, err)
		}
		if b, err = write(appendText(b, name), name, v); err != nil {
			return nil, attrError(name, err)
		}
	}
	return b, nil
}

// plainValue gives a value without its Go type, where it has none that a key knows.
func plainValue(v any) (any, error) {
	switch x := v.(type) {
	case nil, string, bool, float64, []string, []any, map[string]any:
		return v, nil
	case int:
		return float64(x), nil
	case int64:
		return float64(x), nil
	case time.Time:
		return x.UTC().Format(time.RFC3339Nano), nil
	}
	p, err := toValue(v)
	if err != nil {
		return nil, err
	}
	return p.AsInterface(), nil
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendTexts(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendText(b, s)
	}
	return b
}

// appendValue writes a value of JSON as it is.
func appendValue(b []byte, v any) ([]byte, error) {
	switch x := v.(type) {
	case nil:
		return append(b, keyNull), nil
	case bool:
		if x {
			return append(b, keyTrue), nil
		}
		return append(b, keyFalse), nil
	case string:
		return appendText(append(b, keyText), x), nil
	case float64:
		if _, err := toValue(x); err != nil { // no number of JSON
			return nil, err
		}
		return binary.BigEndian.AppendUint64(append(b, keyNumber), math.Float64bits(x)), nil
	case []string:
		b = binary.AppendUvarint(append(b, keyList), uint64(len(x)))
		for _, e := range x {
			b = appendText(append(b, keyText), e)
		}
		return b, nil
	case []any:
		b = binary.AppendUvarint(append(b, keyList), uint64(len(x)))
		var err error
		for _, e := range x {
			if b, err = appendValue(b, e); err != nil {
				return nil, err
			}
		}
		return b, nil
	case map[string]any:
		return appendObject(b, x)
	}
	plain, err := plainValue(v)
	if err != nil {
		return nil, err
	}
	return appendValue(b, plain)
}

func appendObject(b []byte, o map[string]any) ([]byte, error) {
	names := make([]string, 0, 16)
	for name := range o {
		names = append(names, name)
	}
	slices.Sort(names)
	b = binary.AppendUvarint(append(b, keyObject), uint64(len(names)))
	var err error
	for _, name := range names {
		if b, err = appendValue(appendText(b, name), o[name]); err != nil {
			return nil, err
		}
	}
	return b, nil
}
