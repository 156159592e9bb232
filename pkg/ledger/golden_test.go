package ledger_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares a message, headers and body, with what stands on ledgers.
func golden(t *testing.T, name string, m *nats.Msg) {
	t.Helper()
	var have bytes.Buffer
	fmt.Fprintf(&have, "%s\n", m.Subject)
	for _, k := range slices.Sorted(maps.Keys(m.Header)) {
		fmt.Fprintf(&have, "%s: %s\n", k, strings.Join(m.Header[k], ", "))
	}
	fmt.Fprintf(&have, "\n%s\n", m.Data)
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, have.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have.Bytes(), want) {
		t.Errorf("%s differs; what stands on ledgers cannot change within a version\nhave %s\nwant %s", path, have.Bytes(), want)
	}
}

// natsMsg is a message as it is stored, without what a read adds.
func natsMsg(raw *jetstream.RawStreamMsg) *nats.Msg {
	for _, added := range []string{"Nats-Sequence", "Nats-Stream", "Nats-Subject", "Nats-Time-Stamp"} {
		raw.Header.Del(added)
	}
	return &nats.Msg{Subject: raw.Subject, Header: raw.Header, Data: raw.Data}
}

// goldenEvents are a writ, a denial, a decision about a list, and a second
// decision with its outcome; all but the last two carry a trace.
func goldenEvents(t *testing.T, keys *events.Keyring) []events.Message {
	t.Helper()
	at := time.Date(2026, 3, 4, 5, 6, 7, 890123000, time.UTC)
	decision := func(id string) *events.Decision {
		return &events.Decision{ID: id, Stage: events.StageRequest, Tenant: "acme", Principal: events.Principal{ID: "user-1"},
			Resource: events.Resource{Kind: "contact", ID: "c1"}, Action: "update", Effect: events.Allow, EvaluatedAt: at}
	}
	var out []events.Message
	add := func(m events.Message, err error) {
		if err != nil {
			t.Fatal(err)
		}
		if len(out) < 3 {
			m.Trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
		}
		out = append(out, m)
	}
	add(events.NewWrit(keys, events.SourceAPI, decision("d1"), &events.Command{ID: "w1", Kind: "contact", ResourceID: "c1", Action: "update", Tenant: "acme",
		PrincipalID: "user-1", Body: json.RawMessage(`{"first_name":"Zoë"}`), IssuedAt: at}, at.Add(time.Hour)))
	denied := decision("d2")
	denied.Effect = events.Deny
	add(events.NewDecision(keys, events.SourceAPI, denied))
	list := decision("d3")
	list.Action, list.Plan = "list", json.RawMessage(`{"kind":"always-allowed"}`)
	add(events.NewDecision(keys, events.SourceAPI, list))
	second := decision("d4")
	second.Stage = events.StageApply
	add(events.NewDecision(keys, events.SourceWorker, second))
	add(events.NewOutcome(keys, &events.Outcome{ID: events.OutcomeID("w1"), CommandID: "w1", Kind: "contact", ResourceID: "c1", Action: "update", Tenant: "acme",
		Status: events.StatusApplied, Version: 2, DecisionID: "d4", Sequence: events.At(7, 3), Attempts: 1, At: at}))
	return out
}
