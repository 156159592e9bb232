package events

import (
	"errors"
	"fmt"
	"strconv"
)

// Skim is Parse for whoever copies records: it reads the fields that Verify
// looks at, and of outcomes what they are about, and may leave the others zero. What it does
// not look at need not be JSON: with Verify it refuses what Parse and Verify
// refuse of all that a holder of the keys has sealed. It reads into e, whatever was
// there, which may serve for many messages; after an error e is of no use. What is in e
// refers to data.
func Skim(e *Event, data []byte) error {
	if err := envelope(e, data); err != nil {
		return err
	}
	var err error
	switch e.Type {
	case TypeWrit:
		err = errors.Join(skimDecision(e), skimCommand(e))
	case TypeDecision:
		err = skimDecision(e)
	case TypeOutcome:
		err = skimOutcome(e)
	default:
		err = e.read()
	}
	return err
}

// skimDecision reads what Verify needs of a decision as writ encodes it, and
// leaves anything else to encoding/json.
func skimDecision(e *Event) error {
	d := &e.Decision
	if Members(e.RawDecision, func(name, v []byte) bool {
		switch string(name) {
		case "id":
			return text(v, &d.ID)
		case "stage":
			return text(v, (*string)(&d.Stage))
		case "tenant":
			return text(v, &d.Tenant)
		case "principal":
			return Members(v, func(name, v []byte) bool { return string(name) != "id" || text(v, &d.Principal.ID) })
		case "resource":
			return Members(v, func(name, v []byte) bool {
				switch string(name) {
				case "kind":
					return text(v, &d.Resource.Kind)
				case "id":
					return text(v, &d.Resource.ID)
				}
				return true
			})
		case "action":
			return text(v, &d.Action)
		case "effect":
			return text(v, (*string)(&d.Effect))
		case "command":
			d.Command = &CommandRef{}
			return Members(v, func(name, v []byte) bool {
				switch string(name) {
				case "id":
					return text(v, &d.Command.ID)
				case "sha256":
					return text(v, &d.Command.SHA256)
				}
				return true
			})
		}
		return true
	}) {
		return nil
	}
	*d = Decision{}
	return read("decision", e.RawDecision, d)
}

func skimCommand(e *Event) error {
	c := &e.Command
	if Members(e.RawCommand, func(name, v []byte) bool {
		switch string(name) {
		case "id":
			return text(v, &c.ID)
		case "kind":
			return text(v, &c.Kind)
		case "resource_id":
			return text(v, &c.ResourceID)
		case "action":
			return text(v, &c.Action)
		case "tenant":
			return text(v, &c.Tenant)
		case "principal_id":
			return text(v, &c.PrincipalID)
		}
		return true
	}) {
		return nil
	}
	*c = Command{}
	return read("command", e.RawCommand, c)
}

func skimOutcome(e *Event) error {
	o := &e.Outcome
	if Members(e.RawOutcome, func(name, v []byte) bool {
		switch string(name) {
		case "id":
			return text(v, &o.ID)
		case "command_id":
			return text(v, &o.CommandID)
		case "kind":
			return text(v, &o.Kind)
		case "action":
			return text(v, &o.Action)
		case "status":
			return text(v, (*string)(&o.Status))
		case "decision_id":
			return text(v, &o.DecisionID)
		case "sequence":
			n, err := strconv.ParseUint(string(v), 10, 64)
			o.Sequence = n
			return err == nil && v[0] != '0'
		}
		return true
	}) {
		return nil
	}
	*o = Outcome{}
	return read("outcome", e.RawOutcome, o)
}

// envelope reads an event without its parts into e.
func envelope(e *Event, data []byte) error {
	if len(data) > MaxEvent {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(data), MaxEvent)
	}
	*e = Event{}
	if !parseOwn(e, data) {
		*e = Event{}
		if err := parseAny(e, data); err != nil {
			return err
		}
	}
	return errors.Join(bounded("decision", e.ID, e.RawDecision), bounded("outcome", e.ID, e.RawOutcome))
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
