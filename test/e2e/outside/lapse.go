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
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	contact = uuid.Must(uuid.NewV7()).String()
	at := time.Now().Add(-48 * time.Hour).UTC()
	d := &events.Decision{
		ID: uuid.Must(uuid.NewV7()).String(), Stage: events.StageRequest, Tenant: tenant, Action: "create", Effect: events.Allow, EvaluatedAt: at,
		Principal: events.Principal{ID: principal, Version: 1, Roles: []string{"user"}, Attr: map[string]any{"tenant": tenant}},
		Resource:  events.Resource{Kind: "contact", ID: contact, Attr: map[string]any{"tenant": tenant, "owner_id": principal, "is_active": true}},
	}
	m, err := events.NewWrit(keys, d, &events.Command{
		ID: uuid.Must(uuid.NewV7()).String(), Kind: "contact", ResourceID: contact, Action: "create", Tenant: tenant, PrincipalID: principal,
		Body: json.RawMessage(fmt.Sprintf(`{"first_name":%q}`, name)), Changes: []string{"first_name"}, IssuedAt: at,
	}, at.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(dev.NATS)
	if err != nil {
		t.Fatal(err)
	}
	defer closeNATS(nc)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	msg := &nats.Msg{Subject: m.Subject, Data: m.Data, Header: nats.Header{"Content-Type": {events.ContentType}}}
	ack, err := js.PublishMsg(ctx, msg, jetstream.WithMsgID(m.ID))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("worker.%s.%d", ack.Stream, ack.Sequence), contact
}
