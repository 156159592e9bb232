package events_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The keys of the golden files: fixed, so that seals are, too.
const (
	key1 = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
	key2 = "k2:ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="
)

var at = time.Date(2026, 3, 4, 5, 6, 7, 890123000, time.UTC)

func ring(t testing.TB, text string) *events.Keyring {
	t.Helper()
	k, err := events.ParseKeyring(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func decision() *events.Decision {
	return &events.Decision{
		ID: "019d0000-0000-7000-8000-000000000001", Stage: events.StageRequest, Tenant: "acme",
		Principal: events.Principal{ID: "user-1", Version: 7, Roles: []string{"member"}, Attr: map[string]any{"team": "r&d <north>"}},
		Resource: events.Resource{Kind: "contact", ID: "019d0000-0000-7000-8000-0000000000aa", Version: 3,
			Attr: map[string]any{"owner_id": "user-1", "is_active": true}},
		Action: "update", Effect: events.Allow,
		Policy: events.Policy{Matched: "resource.contact.vdefault", DerivedRoles: []string{"owner"}, Revision: "sha256:aa"},
		CallID: "call-1", EvaluatedAt: at, TookMicros: 81,
		Request: events.RequestInfo{ID: "req-1", Method: "PATCH", Route: "/v1/contacts/{id}", Remote: "192.0.2.1"},
		TraceID: "4bf92f3577b34da6a3ce929d0e0e4736",
	}
}

func commandOf(d *events.Decision) *events.Command {
	return &events.Command{
		ID: "019d0000-0000-7000-8000-0000000000cc", Kind: d.Resource.Kind, ResourceID: d.Resource.ID, Action: d.Action,
		Tenant: d.Tenant, PrincipalID: d.Principal.ID, Body: json.RawMessage(`{"first_name":"Zoë <z@example.org> & co"}`),
		IfMatch: []int64{3}, Fingerprint: strings.Repeat("ab", 32), ReplyTo: "writ.wait.api-1", IssuedAt: at,
	}
}

func outcome() *events.Outcome {
	return &events.Outcome{
		ID: events.OutcomeID("019d0000-0000-7000-8000-0000000000cc"), CommandID: "019d0000-0000-7000-8000-0000000000cc",
		Kind: "contact", ResourceID: "019d0000-0000-7000-8000-0000000000aa", Action: "update", Tenant: "acme",
		Status: events.StatusApplied, Version: 4, DecisionID: "019d0000-0000-7000-8000-000000000001",
		Sequence: 42, Attempts: 1, At: at, TraceID: "4bf92f3577b34da6a3ce929d0e0e4736",
	}
}

func denial() *events.Decision {
	d := decision()
	d.Effect, d.Action, d.Policy.Reason = events.Deny, "view:approver", "not yours"
	return d
}

// writ makes the message of a command that d permits.
func writ(t testing.TB, k *events.Keyring, d *events.Decision, c *events.Command) events.Message {
	t.Helper()
	m, err := events.NewWrit(k, events.SourceAPI, d, c, at.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// subjectOf is where a message stands on the ledger: a command in shard 1.
func subjectOf(m events.Message) string {
	if m.Subject == "" {
		return events.CommandSubject(1)
	}
	return m.Subject
}

// examples are one message of each type, v1.
func examples(t testing.TB) map[string]events.Message {
	t.Helper()
	k := ring(t, key1)
	d := decision()
	out := map[string]events.Message{"writ": writ(t, k, d, commandOf(d))}
	var err error
	if out["decision"], err = events.NewDecision(k, events.SourceAPI, denial()); err != nil {
		t.Fatal(err)
	}
	o, err := events.NewOutcome(k, outcome())
	if err != nil {
		t.Fatal(err)
	}
	o.Subject = events.OutcomeSubject(1)
	out["outcome"] = o
	if out["checkpoint"], err = events.NewCheckpoint(k, checkpoint()); err != nil {
		t.Fatal(err)
	}
	return out
}

func checkpoint() *events.Checkpoint {
	return &events.Checkpoint{
		ID: events.CheckpointID("0a1b2c3d", 2, 0), Key: "0a1b2c3d", Sequence: 3, At: at,
		Decisions: "writ/test/decisions\n2\nnND/nri/U0xuHUrYSy0HtMeal2vzD9V4k/BO79C+QeI=\n\n— writ/test/decisions Kh0c\n",
		Outcomes:  "writ/test/outcomes\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n— writ/test/outcomes Kh0c\n",
	}
}

func parse(t testing.TB, data []byte) *events.Event {
	t.Helper()
	e, err := events.Parse(data)
	if err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	return e
}

func golden(t *testing.T, name string, have []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, have, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != string(want) {
		t.Errorf("%s differs; what stands on ledgers cannot change within a version\nhave %s\nwant %s", path, have, want)
	}
}
