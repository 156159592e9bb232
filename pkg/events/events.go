// Package events is writ's wire contract: the messages on the ledger, their
// subjects, their encoding and their seal.
//
// An event is a CloudEvents 1.0 JSON document; its bytes are the record. A
// message of the ledger holds 1 to 256 of them, those that were appended at the
// same moment, as a CloudEvents JSON batch (Join, Split). An event's data is one of
//
//	{"decision": <decision>, "command": <command>, "seal": <seal>}   a writ
//	{"decision": <decision>, "seal": <seal>}                         a decision
//	{"outcome": <outcome>, "seal": <seal>}                           an outcome
//	{"checkpoint": <checkpoint>, "seal": <seal>}                     a checkpoint of the audit log
//
// The decision's, command's, outcome's and checkpoint's bytes are encoded once and never
// encoded again: they are what is hashed, sealed and kept in the audit log.
//
// The package imports the standard library only: whoever reads the ledger can
// use it without taking on writ's dependencies.
package events

import (
	"encoding/json"
	"time"
)

// Effect is what a policy says about an action.
type Effect string

// The two effects, as Cerbos names them.
const (
	Allow Effect = "allow"
	Deny  Effect = "deny"
)

// Stage tells when a decision was taken.
type Stage string

const (
	// StageRequest is a decision taken by the api while a request waits.
	StageRequest Stage = "request"
	// StageApply is a decision taken again by the worker, because the one that
	// the command carries had gone stale.
	StageApply Stage = "apply"
)

// Status is where a command has got to.
type Status string

const (
	StatusAccepted Status = "accepted" // on the ledger, not yet applied
	StatusRetrying Status = "retrying" // tried, will be tried again
	StatusApplied  Status = "applied"  // final: its effect is in SQL
	StatusRejected Status = "rejected" // final: refused (denied, conflict, not found)
	StatusFailed   Status = "failed"   // final: could not be processed; there is a dead letter
)

// Final reports whether a command in this status will never change again.
func (s Status) Final() bool {
	return s == StatusApplied || s == StatusRejected || s == StatusFailed
}

// Principal is who asks, as the directory knew them when the decision was taken.
type Principal struct {
	ID string `json:"id"`
	// Version is the version of the principal's directory row; 0 means that
	// there was none.
	Version int64          `json:"version"`
	Roles   []string       `json:"roles"`
	Attr    map[string]any `json:"attr,omitempty"`
}

// Resource is what the principal acts on, with the attributes that were sent
// to Cerbos and no others.
type Resource struct {
	Kind string `json:"kind"`
	// ID is empty for a decision about a list.
	ID string `json:"id,omitempty"`
	// Version is the version of the resource's row; 0 means that it does not exist yet.
	Version int64          `json:"version,omitempty"`
	Attr    map[string]any `json:"attr,omitempty"`
}

// RequestInfo is the HTTP request that a decision answers.
type RequestInfo struct {
	ID     string `json:"id"`
	Method string `json:"method,omitempty"`
	// Route is the pattern, /v1/contacts/{id}, never the path.
	Route  string `json:"route,omitempty"`
	Remote string `json:"remote,omitempty"`
}

// CommandRef binds a decision to the one command that it permits.
type CommandRef struct {
	ID string `json:"id"`
	// SHA256 is the hex digest of the command's bytes.
	SHA256 string `json:"sha256"`
	// Expires is when the permission to apply the command ends.
	Expires time.Time `json:"expires"`
}

// Policy is which rule decided.
type Policy struct {
	// Matched is the name of the policy that matched, as Cerbos reports it.
	Matched string `json:"matched,omitempty"`
	// Scope is the scope in which it matched.
	Scope string `json:"scope,omitempty"`
	// DerivedRoles are the derived roles that were in effect.
	DerivedRoles []string `json:"derived_roles,omitempty"`
	// Revision is the digest of the policy files that were in force. Empty
	// means unknown (a PDP that does not tell): such a decision is always stale.
	Revision string `json:"revision,omitempty"`
	// Reason is what the policy gave as the reason (a policy output).
	Reason string `json:"reason,omitempty"`
}

// Decision is one answer of the policy engine. Its bytes are a leaf of the
// audit log. It never holds the body of a resource.
type Decision struct {
	ID        string    `json:"id"`
	Stage     Stage     `json:"stage"`
	Tenant    string    `json:"tenant"`
	Principal Principal `json:"principal"`
	// Asker is the id of who asked, where somebody asked about another: AuthZEN.
	Asker       string      `json:"asker,omitempty"`
	Resource    Resource    `json:"resource"`
	Action      string      `json:"action"`
	Effect      Effect      `json:"effect"`
	Policy      Policy      `json:"policy"`
	CallID      string      `json:"call_id,omitempty"`
	EvaluatedAt time.Time   `json:"evaluated_at"`
	TookMicros  int64       `json:"took_us"`
	Request     RequestInfo `json:"request"`
	TraceID     string      `json:"trace_id,omitempty"`
	// Plan is Cerbos' query plan, for decisions about lists.
	Plan json.RawMessage `json:"plan,omitempty"`
	// Command is set when the decision permits (stage request) or was taken
	// again for (stage apply) a command.
	Command *CommandRef `json:"command,omitempty"`
}

// Command is an order to change one resource.
type Command struct {
	ID          string `json:"id"`
	Kind        string `json:"kind"`
	ResourceID  string `json:"resource_id"`
	Action      string `json:"action"`
	Tenant      string `json:"tenant"`
	PrincipalID string `json:"principal_id"`
	// Body is the new resource (create), an RFC 7396 merge patch (update), or
	// what another action needs; absent for delete.
	Body json.RawMessage `json:"body,omitempty"`
	// Changes are the names of the fields that the client set, sorted: Body may
	// hold others that the api filled in. Policies see them.
	Changes []string `json:"changes,omitempty"`
	// IfMatch are the versions of which the resource must have one when the
	// command is applied; empty means any.
	IfMatch []int64 `json:"if_match,omitempty"`
	// Key stands for the principal's idempotency key, if there was one: of two
	// commands with one Key and different ids the first one is applied.
	Key string `json:"key,omitempty"`
	// Fingerprint is the hex SHA-256 of what the client asked for, kept to tell
	// a retry under an idempotency key from another request under the same key.
	Fingerprint string `json:"fingerprint,omitempty"`
	// ReplyTo is the core NATS subject of the api instance that waits for the outcome.
	ReplyTo  string    `json:"reply_to,omitempty"`
	IssuedAt time.Time `json:"issued_at"`
}

// Outcome is what became of a command.
type Outcome struct {
	ID         string `json:"id"`
	CommandID  string `json:"command_id"`
	Kind       string `json:"kind"`
	ResourceID string `json:"resource_id"`
	Action     string `json:"action"`
	Tenant     string `json:"tenant"`
	Status     Status `json:"status"`
	// Code and Reason say why a command was rejected or failed. They never hold
	// a resource's content.
	Code   string `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Version is the resource's version after the command.
	Version int64 `json:"version,omitempty"`
	// DecisionID is the decision that was acted on: the command's own, or the
	// second one when the first had gone stale.
	DecisionID string    `json:"decision_id"`
	Sequence   Address   `json:"sequence"` // the command's address on the ledger
	Attempts   int       `json:"attempts"`
	At         time.Time `json:"at"`
	TraceID    string    `json:"trace_id,omitempty"`
}

// OutcomeID is the id of the one final outcome of a command. It is derived, so
// that it is found again on the ledger.
func OutcomeID(commandID string) string { return commandID + ".outcome" }

// Notice is what the api instance that waits for a command is told when it is
// done, over core NATS and without a record: the row in commands is the durable
// answer. It is believed no more than that: it carries no permission.
type Notice struct {
	CommandID string `json:"command_id"`
	Status    Status `json:"status"`
	Code      string `json:"code,omitempty"`
	Reason    string `json:"reason,omitempty"`
	Version   int64  `json:"version,omitempty"`
	Attempts  int    `json:"attempts"`
	// DecisionID is the decision that was acted on.
	DecisionID string          `json:"decision_id"`
	Result     json.RawMessage `json:"result,omitempty"` // the resource after the command
	At         time.Time       `json:"at"`
}
