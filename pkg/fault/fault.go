// Package fault is writ's one error model. An error says what was being done
// and what kind of trouble it is; whoever answers (HTTP status, log level,
// retry or dead letter) decides from the kind in one table and nowhere else.
package fault

import (
	"errors"
	"fmt"
	"time"
)

// Kind is a kind of trouble.
type Kind uint8

// The kinds. The zero value is Internal, so that an error nobody classified is
// never taken for the client's.
const (
	Internal        Kind = iota // a defect of ours
	Malformed                   // the request cannot be read
	Invalid                     // the request can be read but breaks a rule
	TooLarge                    // a limit on size
	Unauthenticated             // no or no valid credentials
	Denied                      // the policy says no
	NotFound                    // no such thing, or none that the principal may know of
	KindConflict                // the state has moved on
	KeyReused                   // the idempotency key stands for another request
	Unavailable                 // a part we depend on does not answer; nothing was done
	Limited                     // too many requests
	Misconfigured               // what an operator has set up cannot answer this; its code and message are for clients
)

// Error is a classified error. Code is stable and for programs; Message is for
// people and holds nothing personal.
type Error struct {
	Kind    Kind
	Code    string
	Message string
	// Fields names the parts of the request that are wrong.
	Fields []Field
	// DecisionID is the decision that denied, for Denied.
	DecisionID string
	// RetryAfter is how long a client should wait, for Unavailable and Limited.
	RetryAfter time.Duration
	// Err is the cause; it is logged, never shown.
	Err error
}

// Field is one wrong part of a request.
type Field struct {
	Location string // body.email, query.limit, header.If-Match
	Message  string
	Value    any
}

// Error gives the message and the cause.
func (e *Error) Error() string {
	if e.Err != nil {
		return e.Message + ": " + e.Err.Error()
	}
	return e.Message
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes an error of a kind.
func New(kind Kind, code, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Message: fmt.Sprintf(format, args...)}
}

// Missing says that a thing does not exist, or must not be known to exist.
func Missing(kind, id string) *Error {
	return New(NotFound, "not-found", "there is no %s %s", kind, id)
}

// Conflict says that the state has moved on.
func Conflict(code, format string, args ...any) *Error {
	return New(KindConflict, code, format, args...)
}

// InvalidField says that one field breaks a rule.
func InvalidField(location, format string, args ...any) *Error {
	message := fmt.Sprintf(format, args...)
	e := New(Invalid, "invalid", "%s: %s", location, message)
	e.Fields = []Field{{Location: location, Message: message}}
	return e
}

// Unreachable says that a part does not answer: name is the dependency as
// /readyz names it.
func Unreachable(name string, err error) *Error {
	e := New(Unavailable, name+"-unavailable", "%s is unavailable", name)
	e.RetryAfter = time.Second
	e.Err = err
	return e
}

// KindOf gives the kind of err: Internal for one that is not classified.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// Is reports whether err is of the kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }
