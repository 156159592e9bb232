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
	if skimOwn(e, data) {
		return nil
	}
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

// skimOwn is Skim for messages in the form that encode writes, and looks once for where
// their parts end: it takes for the last one what lies before the seal, and Members
// tells whether that is one object. It reports false for everything else.
func skimOwn(e *Event, data []byte) bool {
	*e = Event{}
	if len(data) > MaxEvent || !parseWith(e, data, (*scanner).untilSeal) || len(e.RawDecision) > MaxRecord || len(e.RawOutcome) > MaxRecord {
		return false
	}
	switch e.Type {
	case TypeWrit:
		return ownDecision(e) && ownCommand(e)
	case TypeDecision:
		return ownDecision(e)
	case TypeOutcome:
		return ownOutcome(e)
	}
	return false
}

// skimDecision reads what Verify needs of a decision as writ encodes it, and
// leaves anything else to encoding/json.
func skimDecision(e *Event) error {
	if ownDecision(e) {
		return nil
	}
	e.Decision = Decision{}
	return read("decision", e.RawDecision, &e.Decision)
}

func ownDecision(e *Event) bool {
	d := &e.Decision
	return Members(e.RawDecision, func(name, v []byte) bool {
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
	})
}

func skimCommand(e *Event) error {
	if ownCommand(e) {
		return nil
	}
	e.Command = Command{}
	return read("command", e.RawCommand, &e.Command)
}

func ownCommand(e *Event) bool {
	c := &e.Command
	return Members(e.RawCommand, func(name, v []byte) bool {
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
	})
}

func skimOutcome(e *Event) error {
	if ownOutcome(e) {
		return nil
	}
	e.Outcome = Outcome{}
	return read("outcome", e.RawOutcome, &e.Outcome)
}

func ownOutcome(e *Event) bool {
	o := &e.Outcome
	return Members(e.RawOutcome, func(name, v []byte) bool {
		switch string(name) {
		case "id":
			return text(v, &o.ID)
		case "command_id":
			return text(v, &o.CommandID)
		case "kind":
			return text(v, &o.Kind)
		case "resource_id":
			return text(v, &o.ResourceID)
		case "action":
			return text(v, &o.Action)
		case "tenant":
			return text(v, &o.Tenant)
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
	})
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
