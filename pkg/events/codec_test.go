package events_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
)

func TestMessagesOfVersion1NeverChange(t *testing.T) {
	for name, m := range examples(t) {
		golden(t, name+".v1.json", m.Data)
		e := parse(t, m.Data)
		if e.ID != m.ID || !e.Time.Equal(at) {
			t.Errorf("%s: id %s, time %s", name, e.ID, e.Time)
		}
		if err := e.Verify(ring(t, key1), subjectOf(m)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMessagesAreCloudEvents checks section 3.1 of CloudEvents 1.0: the
// required attributes, and the forms of the optional ones that we send.
func TestMessagesAreCloudEvents(t *testing.T) {
	for name, m := range examples(t) {
		var ce map[string]any
		if err := json.Unmarshal(m.Data, &ce); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if ce["specversion"] != "1.0" {
			t.Errorf("%s: specversion %v", name, ce["specversion"])
		}
		for _, required := range []string{"id", "source", "type", "subject"} {
			if s, ok := ce[required].(string); !ok || s == "" {
				t.Errorf("%s: %s is %v, want a non-empty string", name, required, ce[required])
			}
		}
		if _, err := url.Parse(ce["source"].(string)); err != nil {
			t.Errorf("%s: source is no URI-reference: %v", name, err)
		}
		if _, err := time.Parse(time.RFC3339, ce["time"].(string)); err != nil {
			t.Errorf("%s: time: %v", name, err)
		}
		if ce["datacontenttype"] != "application/json" {
			t.Errorf("%s: datacontenttype %v", name, ce["datacontenttype"])
		}
		for attribute := range ce {
			if strings.Trim(attribute, "abcdefghijklmnopqrstuvwxyz0123456789") != "" || len(attribute) > 20 {
				t.Errorf("%s: attribute name %q", name, attribute)
			}
		}
	}
}

func TestRecordsKeepTheirBytes(t *testing.T) {
	bodies := map[string]string{
		"markup":       `{"a":"<b>&amp;</b>"}`,
		"unicode":      `{"a":"Zoë 🜁 \u0000 é"}`,
		"separators":   "{\"a\":\"line\u2028paragraph\u2029\"}",
		"big numbers":  `{"a":12345678901234567890123,"b":1e400,"c":0.10,"d":-0}`,
		"nested":       `{"a":{"b":[{"c":[null,true,[]]}]},"decision":{"id":"x"},"seal":{}}`,
		"key order":    `{"z":1,"a":2,"z":3}`,
		"text of JSON": `{"a":"{\"data\":{\"command\":null}}"}`,
		"a list":       `[1,2]`,
		"null":         `null`,
	}
	for name, body := range bodies {
		t.Run(name, func(t *testing.T) {
			k := ring(t, key1)
			d := decision()
			c := commandOf(d)
			c.Body = json.RawMessage(body)
			d.Plan = json.RawMessage(body)
			m := writ(t, k, d, c)
			e := parse(t, m.Data)
			if string(e.Command.Body) != body || string(e.Decision.Plan) != body {
				t.Errorf("body %s, plan %s, want %s", e.Command.Body, e.Decision.Plan, body)
			}
			if e.Decision.Command.SHA256 != events.Digest(e.RawCommand) {
				t.Error("the command's bytes are not the ones that the decision names")
			}
			if err := e.Verify(k, subjectOf(m)); err != nil {
				t.Error(err)
			}
			raw, err := events.EncodeDecision(d)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(raw, e.RawDecision) {
				t.Errorf("decision %s, want %s", e.RawDecision, raw)
			}
			again, err := events.DecisionMessage(k, events.SourceAPI, d, e.RawDecision)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(parse(t, again.Data).RawDecision, e.RawDecision) {
				t.Error("the decision's bytes change when they are sent again")
			}
		})
	}
	o := outcome()
	o.Reason = "<a> & \u2028"
	raw, err := events.EncodeOutcome(o)
	if err != nil {
		t.Fatal(err)
	}
	m, err := events.OutcomeMessage(ring(t, key1), o, raw)
	if err != nil {
		t.Fatal(err)
	}
	if e := parse(t, m.Data); !bytes.Equal(e.RawOutcome, raw) || e.Outcome != *o {
		t.Errorf("outcome %s, want %s", e.RawOutcome, raw)
	}
}

func TestMarkupIsNotEscaped(t *testing.T) {
	d := decision()
	c := commandOf(d)
	c.Body = json.RawMessage(`"` + strings.Repeat("<", 1000) + `"`)
	if m := writ(t, ring(t, key1), d, c); bytes.Contains(m.Data, []byte(`\u003c`)) {
		t.Error("a body grows on its way to the ledger")
	}
}

func TestFieldsOfLaterMinorVersionsAreIgnored(t *testing.T) {
	k := ring(t, key1)
	for name, m := range examples(t) {
		more := strings.Replace(string(m.Data), `{"specversion"`, `{"traceparent":"00-1","later":{"a":[1]},"specversion"`, 1)
		more = strings.Replace(more, `"data":{`, `"data":{"later":1,`, 1)
		e := parse(t, []byte(more))
		if err := e.Verify(k, subjectOf(m)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Inside a sealed record, too: whoever has the key may be newer than the reader.
	d := decision()
	d.Effect = events.Deny
	raw, err := events.EncodeDecision(d)
	if err != nil {
		t.Fatal(err)
	}
	raw = append([]byte(`{"later":{"x":1},`), raw[1:]...)
	m, err := events.DecisionMessage(k, events.SourceAPI, d, raw)
	if err != nil {
		t.Fatal(err)
	}
	e := parse(t, m.Data)
	if err := e.Verify(k, subjectOf(m)); err != nil || !bytes.Equal(e.RawDecision, raw) {
		t.Errorf("%v\n%s", err, e.RawDecision)
	}
}

func TestWhatCannotBeReadIsRefused(t *testing.T) {
	good := string(examples(t)["writ"].Data)
	decisionOnly := string(examples(t)["decision"].Data)
	outcomeOnly := string(examples(t)["outcome"].Data)
	swap := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %s in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	cases := map[string]struct {
		data string
		want error
	}{
		"empty":                  {"", events.ErrMalformed},
		"no JSON":                {"writ", events.ErrMalformed},
		"cut":                    {good[:len(good)-1], events.ErrMalformed},
		"two documents":          {good + good, events.ErrMalformed},
		"a list":                 {"[" + good + "]", events.ErrMalformed},
		"null":                   {"null", events.ErrVersion},
		"empty object":           {"{}", events.ErrVersion},
		"time":                   {swap(`"time":"2026-03-04T`, `"time":"2026-13-04T`), events.ErrMalformed},
		"id is a number":         {swap(`"id":"019d0000-0000-7000-8000-0000000000cc","source"`, `"id":7,"source"`), events.ErrMalformed},
		"no id":                  {swap(`"id":"019d0000-0000-7000-8000-0000000000cc","source"`, `"source"`), events.ErrMalformed},
		"data is a string":       {`{"specversion":"1.0","id":"a","type":"writ.command.v1","time":"2026-03-04T05:06:07Z","data":"x"}`, events.ErrMalformed},
		"no data":                {`{"specversion":"1.0","id":"a","type":"writ.command.v1","time":"2026-03-04T05:06:07Z"}`, events.ErrMalformed},
		"writ without a command": {strings.Replace(decisionOnly, "writ.decision.v1", "writ.command.v1", 1), events.ErrMalformed},
		"writ: decision null":    {`{"specversion":"1.0","id":"a","type":"writ.command.v1","data":{"decision":null,"command":{}}}`, events.ErrMalformed},
		"decision as outcome":    {strings.Replace(decisionOnly, "writ.decision.v1", "writ.outcome.v1", 1), events.ErrMalformed},
		"outcome as decision":    {strings.Replace(outcomeOnly, "writ.outcome.v1", "writ.decision.v1", 1), events.ErrMalformed},
		"command is a list":      {`{"specversion":"1.0","id":"a","type":"writ.command.v1","data":{"decision":{},"command":[]}}`, events.ErrMalformed},
		"decision's types":       {swap(`"version":7`, `"version":"7"`), events.ErrMalformed},
		"command's types":        {swap(`"if_match":[3]`, `"if_match":[3.5]`), events.ErrMalformed},
		"specversion":            {swap(`"specversion":"1.0"`, `"specversion":"2.0"`), events.ErrVersion},
		"no specversion":         {swap(`"specversion":"1.0",`, ``), events.ErrVersion},
		"later major version":    {swap("writ.command.v1", "writ.command.v2"), events.ErrVersion},
		"another's type":         {swap("writ.command.v1", "com.example.order"), events.ErrVersion},
		"too large":              {swap(`"first_name":"`, `"first_name":"`+strings.Repeat("x", events.MaxEvent)), events.ErrMalformed},
	}
	for name, c := range cases {
		e, err := events.Parse([]byte(c.data))
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if e != nil {
			t.Errorf("%s: an event beside the error", name)
		}
	}
}

func TestMessagesAreBounded(t *testing.T) {
	k := ring(t, key1)
	d := decision()
	c := commandOf(d)
	c.Body = json.RawMessage(`"` + strings.Repeat("x", 1<<20) + `"`)
	if m, err := events.NewWrit(k, events.SourceAPI, d, c, at); err != nil || len(m.Data) > events.MaxEvent {
		t.Errorf("a body of 1 MiB: %v", err)
	}
	c.Body = json.RawMessage(`"` + strings.Repeat("x", events.MaxEvent) + `"`)
	if _, err := events.NewWrit(k, events.SourceAPI, d, c, at); !errors.Is(err, events.ErrMalformed) {
		t.Errorf("writ: %v", err)
	}
	d.Command = nil
	d.Plan = c.Body
	if _, err := events.NewDecision(k, events.SourceAPI, d); !errors.Is(err, events.ErrMalformed) {
		t.Errorf("decision: %v", err)
	}
	o := outcome()
	o.Reason = strings.Repeat("x", events.MaxEvent)
	if _, err := events.NewOutcome(k, o); !errors.Is(err, events.ErrMalformed) {
		t.Errorf("outcome: %v", err)
	}
}

func TestWhatCannotBeEncodedIsAnError(t *testing.T) {
	k := ring(t, key1)
	d := decision()
	c := commandOf(d)
	c.Body = json.RawMessage(`{`)
	if _, err := events.NewWrit(k, events.SourceAPI, d, c, at); err == nil {
		t.Error("a broken body was taken")
	}
	c.Body, d.Plan = nil, json.RawMessage(`{`)
	if _, err := events.NewWrit(k, events.SourceAPI, d, c, at); err == nil {
		t.Error("a broken plan was taken in a writ")
	}
	if _, err := events.NewDecision(k, events.SourceAPI, d); err == nil {
		t.Error("a broken plan was taken in a decision")
	}
}

// TestDecisionsHoldNoBody: promise 8. What a decision says of a contact are
// the attributes that policies see; the rest of it is somebody's personal data.
func TestDecisionsHoldNoBody(t *testing.T) {
	personal := map[string]string{
		"first_name": "Zoraida", "last_name": "Quilliam", "email": "zq@private.example", "phone": "+4479460000",
		"company": "Hushhush", "notes": "allergic to peanuts",
	}
	body, err := json.Marshal(personal)
	if err != nil {
		t.Fatal(err)
	}
	row, err := contact.Kind.Create("c1", "acme", "user-1", body, at)
	if err != nil {
		t.Fatal(err)
	}
	d := decision()
	d.Resource.Attr = contact.Kind.Attrs(row)
	c := commandOf(d)
	c.Body = body
	e := parse(t, writ(t, ring(t, key1), d, c).Data)
	if !bytes.Contains(e.RawCommand, []byte("Quilliam")) {
		t.Fatal("the command lost its body")
	}
	for field, value := range personal {
		if bytes.Contains(e.RawDecision, []byte(value)) {
			t.Errorf("the decision holds the contact's %s: %s", field, e.RawDecision)
		}
	}
	changes, err := kind.Names(body)
	if err != nil {
		t.Fatal(err)
	}
	d.Resource.Attr = contact.Kind.ChangeAttrs(row, changes)
	raw, err := events.EncodeDecision(d)
	if err != nil {
		t.Fatal(err)
	}
	for field, value := range personal {
		if bytes.Contains(raw, []byte(value)) {
			t.Errorf("the decision about an update holds the contact's %s", field)
		}
		if !bytes.Contains(raw, []byte(field)) {
			t.Errorf("the decision about an update does not say that it sets %s", field)
		}
	}
}

func TestFinalStatuses(t *testing.T) {
	for s, want := range map[events.Status]bool{
		events.StatusAccepted: false, events.StatusRetrying: false, "": false,
		events.StatusApplied: true, events.StatusRejected: true, events.StatusFailed: true,
	} {
		if s.Final() != want {
			t.Errorf("%q: %v", s, s.Final())
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, m := range examples(f) {
		f.Add(m.Data)
	}
	for _, s := range []string{
		``, `null`, `{}`, `[]`, `{"specversion":"1.0","type":"writ.command.v1","id":"a","data":{"decision":{},"command":{}}}`,
		`{"specversion":"1.0","type":"writ.outcome.v1","id":"a","data":{"outcome":{"status":"applied"}}}`,
		`{"specversion":"1.0","type":"writ.decision.v1","id":"a","DATA":{"Decision":{"Id":"a"}}}`,
		"{\"specversion\":\"1.0\",\"type\":\"writ.decision.v1\",\"id\":\"\xff\",\"data\":{\"decision\":{\"id\":\"\xff\"}}}",
	} {
		f.Add([]byte(s))
	}
	k := ring(f, key1)
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := events.Parse(data)
		if err != nil {
			if e != nil || !errors.Is(err, events.ErrMalformed) && !errors.Is(err, events.ErrVersion) {
				t.Fatalf("event %v, error %v", e, err)
			}
			return
		}
		// Whatever can be read can be judged, and passes only with a seal of ours.
		subject := events.CommandSubject(1)
		if err := e.Verify(k, subject); err == nil {
			record := e.RawDecision
			if e.Type == events.TypeOutcome {
				record = e.RawOutcome
			}
			if k.Verify(record, e.Seal) != nil {
				t.Fatal("verified without a seal")
			}
		}
		_ = fmt.Sprint(e.Expired(at))
		// What is sent on keeps its bytes.
		if e.Type == events.TypeDecision && json.Valid(e.RawDecision) {
			m, err := events.DecisionMessage(k, events.SourceAPI, &e.Decision, e.RawDecision)
			if err != nil {
				return
			}
			again, err := events.Parse(m.Data)
			if err == nil && !bytes.Equal(again.RawDecision, e.RawDecision) {
				t.Fatalf("%s became %s", e.RawDecision, again.RawDecision)
			}
		}
	})
}

func TestSourceIsTheServiceThatWroteTheEvent(t *testing.T) {
	k := ring(t, key1)
	source := func(m events.Message, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		var ce struct{ Source string }
		if err := json.Unmarshal(m.Data, &ce); err != nil {
			t.Fatal(err)
		}
		return ce.Source
	}
	for _, want := range []string{events.SourceAPI, events.SourceWorker, events.SourceAuditor} {
		if have := source(events.NewDecision(k, want, denial())); have != want {
			t.Errorf("a decision's source is %s, want %s", have, want)
		}
		d := decision()
		if have := source(events.NewWrit(k, want, d, commandOf(d), at)); have != want {
			t.Errorf("a writ's source is %s, want %s", have, want)
		}
	}
	if have := source(events.NewOutcome(k, outcome())); have != events.SourceWorker {
		t.Errorf("an outcome's source is %s, want the worker", have)
	}
	if have := source(events.NewCheckpoint(k, checkpoint())); have != events.SourceAuditor {
		t.Errorf("a checkpoint's source is %s, want the auditor", have)
	}
}
