// Package settings reads what a service is started with from the environment.
package settings

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
)

// Load reads a service's Config, whose fields name their settings in env tags.
// The error is one line; it names every setting that is missing or malformed
// and shows no value, which may be a secret.
func Load[T any]() (T, error) {
	cfg, err := env.ParseAs[T]()
	if err == nil {
		return cfg, nil
	}
	all := []error{err}
	if many, ok := errors.AsType[env.AggregateError](err); ok {
		all = many.Errors
	}
	lines := make([]string, len(all))
	for i, err := range all {
		lines[i] = explain(reflect.TypeFor[T](), err)
	}
	return cfg, errors.New(strings.Join(lines, "; "))
}

// explain words what is wrong with one setting. env names the Go field of a
// value that does not parse, which whoever sets the variable has never seen.
func explain(config reflect.Type, err error) string {
	wrong, ok := errors.AsType[env.ParseError](err)
	if !ok {
		return err.Error()
	}
	name := wrong.Name
	if field, found := config.FieldByName(wrong.Name); found {
		name, _, _ = strings.Cut(field.Tag.Get("env"), ",")
	}
	return fmt.Sprintf("%s: want %s", name, form(wrong.Type))
}

// form says how a value of a type is written.
func form(t reflect.Type) string {
	if t == reflect.TypeFor[time.Duration]() {
		return "a time such as 90s, 12h or 720h"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number, 0 or more"
	case reflect.Float32, reflect.Float64:
		return "a number"
	}
	return "another value"
}
