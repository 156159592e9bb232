package kind

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

var errNoObject = errors.New("not a JSON object")

// members reads a JSON object. Of two members of one name the last counts.
func members(object json.RawMessage) (map[string]json.RawMessage, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(object, &m); err != nil {
		return nil, err
	}
	if m == nil { // null
		return nil, errNoObject
	}
	return m, nil
}

// replace sets the column's field to what raw says and to nothing else: decoded
// into the field itself, raw would add to a map that is there, and would write
// through a pointer that another row may share.
func (c Column) replace(v reflect.Value, raw json.RawMessage) error {
	fresh := reflect.New(c.typ)
	if err := json.Unmarshal(raw, fresh.Interface()); err != nil {
		return misfit(err)
	}
	if f := fresh.Elem(); f.CanFloat() && f.Float() == 0 {
		f.SetFloat(0) // JSON has a -0, SQL need not keep it
	}
	v.FieldByIndex(c.index).Set(fresh.Elem())
	return nil
}

// misfit says what is wrong with a value in the words of JSON, not of Go.
func misfit(err error) error {
	t, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return err
	}
	want := map[reflect.Kind]string{
		reflect.String: "a text", reflect.Bool: "true or false", reflect.Float64: "a number of double precision", reflect.Int64: "a whole number of 64 bits",
		reflect.Int: "a whole number of 64 bits", reflect.Slice: "a list", reflect.Map: "an object", reflect.Struct: "an object",
	}[t.Type.Kind()]
	if want == "" {
		want = "another type"
	}
	return fmt.Errorf("want %s, not %s", want, t.Value)
}

// patch sets the column's field to what it is after a merge patch.
func (c Column) patch(v reflect.Value, raw json.RawMessage) error {
	if raw[0] == '{' {
		before, err := json.Marshal(v.FieldByIndex(c.index).Interface())
		if err != nil {
			return err
		}
		if raw, err = mergePatch(before, raw); err != nil {
			return err
		}
	}
	return c.replace(v, raw)
}

// mergePatch is MergePatch of RFC 7396 section 2.
func mergePatch(target, patch json.RawMessage) (json.RawMessage, error) {
	if patch[0] != '{' {
		return patch, nil
	}
	changes, err := members(patch)
	if err != nil {
		return nil, err
	}
	merged := map[string]json.RawMessage{}
	if len(target) > 0 && target[0] == '{' {
		if merged, err = members(target); err != nil {
			return nil, err
		}
	}
	for name, change := range changes {
		if string(change) == "null" {
			delete(merged, name)
			continue
		}
		if merged[name], err = mergePatch(merged[name], change); err != nil {
			return nil, err
		}
	}
	return json.Marshal(merged)
}
