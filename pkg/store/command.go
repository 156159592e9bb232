package store

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
)

// Command is what became of a command: the durable answer to whoever asks for
// it, and what a repeated delivery publishes again.
type Command struct {
	ID, Tenant, Kind, ResourceID, Action, PrincipalID string

	Status events.Status
	// Code and Reason say why it was rejected, failed or is retried.
	Code, Reason string
	// Version is the resource's version after the command.
	Version  int64
	Attempts int
	// Fingerprint is the hex SHA-256 of what the client asked for.
	Fingerprint string
	// Key stands for the idempotency key, "" for none. One command has it: the first.
	Key string
	// Queued says that it was left to the role worker, whose outcome it then has.
	Queued bool
	// DecisionID is the decision that was acted on.
	DecisionID string
	// Sequence is the command's address on the ledger (events.Address).
	Sequence uint64
	// Result is the resource after the command, so that a retry gets the same
	// answer; nil for none.
	Result json.RawMessage
	// Outcome and Apply are the exact bytes of the outcome and of the second
	// decision; nil for none.
	Outcome, Apply json.RawMessage
	// IssuedAt is when the api took it, At when the worker last did something
	// about it. Whole microseconds are kept.
	IssuedAt, At time.Time
}

var commandColumns = []string{
	`"id"`, `"tenant"`, `"kind"`, `"resource_id"`, `"action"`, `"principal_id"`, `"status"`, `"code"`, `"reason"`,
	`"version"`, `"attempts"`, `"fingerprint"`, `"decision_id"`, `"sequence"`, `"result"`, `"outcome"`, `"apply"`,
	`"issued_at"`, `"at"`, `"key"`, `"queued"`,
}

func (c *Command) values() []any {
	return []any{
		c.ID, c.Tenant, c.Kind, c.ResourceID, c.Action, c.PrincipalID, string(c.Status), c.Code, c.Reason,
		c.Version, int64(c.Attempts), c.Fingerprint, c.DecisionID, int64(c.Sequence),
		blob(c.Result), blob(c.Outcome), blob(c.Apply), kind.ToMicros(c.IssuedAt), kind.ToMicros(c.At),
		orNull(c.Key), c.Queued,
	}
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func blob(raw json.RawMessage) any {
	if len(raw) == 0 {
		return nil
	}
	return []byte(raw)
}

// commandRow is a command as it is scanned.
type commandRow struct {
	Command
	sequence, issuedAt, at int64
	key                    *string
	byKey                  string // instead of key, where it was asked for
}

// dest is in the order of commandColumns.
func (r *commandRow) dest() []any {
	return []any{
		&r.ID, &r.Tenant, &r.Kind, &r.ResourceID, &r.Action, &r.PrincipalID, (*string)(&r.Status), &r.Code, &r.Reason,
		&r.Version, &r.Attempts, &r.Fingerprint, &r.DecisionID, &r.sequence,
		(*[]byte)(&r.Result), (*[]byte)(&r.Outcome), (*[]byte)(&r.Apply), &r.issuedAt, &r.at,
		&r.key, &r.Queued,
	}
}

func (r *commandRow) command() Command {
	c := r.Command
	c.Sequence = uint64(r.sequence)
	if c.Key = r.byKey; r.key != nil {
		c.Key = *r.key
	}
	c.IssuedAt, c.At = kind.FromMicros(r.issuedAt), kind.FromMicros(r.at)
	return c
}

// commands is the table of commands, for the statements over many rows, and
// commandsByKey the same, by idempotency key.
var (
	commands = &table{
		name: `"commands"`, columns: commandColumns, types: commandTypes,
		fresh: func() (any, *string, []any) {
			r := &commandRow{}
			return r, &r.ID, r.dest()
		},
	}
	commandsByKey = &table{
		name: `"commands"`, columns: commandColumns, types: commandTypes, by: `"key"`,
		fresh: func() (any, *string, []any) {
			r := &commandRow{}
			dest := r.dest()
			dest[slices.Index(commandColumns, `"key"`)] = &r.byKey
			return r, &r.byKey, dest
		},
	}
	commandTypes = strings.Fields("text text text text text text text text text bigint bigint text text bigint bytea bytea bytea bigint bigint text boolean")
)
