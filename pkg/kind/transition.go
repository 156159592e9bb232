package kind

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"
)

// By is who does something to a row, and when.
type By struct {
	PrincipalID string
	At          time.Time
	// Body is the command's, for an action that has one.
	Body json.RawMessage
}

// transition is an action of one kind beside those that every kind has.
type transition struct {
	name           string
	routed, system bool
	apply          func(row any, by By) error
}

// Action adds an action to a kind: POST /v1/<plural>/{id}/<name>. apply changes
// a copy of the row; an error of pkg/fault rejects the command. It must not
// write through pointers of the row, which it shares with the one before.
func Action[T any](name string, apply func(row *T, by By) error) Option {
	return action(transition{name: name, routed: true}, apply)
}

// BodyAction is Action for one whose command has a body (By.Body): what reads
// the body offers it, no route is made.
func BodyAction[T any](name string, apply func(row *T, by By) error) Option {
	return action(transition{name: name}, apply)
}

// SystemAction is BodyAction for one that is nobody's to do but the system's:
// it is not offered to people, nor among what they may ask about.
func SystemAction[T any](name string, apply func(row *T, by By) error) Option {
	return action(transition{name: name, system: true}, apply)
}

func action[T any](a transition, apply func(row *T, by By) error) Option {
	return func(d *Definition) {
		if d.typ != reflect.TypeFor[T]() {
			panic("kind " + d.Name + ": action " + a.name + " is for another type")
		}
		a.apply = func(row any, by By) error { return apply(row.(*T), by) }
		d.actions = append(d.actions, a)
	}
}

// Actions names the actions that people may do to the kind beside create, read,
// list, update and delete.
func (d *Definition) Actions() []string {
	return d.named(func(a transition) bool { return !a.system })
}

// SystemActions names those that only the system does.
func (d *Definition) SystemActions() []string {
	return d.named(func(a transition) bool { return a.system })
}

// Routed names those of them that have a route of their own and no body.
func (d *Definition) Routed() []string {
	return d.named(func(a transition) bool { return a.routed })
}

func (d *Definition) named(which func(transition) bool) []string {
	names := make([]string, 0, len(d.actions))
	for _, a := range d.actions {
		if which(a) {
			names = append(names, a.name)
		}
	}
	return names
}

// Act makes the row that an action leaves behind, the version counted up.
func (d *Definition) Act(r Row, action string, by By) (Row, error) {
	for _, a := range d.actions {
		if a.name != action {
			continue
		}
		v := reflect.New(d.typ)
		v.Elem().Set(reflect.ValueOf(r.Value).Elem())
		next := d.row(v)
		if err := a.apply(next.Value, by); err != nil {
			return Row{}, err
		}
		*next.Meta = *r.Meta
		next.Version++
		if at := stamp(by.At); at.After(r.UpdatedAt) {
			next.UpdatedAt = at
		}
		return next, nil
	}
	return Row{}, fmt.Errorf("kind %s has no action %q", d.Name, action)
}
