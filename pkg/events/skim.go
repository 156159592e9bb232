package events

import (
	"errors"
	"fmt"
)

// Skim is Parse for whoever copies records: of decisions and commands it reads
// the fields that Verify looks at, and leaves the others zero. With Verify it
// refuses what Parse and Verify refuse, as far as it was made by a holder of the
// keys.
func Skim(data []byte) (*Event, error) {
	e, err := envelope(data)
	if err != nil {
		return nil, err
	}
	switch e.Type {
	case TypeWrit:
		err = errors.Join(skimDecision(e), skimCommand(e))
	case TypeDecision:
		err = skimDecision(e)
	default:
		err = e.read()
	}
	if err != nil {
		return nil, err
	}
	return e, nil
}

func skimDecision(e *Event) error {
	var d struct {
		ID        string `json:"id"`
		Stage     Stage  `json:"stage"`
		Tenant    string `json:"tenant"`
		Principal struct {
			ID string `json:"id"`
		} `json:"principal"`
		Resource struct {
			Kind string `json:"kind"`
			ID   string `json:"id"`
		} `json:"resource"`
		Action  string      `json:"action"`
		Effect  Effect      `json:"effect"`
		Command *CommandRef `json:"command"`
	}
	err := read("decision", e.RawDecision, &d)
	e.Decision = Decision{
		ID: d.ID, Stage: d.Stage, Tenant: d.Tenant, Principal: Principal{ID: d.Principal.ID},
		Resource: Resource{Kind: d.Resource.Kind, ID: d.Resource.ID}, Action: d.Action, Effect: d.Effect, Command: d.Command,
	}
	return err
}

func skimCommand(e *Event) error {
	var c struct {
		ID          string `json:"id"`
		Kind        string `json:"kind"`
		ResourceID  string `json:"resource_id"`
		Action      string `json:"action"`
		Tenant      string `json:"tenant"`
		PrincipalID string `json:"principal_id"`
	}
	err := read("command", e.RawCommand, &c)
	e.Command = Command{ID: c.ID, Kind: c.Kind, ResourceID: c.ResourceID, Action: c.Action, Tenant: c.Tenant, PrincipalID: c.PrincipalID}
	return err
}

// envelope reads an event without its parts.
func envelope(data []byte) (*Event, error) {
	if len(data) > MaxEvent {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(data), MaxEvent)
	}
	e, ok := parseOwn(data)
	if !ok {
		var err error
		if e, err = parseAny(data); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(bounded("decision", e.ID, e.RawDecision), bounded("outcome", e.ID, e.RawOutcome)); err != nil {
		return nil, err
	}
	return e, nil
}

// read reads the event's parts.
func (e *Event) read() error {
	switch e.Type {
	case TypeWrit:
		return errors.Join(read("decision", e.RawDecision, &e.Decision), read("command", e.RawCommand, &e.Command))
	case TypeDecision:
		return read("decision", e.RawDecision, &e.Decision)
	case TypeOutcome:
		return read("outcome", e.RawOutcome, &e.Outcome)
	case TypeCheckpoint:
		return read("checkpoint", e.RawCheckpoint, &e.Checkpoint)
	}
	return fmt.Errorf("%w: type %q", ErrVersion, e.Type)
}
