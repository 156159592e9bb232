package kind

import (
	"encoding/json"
	"errors"
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
		return err
	}
	v.FieldByIndex(c.index).Set(fresh.Elem())
	return nil
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
