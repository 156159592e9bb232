package events_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/events"
)

// What is skimmed is verified like what is read as a whole, on any subject and
// with any byte changed.
func TestSkimRefusesWhatParseRefuses(t *testing.T) {
	k := ring(t, key1)
	for name, m := range examples(t) {
		for i := -1; i < len(m.Data); i++ {
			data := bytes.Clone(m.Data)
			if i >= 0 {
				data[i] ^= 1
			}
			for _, subject := range []string{subjectOf(m), subjectOf(m) + "x"} {
				verdict := func(e *events.Event, err error) error {
					if err == nil {
						err = e.Verify(k, subject)
					}
					return err
				}
				parsed, skimmed := verdict(events.Parse(data)), verdict(skim(data))
				if (parsed == nil) != (skimmed == nil) {
					t.Fatalf("%s, byte %d on %s: %v, skimmed: %v", name, i, subject, parsed, skimmed)
				}
			}
		}
		full, err := events.Parse(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		e, err := skim(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(e.RawDecision, full.RawDecision) || !bytes.Equal(e.RawOutcome, full.RawOutcome) || e.Decision.ID != full.Decision.ID ||
			!sameOutcome(e.Outcome, full.Outcome) || e.Checkpoint != full.Checkpoint {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

func sameOutcome(a, b events.Outcome) bool {
	return a.ID == b.ID && a.CommandID == b.CommandID && a.Kind == b.Kind && a.Action == b.Action && a.Status == b.Status &&
		a.DecisionID == b.DecisionID && a.Sequence == b.Sequence
}

func TestRecordsThatAreTooLargeAreRefused(t *testing.T) {
	k := ring(t, key1)
	large := json.RawMessage(`"` + strings.Repeat("x", events.MaxRecord) + `"`)
	d := decision()
	d.Plan = large
	if _, err := events.NewDecision(k, events.SourceAPI, d); !errors.Is(err, events.ErrMalformed) {
		t.Errorf("decision: %v", err)
	}
	if _, err := events.NewWrit(k, events.SourceAPI, d, commandOf(d), at); !errors.Is(err, events.ErrMalformed) {
		t.Errorf("writ: %v", err)
	}
	o := outcome()
	o.Reason = string(large)
	if _, err := events.NewOutcome(k, o); !errors.Is(err, events.ErrMalformed) {
		t.Errorf("outcome: %v", err)
	}
	m, _ := events.NewDecision(k, events.SourceAPI, d) // made, but not to be sent
	if _, err := events.Parse(m.Data); !errors.Is(err, events.ErrMalformed) {
		t.Errorf("read: %v", err)
	}
}

func TestSealsAsText(t *testing.T) {
	s := events.Seal{KeyID: "a.b", MAC: "x-_"}
	if got, err := events.ParseSeal(s.String()); err != nil || got != s {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "x", ".x"} {
		if _, err := events.ParseSeal(bad); !errors.Is(err, events.ErrSeal) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// What members reads is what encoding/json reads.
func FuzzSkim(f *testing.F) {
	for _, m := range examples(f) {
		f.Add(m.Data)
	}
	f.Add([]byte(`{"specversion":"1.0","id":"a","source":"s","type":"writ.decision.v1","subject":"x","time":"2026-03-04T05:06:07Z","datacontenttype":"application/json",` +
		`"data":{"decision":{"id":"d","tenant":"a\\\"b","principal":{"roles":["]","}"],"id":"p"},"resource":{"kind":"k"},"plan":[{"a":"\\"},1,null],"took_us":-1e3},"seal":{"kid":"k","mac":"m"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		full, err := events.Parse(data)
		if err != nil {
			return // what is no event may be skimmed: its seal will not fit
		}
		e, err := skim(data)
		if err != nil {
			t.Fatalf("parsed but not skimmed: %v", err)
		}
		d, want := e.Decision, full.Decision
		if d.ID != want.ID || d.Stage != want.Stage || d.Tenant != want.Tenant || d.Principal.ID != want.Principal.ID || d.Resource.Kind != want.Resource.Kind ||
			d.Resource.ID != want.Resource.ID || d.Action != want.Action || d.Effect != want.Effect || (d.Command == nil) != (want.Command == nil) ||
			d.Command != nil && (d.Command.ID != want.Command.ID || d.Command.SHA256 != want.Command.SHA256) {
			t.Fatalf("%+v, want %+v", d, want)
		}
		if !sameOutcome(e.Outcome, full.Outcome) {
			t.Fatalf("%+v, want %+v", e.Outcome, full.Outcome)
		}
		if c, want := e.Command, full.Command; c.ID != want.ID || c.Kind != want.Kind || c.ResourceID != want.ResourceID || c.Action != want.Action ||
			c.Tenant != want.Tenant || c.PrincipalID != want.PrincipalID {
			t.Fatalf("%+v, want %+v", c, want)
		}
	})
}

// used is what skim reads into: there was another event before.
var used events.Event

func skim(data []byte) (*events.Event, error) {
	err := events.Skim(&used, data)
	return &used, err
}
