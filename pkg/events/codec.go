package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// What reading or verifying an event can report.
var (
	ErrMalformed = errors.New("malformed event")
	ErrVersion   = errors.New("unknown event version")
	ErrSeal      = errors.New("bad seal")
	ErrMismatch  = errors.New("command does not fit its decision")
	ErrExpired   = errors.New("writ has expired")
)

// The event types. The number is the major version: readers ignore fields that
// they do not know and refuse versions that they do not know.
const (
	TypeWrit     = "writ.command.v1"
	TypeDecision = "writ.decision.v1"
	TypeOutcome  = "writ.outcome.v1"
	// TypeCheckpoint is the auditor's.
	TypeCheckpoint = "writ.checkpoint.v1"
)

// MaxEvent is the size of the largest event, in bytes: a body of 1 MiB, its
// decision and the envelope.
const MaxEvent = 1<<20 + 256<<10

// MaxRecord is the size of the largest decision or outcome, in bytes: the audit
// log is served as entry bundles (C2SP tlog-tiles), which write lengths as two
// bytes. What is larger is refused where it is made.
const MaxRecord = 1<<16 - 1

// Leeway is how far the clocks of api and worker may differ when a writ's
// expiry is judged.
const Leeway = time.Minute

// Message is an event ready for the ledger, which puts those that are appended
// at the same moment into one message.
type Message struct {
	ID string // the CloudEvents id
	// Subject is where it goes; "" for a command, which goes to the shard of Resource.
	Subject  string
	Resource string // the id of the resource, for a command
	Data     []byte
	// Trace is the W3C traceparent that the event is to carry; "" for none.
	Trace string
}

// Event is an event read from the ledger. The Raw fields alias the message.
type Event struct {
	ID   string
	Type string
	Time time.Time
	Seal Seal
	// Trace is the W3C traceparent, "" for none. It is not sealed.
	Trace string

	RawDecision   json.RawMessage
	RawCommand    json.RawMessage
	RawOutcome    json.RawMessage
	RawCheckpoint json.RawMessage

	Decision   Decision   // set for TypeWrit and TypeDecision
	Command    Command    // set for TypeWrit
	Outcome    Outcome    // set for TypeOutcome
	Checkpoint Checkpoint // set for TypeCheckpoint
}

// NewWrit binds the command to the decision, seals the decision and encodes
// both as one message whose id is the command's. d.Command is overwritten;
// the writ expires at expires. source is one of the Source constants.
func NewWrit(keys *Keyring, source string, d *Decision, c *Command, expires time.Time) (Message, error) {
	rawCommand, err := marshal(c)
	if err != nil {
		return Message{}, fmt.Errorf("encode command %s: %w", c.ID, err)
	}
	d.Command = &CommandRef{ID: c.ID, SHA256: Digest(rawCommand), Expires: expires.UTC()}
	rawDecision, err := marshal(d)
	if err != nil {
		return Message{}, fmt.Errorf("encode decision %s: %w", d.ID, err)
	}
	m := Message{ID: c.ID, Resource: c.ResourceID}
	m.Data = encode(header{id: m.ID, kind: TypeWrit, source: source, subject: c.Kind + "/" + c.ResourceID, at: c.IssuedAt},
		keys.Seal(rawDecision), part{"decision", rawDecision}, part{"command", rawCommand})
	return m, errors.Join(bounded("decision", d.ID, rawDecision), sized(m))
}

// The sources of events: which service took the decision, applied the command
// or signed the checkpoint.
const (
	SourceAPI     = "/writ/api"
	SourceWorker  = "/writ/worker"
	SourceAuditor = "/writ/auditor"
)

// RouteJob begins the route of what a background job of the worker's asked for.
const RouteJob = "job "

// NewDecision seals and encodes a decision that permits no command.
func NewDecision(keys *Keyring, source string, d *Decision) (Message, error) {
	raw, err := marshal(d)
	if err != nil {
		return Message{}, fmt.Errorf("encode decision %s: %w", d.ID, err)
	}
	return DecisionMessage(keys, source, d, raw)
}

// DecisionMessage encodes a decision whose bytes exist already.
func DecisionMessage(keys *Keyring, source string, d *Decision, raw []byte) (Message, error) {
	m := Message{ID: d.ID, Subject: SubjectDecisions}
	m.Data = encode(header{id: m.ID, kind: TypeDecision, source: source, subject: d.Resource.Kind + "/" + d.Resource.ID, at: d.EvaluatedAt},
		keys.Seal(raw), part{"decision", raw})
	return m, errors.Join(bounded("decision", d.ID, raw), sized(m))
}

// NewOutcome seals and encodes an outcome. Its subject is for the caller to
// say: OutcomeSubject or SubjectStytchOutcomes.
func NewOutcome(keys *Keyring, o *Outcome) (Message, error) {
	raw, err := marshal(o)
	if err != nil {
		return Message{}, fmt.Errorf("encode outcome %s: %w", o.ID, err)
	}
	return OutcomeMessage(keys, o, raw)
}

// OutcomeMessage encodes an outcome whose bytes exist already.
func OutcomeMessage(keys *Keyring, o *Outcome, raw []byte) (Message, error) {
	m := Message{ID: o.ID}
	m.Data = encode(header{id: m.ID, kind: TypeOutcome, source: SourceWorker, subject: o.Kind + "/" + o.ResourceID, at: o.At},
		keys.Seal(raw), part{"outcome", raw})
	return m, errors.Join(bounded("outcome", o.ID, raw), sized(m))
}

// EncodeDecision gives a decision's bytes, for DecisionMessage.
func EncodeDecision(d *Decision) ([]byte, error) { return marshal(d) }

// EncodeOutcome gives an outcome's bytes, for OutcomeMessage.
func EncodeOutcome(o *Outcome) ([]byte, error) { return marshal(o) }

// marshal encodes without escaping <, > and &, which would make a body up to
// six times as large on the ledger as it was on arrival.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// bounded reports a record that is too large to be one.
func bounded(what, id string, raw []byte) error {
	if len(raw) > MaxRecord {
		return fmt.Errorf("%w: %s %s of %d bytes, at most %d", ErrMalformed, what, id, len(raw), MaxRecord)
	}
	return nil
}

func sized(m Message) error {
	if len(m.Data) > MaxEvent {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(m.Data), MaxEvent)
	}
	return nil
}

type header struct {
	id, kind, source, subject string
	at                        time.Time
}

type part struct {
	name string
	raw  []byte
}

// encode writes the envelope by hand: encoding/json would copy, and could
// re-indent, the parts, whose bytes must stay as they are.
func encode(h header, s Seal, parts ...part) []byte {
	size := 320 + len(h.id) + len(h.subject) + len(s.MAC)
	for _, p := range parts {
		size += len(p.raw) + 16
	}
	b := make([]byte, 0, size)
	b = append(b, opening+`"id":`...)
	b = appendString(b, h.id)
	b = append(b, `,"source":`...)
	b = appendString(b, h.source)
	b = append(b, `,"type":`...)
	b = appendString(b, h.kind)
	b = append(b, `,"subject":`...)
	b = appendString(b, h.subject)
	b = append(b, `,"time":"`...)
	b = h.at.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","datacontenttype":"application/json","data":{`...)
	for _, p := range parts {
		b = append(b, '"')
		b = append(b, p.name...)
		b = append(b, `":`...)
		b = append(b, p.raw...)
		b = append(b, ',')
	}
	b = append(b, `"seal":{"kid":`...)
	b = appendString(b, s.KeyID)
	b = append(b, `,"mac":`...)
	b = appendString(b, s.MAC)
	return append(b, `}}}`...)
}

func appendString(b []byte, s string) []byte {
	if !plain(s) {
		q, _ := json.Marshal(s) // never fails: a string
		return append(b, q...)
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// plain reports whether encoding/json writes s between quotes as it is. Ids,
// subjects and seals are; asking costs less than having them encoded.
func plain(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ', c > '~', c == '"', c == '\\', c == '<', c == '>', c == '&':
			return false
		}
	}
	return true
}

// Parse reads an event; there is none beside an error, which is ErrMalformed or
// ErrVersion. It does not look at the seal: see Verify.
func Parse(data []byte) (*Event, error) {
	e := &Event{}
	if err := envelope(e, data); err != nil {
		return nil, err
	}
	if err := e.read(); err != nil {
		return nil, err
	}
	return e, nil
}

// parseAny reads into e, which is zero, the envelope of any CloudEvents JSON document.
func parseAny(e *Event, data []byte) error {
	var env struct {
		SpecVersion string    `json:"specversion"`
		ID          string    `json:"id"`
		Type        string    `json:"type"`
		Time        time.Time `json:"time"`
		Trace       string    `json:"traceparent"`
		Data        struct {
			Decision   json.RawMessage `json:"decision"`
			Command    json.RawMessage `json:"command"`
			Outcome    json.RawMessage `json:"outcome"`
			Checkpoint json.RawMessage `json:"checkpoint"`
			Seal       Seal            `json:"seal"`
		} `json:"data"`
	}
	if err := json.Unmarshal(data, &env); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if env.SpecVersion != "1.0" {
		return fmt.Errorf("%w: CloudEvents specversion %q", ErrVersion, env.SpecVersion)
	}
	if env.ID == "" {
		return fmt.Errorf("%w: no id", ErrMalformed)
	}
	e.ID, e.Type, e.Time, e.Seal, e.Trace = env.ID, env.Type, env.Time, env.Data.Seal, env.Trace
	e.RawDecision, e.RawCommand, e.RawOutcome, e.RawCheckpoint = env.Data.Decision, env.Data.Command, env.Data.Outcome, env.Data.Checkpoint
	return nil
}

func read(name string, raw json.RawMessage, into any) error {
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return fmt.Errorf("%w: no %s", ErrMalformed, name)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrMalformed, name, err)
	}
	return nil
}

// Verify checks an event against the subject on which it stood: the seal, and
// for a writ that decision and command belong together and permit this act.
// It reports ErrSeal or ErrMismatch. It does not judge the expiry (see Expired)
// nor whether a command stands in the right shard: see InShard.
func (e *Event) Verify(keys *Keyring, subject string) error {
	if e.Type == TypeOutcome {
		if err := keys.Verify(e.RawOutcome, e.Seal); err != nil {
			return err
		}
		o := &e.Outcome
		return fits(
			match{"id", e.ID, o.ID},
			match{"subject", below(prefixOutcome, subject), prefixOutcome},
		)
	}
	if e.Type == TypeCheckpoint {
		if err := keys.Verify(e.RawCheckpoint, e.Seal); err != nil {
			return err
		}
		return fits(
			match{"id", e.ID, e.Checkpoint.ID},
			match{"subject", subject, CheckpointSubject(e.Checkpoint.Key)},
		)
	}
	if err := keys.Verify(e.RawDecision, e.Seal); err != nil {
		return err
	}
	d := &e.Decision
	if e.Type == TypeDecision {
		if d.Stage == StageRequest && d.Command != nil {
			return fmt.Errorf("%w: the decision was taken out of its writ", ErrMismatch)
		}
		on := match{"subject", subject, SubjectDecisions}
		if d.Stage == StageApply { // it stands before the outcome that it led to
			on = match{"subject", below(prefixOutcome, subject), prefixOutcome}
		}
		return fits(match{"id", e.ID, d.ID}, on)
	}
	c := &e.Command
	if d.Command == nil || d.Effect != Allow || d.Stage != StageRequest {
		return fmt.Errorf("%w: the decision permits no command", ErrMismatch)
	}
	return fits(
		match{"digest", Digest(e.RawCommand), d.Command.SHA256},
		match{"id", e.ID, c.ID},
		match{"command", c.ID, d.Command.ID},
		match{"principal", c.PrincipalID, d.Principal.ID},
		match{"action", c.Action, d.Action},
		match{"kind", c.Kind, d.Resource.Kind},
		match{"resource", c.ResourceID, d.Resource.ID},
		match{"tenant", c.Tenant, d.Tenant},
		match{"subject", below(prefixCommand, subject), prefixCommand},
	)
}

// below gives prefix if subject is one of those that begin with it, else nothing.
func below(prefix, subject string) string {
	if strings.HasPrefix(subject, prefix) && subject != prefix {
		return prefix
	}
	return ""
}

// InShard reports ErrMismatch for a command that does not belong into the shard
// in which it stood: applied there it would leave its resource's order.
func (e *Event) InShard(shard, shards int) error {
	if want := Shard(e.Command.ResourceID, shards); want != shard {
		return fmt.Errorf("%w: a command of shard %d in shard %d", ErrMismatch, want, shard)
	}
	return nil
}

// Expired reports ErrExpired when the writ's permission had ended at now, with
// Leeway for clocks that differ.
func (e *Event) Expired(now time.Time) error {
	if c := e.Decision.Command; c != nil && now.After(c.Expires.Add(Leeway)) {
		return fmt.Errorf("%w: at %s", ErrExpired, c.Expires.Format(time.RFC3339))
	}
	return nil
}

type match struct{ what, have, want string }

func fits(all ...match) error {
	var wrong []string
	for _, m := range all {
		if m.have != m.want {
			wrong = append(wrong, m.what)
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%w: %s", ErrMismatch, strings.Join(wrong, ", "))
	}
	return nil
}
