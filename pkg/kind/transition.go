package kind

import (
	"fmt"
	"reflect"
	"time"
)

// By is who does something to a row, and when.
type By struct {
	PrincipalID string
	At          time.Time
}

// transition is an action of one kind beside those that every kind has.
type transition struct {
	name  string
	apply func(row any, by By) error
}

// Action adds an action to a kind: POST /v1/<plural>/{id}/<name>. apply changes
// a copy of the row; an error of pkg/fault rejects the command. It must not
// write through pointers of the row, which it shares with the one before.
func Action[T any](name string, apply func(row *T, by By) error) Option {
	return func(d *Definition) {
		if d.typ != reflect.TypeFor[T]() {
			panic("kind " + d.Name + ": action " + name + " is for another type")
		}
		d.actions = append(d.actions, transition{name, func(row any, by By) error { return apply(row.(*T), by) }})
	}
}

// Actions names the actions that the kind has beside create, read, list, update
// and delete.
func (d *Definition) Actions() []string {
	names := make([]string, len(d.actions))
	for i, a := range d.actions {
		names[i] = a.name
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
