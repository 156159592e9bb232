package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
)

// Ending is how a command ended.
type Ending struct {
	Status       events.Status
	Code, Reason string
	Version      int64 // of the resource afterwards
	Attempts     int
	Result       json.RawMessage // the resource afterwards
	// Second is the decision that was taken again and Apply its bytes; nil if
	// the command's own held.
	Second *events.Decision
	Apply  []byte
}

// Refused is the ending of a command that cause keeps from being applied: an
// error of pkg/fault rejects it; any other fails it, which dead tells.
func Refused(cause error) (e Ending, dead bool) {
	if f, ok := errors.AsType[*fault.Error](cause); ok && f.Kind != fault.Internal {
		return Ending{Status: events.StatusRejected, Code: f.Code, Reason: f.Message}, false
	}
	return Ending{Status: events.StatusFailed, Code: Code(cause), Reason: Printable(cause.Error())}, true
}

// Settle makes a command's row and the outcome of which it holds the bytes.
func Settle(e *events.Event, address events.Address, end Ending) (store.Command, events.Outcome, error) {
	c, first := &e.Command, &e.Decision
	decision := first.ID
	if end.Second != nil {
		decision = end.Second.ID
	}
	o := events.Outcome{
		ID: events.OutcomeID(c.ID), CommandID: c.ID, Kind: c.Kind, ResourceID: c.ResourceID, Action: c.Action, Tenant: c.Tenant,
		Status: end.Status, Code: end.Code, Reason: end.Reason, Version: end.Version, DecisionID: decision, Sequence: address,
		Attempts: max(end.Attempts, 1), At: Now(), TraceID: first.TraceID,
	}
	raw, err := events.EncodeOutcome(&o)
	if err != nil {
		return store.Command{}, o, err
	}
	row := Row(e, address)
	row.Status, row.Code, row.Reason, row.Version, row.Attempts = o.Status, o.Code, o.Reason, o.Version, o.Attempts
	row.DecisionID, row.Result, row.Outcome, row.Apply, row.At = decision, end.Result, raw, end.Apply, o.At
	return row, o, nil
}

// Row is the row of a command that nothing has been done about.
func Row(e *events.Event, address events.Address) store.Command {
	c := &e.Command
	return store.Command{
		ID: c.ID, Tenant: c.Tenant, Kind: c.Kind, ResourceID: c.ResourceID, Action: c.Action, PrincipalID: c.PrincipalID,
		Status: events.StatusAccepted, Fingerprint: c.Fingerprint, Key: c.Key, DecisionID: e.Decision.ID, Sequence: address,
		IssuedAt: c.IssuedAt, At: Now(),
	}
}

// Messages makes the ledger's events of a command that is done, from what SQL has
// of it: the same records and ids whenever it is called. They carry no subject.
func Messages(keys *events.Keyring, row store.Command) ([]events.Message, error) {
	var second events.Decision
	if len(row.Apply) > 0 {
		if err := json.Unmarshal(row.Apply, &second); err != nil {
			return nil, fmt.Errorf("read the second decision of command %s: %w", row.ID, err)
		}
	}
	var o events.Outcome
	if err := json.Unmarshal(row.Outcome, &o); err != nil {
		return nil, fmt.Errorf("read the outcome of command %s: %w", row.ID, err)
	}
	return Encode(keys, &second, row.Apply, &o, row.Outcome)
}

// Encode makes the events of an outcome and, if there is one, of the second
// decision before it.
func Encode(keys *events.Keyring, second *events.Decision, rawSecond []byte, o *events.Outcome, raw []byte) ([]events.Message, error) {
	out := make([]events.Message, 0, 2)
	if len(rawSecond) > 0 {
		m, err := events.DecisionMessage(keys, events.SourceWorker, second, rawSecond)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	m, err := events.OutcomeMessage(keys, o, raw)
	return append(out, m), err
}

// Notify tells the api instance that waits for a command how it ended.
func Notify(ctx context.Context, l *ledger.Ledger, log *slog.Logger, to string, row store.Command) {
	if to == "" {
		return
	}
	n := events.Notice{CommandID: row.ID, Status: row.Status, Code: row.Code, Reason: row.Reason, Version: row.Version,
		Attempts: row.Attempts, DecisionID: row.DecisionID, Result: row.Result, At: row.At}
	data, err := json.Marshal(n)
	if err == nil {
		err = l.Notify(to, data)
	}
	if err != nil { // the api finds the row in commands
		log.DebugContext(ctx, "nobody was told of an outcome", "command", row.ID, "error", err)
	}
}
