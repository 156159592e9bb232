package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/request"
)

// Limits on what a request may name.
const (
	maxName        = 256 // characters of a type, an id or an action's name
	maxProperties  = 16 << 10
	maxChanges     = 100
	maxChangesSize = 16 << 10 // bytes of their names: a decision holds all of them (events.MaxRecord)
	maxEvaluations = 100
	maxNesting     = 32
)

// members is a JSON object. Its names are told apart by case and stand once
// each (RFC 7493, I-JSON): the asker and the policy must read one question.
type members map[string]any

func readMembers(raw []byte) (members, error) {
	if !utf8.Valid(raw) || !json.Valid(raw) {
		return nil, fault.New(fault.Malformed, "malformed", "the body is not JSON")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	v, err := readValue(d, 0)
	if err == nil {
		if _, end := d.Token(); end != io.EOF {
			err = errors.New("more follows")
		}
	}
	if err != nil {
		return nil, badMember("body", "%v", err)
	}
	m, ok := v.(members)
	if !ok {
		return nil, badMember("body", "want an object")
	}
	return m, nil
}

func readValue(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, errors.New("not JSON, or a number that is too large")
	}
	if depth > maxNesting {
		return nil, errors.New("nested too deep")
	}
	switch t {
	case json.Delim('{'):
		m := members{}
		for d.More() {
			name, err := readValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			key, _ := name.(string) // the decoder takes nothing else here
			if _, twice := m[key]; twice {
				return nil, errors.New("two members have one name")
			}
			if m[key], err = readValue(d, depth+1); err != nil {
				return nil, err
			}
		}
		_, err := d.Token()
		return m, err
	case json.Delim('['):
		list := []any{}
		for d.More() {
			v, err := readValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := d.Token()
		return list, err
	}
	if s, ok := t.(string); ok && strings.ContainsRune(s, 0) { // PostgreSQL cannot keep it
		return nil, errors.New("no text may hold the character U+0000")
	}
	return t, nil
}

// object gives a member that is an object; nil if there is none. A null is none.
func (m members) object(at, name string) (members, error) {
	switch v := m[name].(type) {
	case nil:
		return nil, nil
	case members:
		return v, nil
	}
	return nil, badMember(at+"."+name, "want an object")
}

// name gives a member that is a text and must be there.
func (m members) name(at, name string) (string, error) {
	switch v := m[name].(type) {
	case nil:
		return "", badMember(at+"."+name, "is missing")
	case string:
		if v == "" || utf8.RuneCountInString(v) > maxName {
			return "", badMember(at+"."+name, "want 1 to %d characters", maxName)
		}
		return v, nil
	}
	return "", badMember(at+"."+name, "want a text")
}

// entity is a subject or a resource as a request names it.
type entity struct {
	typ, id    string
	properties members
}

// entity reads a subject or a resource; without its id where that is searched for.
func (m members) entity(at, name string, searched bool) (e entity, err error) {
	o, err := m.object(at, name)
	if err != nil {
		return e, err
	}
	at += "." + name
	if o == nil {
		return e, badMember(at, "is missing")
	}
	if e.typ, err = o.name(at, "type"); err != nil {
		return e, err
	}
	if !searched {
		if e.id, err = o.name(at, "id"); err != nil {
			return e, err
		}
	}
	if id, ok := request.UUID(e.id); ok && name == "resource" {
		e.id = id
	}
	if e.properties, err = o.object(at, "properties"); err != nil {
		return e, err
	}
	if b, err := json.Marshal(e.properties); err != nil || len(b) > maxProperties {
		return e, badMember(at+".properties", "at most %d bytes", maxProperties)
	}
	return e, nil
}

// action is an action as a request names it.
type action struct {
	name string
	// changes are the fields that an update or a create sets; nil if the request does not say.
	changes []string
}

func (m members) action(at string) (a action, err error) {
	o, err := m.object(at, "action")
	if err != nil {
		return a, err
	}
	at += ".action"
	if o == nil {
		return a, badMember(at, "is missing")
	}
	if a.name, err = o.name(at, "name"); err != nil {
		return a, err
	}
	properties, err := o.object(at, "properties")
	if err != nil || properties["changes"] == nil {
		return a, err
	}
	list, ok := properties["changes"].([]any)
	a.changes = []string{}
	for _, v := range list {
		name, isText := v.(string)
		ok = ok && isText && utf8.RuneCountInString(name) <= maxName
		a.changes = append(a.changes, name)
	}
	if !ok || len(list) > maxChanges {
		return a, badMember(at+".properties.changes", "want at most %d names of fields", maxChanges)
	}
	if b, err := json.Marshal(a.changes); err != nil || len(b) > maxChangesSize {
		return a, badMember(at+".properties.changes", "at most %d bytes", maxChangesSize)
	}
	slices.Sort(a.changes)
	return a, nil
}

// evaluation is one question: may the subject do the action to the resource?
type evaluation struct {
	subject, resource entity
	action            action
}

func (m members) evaluation(at string) (e evaluation, err error) {
	if e.subject, err = m.entity(at, "subject", false); err != nil {
		return e, err
	}
	if e.action, err = m.action(at); err != nil {
		return e, err
	}
	if e.resource, err = m.entity(at, "resource", false); err != nil {
		return e, err
	}
	_, err = m.object(at, "context")
	return e, err
}
