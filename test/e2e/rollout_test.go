package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
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

// goldenKey sealed the golden files.
const goldenKey = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"

// TestRollout is services of this version beside older and newer ones on one ledger. What those write is put there by
// hand: the golden messages, which an older version wrote, and messages as a later one writes them.
func TestRollout(t *testing.T) {
	seal := events.GenerateKey("rollout") + "," + goldenKey
	s := outside.StartServices(t, "rollout-1", "WRIT_SEAL_KEYS="+seal)
	var err error
	if s.Keys, err = events.ParseKeyring(seal); err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(s.NATS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	r := &rollout{Services: s, admin: outside.NewClient(t, s.API, s.SessionToken(t, "rollout@example.com", "admin"))}
	if r.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	t.Run("an older version's messages", r.older)
	t.Run("a later minor version's messages", r.minor)
	t.Run("another major version's messages", r.major)
	t.Run("it goes on", r.goesOn)
}

type rollout struct {
	*outside.Services
	admin *outside.Client
	js    jetstream.JetStream
	after events.Address // of the golden events, whose ids are not unique
}

// put puts an event on the ledger.
func (r *rollout) put(t *testing.T, subject string, data []byte) events.Address {
	t.Helper()
	return outside.Put(t, r.NATS, subject, data)
}

// older: every golden message is taken as it is, and the audit log holds its bytes.
func (r *rollout) older(t *testing.T) {
	files, err := filepath.Glob("../../pkg/events/testdata/*.v1.json")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d golden files, %v", len(files), err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		e, err := events.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		var subject string
		var raw []byte
		stream, field := outside.Decisions, "decision"
		switch e.Type {
		case events.TypeWrit:
			subject, raw = events.CommandSubject(0), e.RawDecision
		case events.TypeDecision:
			subject, raw = events.SubjectDecisions, e.RawDecision
		case events.TypeOutcome:
			subject, raw = events.SubjectStytchOutcomes, e.RawOutcome
			stream, field = outside.Outcomes, "outcome"
		case events.TypeCheckpoint:
			continue // it vouches for another audit log: this one's would be found to be forged
		default:
			t.Fatalf("no way for %s", e.Type)
		}
		address := r.put(t, subject, data)
		r.audited(t, stream, field, address, raw)
		if e.Type == events.TypeWrit { // read and understood: it was permitted for an hour, and that is over
			letter := fmt.Sprintf("writ.dead.worker.LEDGER.%d", address)
			until(t, 20*time.Second, func() bool { return r.dead(t)[letter] == "expired" })
		}
	}
	r.after = events.End(outside.Last(t, r.NATS, events.StreamLedger))
}

// minor: members that this version does not know, wherever they stand, change nothing; the bytes are kept.
func (r *rollout) minor(t *testing.T) {
	var contact outside.Contact
	var target outside.Me
	r.admin.Want(t, http.StatusCreated, &contact, "POST", "/v1/contacts", `{"first_name":"Minor"}`, "Prefer", wait)
	target = outside.NewClient(t, r.API, r.SessionToken(t, "rolled@example.com", "user")).Me(t)
	r.admin.Want(t, http.StatusOK, nil, "PUT", "/v1/users/"+target.Principal.ID+"/roles", `{"roles":["manager"]}`, "Prefer", wait)

	created := r.again(t, "contact", "create", func(d, c map[string]any) {
		id := uuid.Must(uuid.NewV7()).String()
		c["resource_id"] = id
		d["resource"].(map[string]any)["id"] = id
	})
	address := r.put(t, created.subject, created.data)
	r.outcome(t, created.id, events.StatusApplied, "")
	r.audited(t, outside.Decisions, "decision", address, created.decision)
	var copied outside.Contact
	r.admin.Want(t, http.StatusOK, &copied, "GET", "/v1/contacts/"+created.resource, "")
	if copied.FirstName != "Minor" {
		t.Errorf("%+v", copied)
	}
	var command outside.Command
	r.admin.Want(t, http.StatusOK, &command, "GET", "/v1/commands/"+created.id, "")
	if command.Status != "applied" {
		t.Errorf("%+v", command)
	}

	// The role worker is another reader, and so are bodies that only the system writes.
	roles := r.again(t, "user", "roles", func(_, c map[string]any) {
		c["body"] = map[string]any{"tenant": "default", "roles": []string{"auditor"}, "later": true}
	})
	address = r.put(t, roles.subject, roles.data)
	r.outcome(t, roles.id, events.StatusApplied, "")
	r.audited(t, outside.Decisions, "decision", address, roles.decision)
	var u struct {
		Tenants map[string]struct{ Roles []string }
	}
	r.admin.Want(t, http.StatusOK, &u, "GET", "/v1/users/"+target.Principal.ID, "")
	if !slices.Equal(u.Tenants["default"].Roles, []string{"auditor"}) {
		t.Errorf("%+v", u)
	}

	// A record of an outcome and of a denial, as a later version seals them.
	for _, r2 := range outside.LedgerAfter(t, r.NATS, r.after) {
		if r2.Event.Type != events.TypeOutcome {
			continue
		}
		o := r2.Event.Outcome
		o.CommandID = uuid.Must(uuid.NewV7()).String()
		o.ID = events.OutcomeID(o.CommandID)
		raw, err := events.EncodeOutcome(&o)
		if err != nil {
			t.Fatal(err)
		}
		raw = append([]byte(`{"later":{"a":[1]},`), raw[1:]...)
		m, err := events.OutcomeMessage(r.Keys, &o, raw)
		if err != nil {
			t.Fatal(err)
		}
		address := r.put(t, events.SubjectStytchOutcomes, later(m.Data))
		r.audited(t, outside.Outcomes, "outcome", address, raw)
		break
	}
	if dead := r.dead(t); len(dead) != 1 { // the golden writ, which was too late
		t.Errorf("dead letters: %v", dead)
	}
}

// major: what this version cannot know is a dead letter with the reason, of each service that reads it.
func (r *rollout) major(t *testing.T) {
	before := len(r.dead(t))
	var contact outside.Contact
	r.admin.Want(t, http.StatusCreated, &contact, "POST", "/v1/contacts", `{"first_name":"Major"}`, "Prefer", wait)
	w := r.again(t, "contact", "create", func(d, c map[string]any) {
		c["resource_id"] = contact.ID // so that its shard is the contact's
		d["resource"].(map[string]any)["id"] = contact.ID
	})
	want := map[string]bool{}
	for _, m := range []struct {
		from, to, subject string
		data              []byte
		readers           []string
	}{
		{"writ.command.v1", "writ.command.v2", w.subject, w.data, []string{"worker", "auditor"}},
		{"writ.command.v1", "writ.decision.v2", events.SubjectDecisions, w.data, []string{"auditor"}},
		{"writ.command.v1", "writ.outcome.v2", events.SubjectStytchOutcomes, w.data, []string{"auditor"}},
		{`"specversion":"1.0"`, `"specversion":"2.0"`, w.subject, w.data, []string{"worker", "auditor"}},
	} {
		data := bytes.Replace(m.data, []byte(m.from), []byte(m.to), 1)
		if bytes.Equal(data, m.data) {
			t.Fatalf("no %s in %s", m.from, data)
		}
		address := r.put(t, m.subject, data)
		for _, reader := range m.readers {
			want[fmt.Sprintf("writ.dead.%s.LEDGER.%d", reader, address)] = true
		}
	}
	until(t, 20*time.Second, func() bool { return len(r.dead(t)) >= before+len(want) })
	for subject, code := range r.dead(t) {
		if want[subject] && code != "unknown-version" {
			t.Errorf("%s: %s", subject, code)
		}
		delete(want, subject)
	}
	if len(want) > 0 {
		t.Errorf("no dead letters %v", want)
	}
	// The shard goes on behind it.
	r.admin.Want(t, http.StatusOK, &contact, "PATCH", "/v1/contacts/"+contact.ID, `{"notes":"behind it"}`, "Prefer", wait)
	if contact.Notes != "behind it" {
		t.Errorf("%+v", contact)
	}
}

func (r *rollout) goesOn(t *testing.T) {
	r.admin.Want(t, http.StatusCreated, nil, "POST", "/v1/contacts", `{"first_name":"After"}`, "Prefer", wait)
	for _, service := range []string{r.API, r.Worker, r.Auditor} {
		outside.Ready(t, service, "")
	}
}

// made is a writ as a later version writes it.
type made struct {
	subject, id, resource string
	decision, data        []byte
}

// again makes a new writ of the last one of a kind and action, with members that this version does not know.
func (r *rollout) again(t *testing.T, kind, action string, change func(decision, command map[string]any)) made {
	t.Helper()
	all := outside.LedgerAfter(t, r.NATS, r.after)
	slices.Reverse(all)
	i := slices.IndexFunc(all, func(r outside.Record) bool {
		return r.Event.Type == events.TypeWrit && r.Event.Command.Kind == kind && r.Event.Command.Action == action
	})
	if i < 0 {
		t.Fatalf("no %s %s on the ledger", kind, action)
	}
	d, c := map[string]any{}, map[string]any{}
	if err := errors.Join(json.Unmarshal(all[i].Event.RawDecision, &d), json.Unmarshal(all[i].Event.RawCommand, &c)); err != nil {
		t.Fatal(err)
	}
	id := uuid.Must(uuid.NewV7()).String()
	d["id"], c["id"] = uuid.Must(uuid.NewV7()).String(), id
	delete(c, "reply_to")
	change(d, c)
	c["later"], d["later"] = []any{1, nil}, map[string]any{"x": 1}
	d["principal"].(map[string]any)["later"], d["policy"].(map[string]any)["later"] = "x", "x"
	command := encoded(t, c)
	ref := d["command"].(map[string]any)
	ref["id"], ref["sha256"], ref["later"] = id, events.Digest(command), "x"
	decision := encoded(t, d)
	seal := r.Keys.Seal(decision)
	data := fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/writ/api","type":"writ.command.v1","subject":"%s/%s","time":%q,"datacontenttype":"application/json",`+
		`"later":{"a":1},"data":{"later":[],"decision":%s,"command":%s,"seal":{"kid":%q,"mac":%q,"later":1}}}`,
		id, kind, c["resource_id"], c["issued_at"], decision, command, seal.KeyID, seal.MAC)
	resource := c["resource_id"].(string)
	return made{subject: events.CommandSubject(0), id: id, resource: resource, decision: decision, data: []byte(data)}
}

func encoded(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// later adds members to an envelope and its data.
func later(data []byte) []byte {
	s := strings.Replace(string(data), `{"specversion"`, `{"later":{"a":[1]},"specversion"`, 1)
	return []byte(strings.Replace(s, `"data":{`, `"data":{"later":1,`, 1))
}

// outcome waits for what became of a command.
func (r *rollout) outcome(t *testing.T, command string, status events.Status, code string) {
	t.Helper()
	testkit.Eventually(t, 20*time.Second, func() error {
		for _, r := range outside.LedgerAfter(t, r.NATS, r.after) {
			if o := r.Event.Outcome; r.Event.Type == events.TypeOutcome && o.CommandID == command {
				if o.Status != status || o.Code != code {
					t.Fatalf("command %s is %s %s %s, want %s %s", command, o.Status, o.Code, o.Reason, status, code)
				}
				return nil
			}
		}
		return fmt.Errorf("command %s has no outcome", command)
	})
}

// audited waits until the audit log holds the bytes of a record.
func (r *rollout) audited(t *testing.T, stream, field string, address events.Address, raw []byte) {
	t.Helper()
	testkit.Eventually(t, 20*time.Second, func() error {
		for _, e := range outside.Entries(t, r.Redis, stream) {
			if strings.HasSuffix(e.ID, fmt.Sprintf("-%d", address)) {
				if e.Values[field] != string(raw) {
					t.Fatalf("entry %s: %s, want %s", e.ID, e.Values[field], raw)
				}
				return nil
			}
		}
		return fmt.Errorf("event %d is not in %s", address, stream)
	})
}

// dead gives the codes of the dead letters by subject.
func (r *rollout) dead(t *testing.T) map[string]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := r.js.Stream(ctx, events.StreamDead)
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for n := info.State.FirstSeq; n > 0 && n <= info.State.LastSeq; n++ {
		if m, err := s.GetMsg(ctx, n); err == nil {
			out[m.Subject] = m.Header.Get("Writ-Code")
		}
	}
	return out
}
