package outside

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
)

// Seals are a local stack's seal keys.
func Seals(t testing.TB, dev *Dev) *events.Keyring {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dev.Dir, "keys", "secrets.json"))
	if err != nil {
		t.Fatal(err)
	}
	var private struct {
		SealKeys string `json:"seal_keys"`
	}
	if err := json.Unmarshal(b, &private); err != nil {
		t.Fatal(err)
	}
	keys, err := events.ParseKeyring(private.SealKeys)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// Lapse puts a command of a principal in a tenant on the ledger whose permission has ended, so that the worker makes it
// a dead letter, and gives the letter's id and the contact that it would have made.
func Lapse(t testing.TB, dev *Dev, keys *events.Keyring, tenant, principal, name string) (letter, contact string) {
	t.Helper()
	contact = uuid.Must(uuid.NewV7()).String()
	at := time.Now().Add(-48 * time.Hour).UTC()
	d := &events.Decision{
		ID: uuid.Must(uuid.NewV7()).String(), Stage: events.StageRequest, Tenant: tenant, Action: "create", Effect: events.Allow, EvaluatedAt: at,
		Principal: events.Principal{ID: principal, Version: 1, Roles: []string{"user"}, Attr: map[string]any{"tenant": tenant}},
		Resource:  events.Resource{Kind: "contact", ID: contact, Attr: map[string]any{"tenant": tenant, "owner_id": principal, "is_active": true}},
	}
	m, err := events.NewWrit(keys, events.SourceAPI, d, &events.Command{
		ID: uuid.Must(uuid.NewV7()).String(), Kind: "contact", ResourceID: contact, Action: "create", Tenant: tenant, PrincipalID: principal,
		Body: json.RawMessage(fmt.Sprintf(`{"first_name":%q}`, name)), Changes: []string{"first_name"}, IssuedAt: at,
	}, at.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("worker.%s.%d", events.StreamLedger, Put(t, dev.NATS, events.CommandSubject(0), m.Data)), contact
}

// Put puts events on the ledger as one message, as whoever can write to NATS can, and gives the first one's address.
func Put(t testing.TB, url, subject string, all ...[]byte) events.Address {
	t.Helper()
	messages := make([]events.Message, len(all))
	for i := range all {
		messages[i].Data = all[i]
	}
	body, lengths := events.Join(messages)
	return PutMessage(t, url, &nats.Msg{Subject: subject, Data: body, Header: nats.Header{"Content-Type": {events.BatchContentType}, events.HeaderLengths: {lengths}}})
}

// PutMessage is Put for a message that is none of ours, perhaps.
func PutMessage(t testing.TB, url string, m *nats.Msg) events.Address {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer closeNATS(nc)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ack, err := js.PublishMsg(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	return events.At(ack.Sequence, 0)
}
