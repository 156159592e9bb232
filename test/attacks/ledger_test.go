package attacks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

// TestLedgerUnderAttack is somebody who can write to NATS and has no seal key: write access to NATS is not write access to
// the data, whatever the attacker puts into a message, beside what, and into its headers.
func TestLedgerUnderAttack(t *testing.T) {
	x := &writer{Services: outside.StartServices(t, "ledger-attacks")}
	x.owner = outside.NewClient(t, x.API, x.SessionToken(t, "owner@example.com"))
	t.Run("forged and moved events among good ones", x.amongGoodOnes)
	t.Run("replayed messages", x.replayed)
	t.Run("forged lengths", x.lengths)
	t.Run("forged answers", x.answers)
}

const (
	commands = "writ.cmd.0"
	outcomes = "writ.outcome.0"
	waited   = "wait=20"
)

// writer can write to NATS.
type writer struct {
	*outside.Services
	owner *outside.Client
}

func (x *writer) contact(t *testing.T, name string) (c outside.Contact) {
	t.Helper()
	x.owner.Want(t, http.StatusCreated, &c, "POST", "/v1/contacts", fmt.Sprintf(`{"first_name":%q}`, name), "Prefer", waited)
	return c
}

// unharmed checks that a contact is what it was, and that commands on it are applied.
func (x *writer) unharmed(t *testing.T, c outside.Contact) {
	t.Helper()
	var now outside.Contact
	x.owner.Want(t, http.StatusOK, &now, "GET", "/v1/contacts/"+c.ID, "")
	if now.Version != c.Version || now.Notes != c.Notes {
		t.Errorf("the contact was %+v, is %+v", c, now)
	}
	x.owner.Want(t, http.StatusOK, &now, "PATCH", "/v1/contacts/"+c.ID, `{"notes":"still its owner's"}`, "Prefer", waited)
	if now.Version != c.Version+1 {
		t.Errorf("after one more command the contact is at version %d, want %d", now.Version, c.Version+1)
	}
}

// stored gives the messages on a subject as they stand on the ledger.
func (x *writer) stored(t *testing.T, subject string) (all []*jetstream.RawStreamMsg) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	nc, err := nats.Connect(x.NATS)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(ctx, events.StreamLedger)
	if err != nil {
		t.Fatal(err)
	}
	for n := uint64(1); ; {
		m, err := stream.GetMsg(ctx, n, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all, n = append(all, m), m.Sequence+1
	}
}

// split gives the events of a message.
func split(t *testing.T, m *jetstream.RawStreamMsg) [][]byte {
	t.Helper()
	all, err := events.Split(m.Data, m.Header.Get(events.HeaderLengths))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// refused waits for the dead letter of an event.
func (x *writer) refused(t *testing.T, service string, at events.Address, code string) {
	t.Helper()
	admin := outside.NewClient(t, x.API, x.SessionToken(t, "admin@example.com", "admin"))
	testkit.Eventually(t, soon, func() error {
		a := admin.Do(t, "GET", fmt.Sprintf("/v1/dead/%s.LEDGER.%d", service, at), "")
		var letter struct {
			Code     string
			Believed bool
		}
		if a.Status != http.StatusOK {
			return fmt.Errorf("no dead letter of event %d of the %s: %d %s", at, service, a.Status, a.Body)
		}
		if err := json.Unmarshal(a.Body, &letter); err != nil || letter.Code != code {
			t.Errorf("event %d is refused as %+v (%v), want %s", at, letter, err, code)
		}
		return nil
	})
}

// amongGoodOnes puts forgeries between two sealed events of one message: each of them is refused, and the sealed ones are
// what they were.
func (x *writer) amongGoodOnes(t *testing.T) {
	mine := x.contact(t, "Among")
	all := x.stored(t, commands)
	good := split(t, all[len(all)-1])[0]
	other, err := events.ParseKeyring(events.GenerateKey("e2e"))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC()
	own, err := events.NewWrit(other, events.SourceAPI, &events.Decision{
		ID: uuid.NewString(), Stage: events.StageRequest, Tenant: "default", Action: "update", Effect: events.Allow, EvaluatedAt: now,
		Principal: events.Principal{ID: mine.OwnerID, Version: 1, Roles: []string{"admin"}},
		Resource:  events.Resource{Kind: "contact", ID: mine.ID, Version: 1},
	}, &events.Command{
		ID: uuid.NewString(), Kind: "contact", ResourceID: mine.ID, Action: "update", Tenant: "default", PrincipalID: mine.OwnerID,
		Body: json.RawMessage(`{"notes":"stolen"}`), Changes: []string{"notes"}, IssuedAt: now,
	}, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Replace(good, []byte("Among"), []byte("Stole"), 1)
	first, code := x.put(t, commands, good, own.Data, changed, []byte(`{}`), good), []string{"bad-seal", "mismatch", "unknown-version"}
	x.refused(t, "worker", first+1, code[0])
	x.refused(t, "worker", first+2, code[1])
	// A command where decisions belong, a decision where commands do.
	x.refused(t, "auditor", x.put(t, events.SubjectDecisions, good), "mismatch")
	decisions := x.stored(t, events.SubjectDecisions)
	x.refused(t, "worker", x.put(t, commands, split(t, decisions[len(decisions)-1])[0]), "mismatch")
	x.unharmed(t, mine)
}

func (x *writer) put(t *testing.T, subject string, all ...[]byte) events.Address {
	t.Helper()
	return outside.Put(t, x.NATS, subject, all...)
}

// replayed puts whole messages of commands on the ledger again.
func (x *writer) replayed(t *testing.T) {
	mine := x.contact(t, "Replayed")
	x.owner.Want(t, http.StatusOK, &mine, "PATCH", "/v1/contacts/"+mine.ID, `{"notes":"one"}`, "Prefer", waited)
	x.owner.Want(t, http.StatusOK, &mine, "PATCH", "/v1/contacts/"+mine.ID, `{"notes":"two"}`, "Prefer", waited)
	for _, m := range x.stored(t, commands) {
		outside.PutMessage(t, x.NATS, &nats.Msg{Subject: m.Subject, Data: m.Data, Header: nats.Header{events.HeaderLengths: m.Header[events.HeaderLengths]}})
	}
	x.unharmed(t, mine)
}

// lengths that do not fit make one dead letter of a message; those that do, and cut elsewhere, give no event that is believed.
func (x *writer) lengths(t *testing.T) {
	mine := x.contact(t, "Lengths")
	all := x.stored(t, commands)
	good := split(t, all[len(all)-1])[0]
	body := append(append([]byte{'['}, good...), ']')
	n := len(good)
	for _, lengths := range []string{"", "0", "-1", strconv.Itoa(n - 1), strconv.Itoa(n + 1), "18446744073709551615", "4294967295", "1,1", strings.Repeat("1,", 300) + "1", strconv.Itoa(n) + ","} {
		m := &nats.Msg{Subject: commands, Data: body, Header: nats.Header{events.HeaderLengths: {lengths}}}
		x.refused(t, "worker", outside.PutMessage(t, x.NATS, m), "malformed")
	}
	x.refused(t, "worker", outside.PutMessage(t, x.NATS, &nats.Msg{Subject: commands, Data: body}), "malformed")
	x.unharmed(t, mine)
}

// answers that are forged on the outcomes, by whoever repeats one or makes one up, hurt no data: commands are applied once,
// before and after, also by a worker that begins anew with what stands there.
func (x *writer) answers(t *testing.T) {
	for _, forged := range []string{"", "0", "1", "99999999999999", "18446744073709551615", "x", "-1"} {
		mine := x.contact(t, "Answers")
		all := x.stored(t, outcomes)
		last := all[len(all)-1]
		outside.PutMessage(t, x.NATS, &nats.Msg{Subject: outcomes, Data: last.Data, Header: nats.Header{
			events.HeaderLengths: last.Header[events.HeaderLengths], events.HeaderAnswers: {forged}}})
		x.WorkerProc.Kill()
		x.WorkerProc.Start(t)
		x.unharmed(t, mine)
	}
}
