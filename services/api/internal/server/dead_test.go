package server

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
)

// dead makes a contact's update by way of the api and buries it as a worker
// does: stored, position moved on, its command failed.
func (r *rig) dead(api, token, id string) (ledger.Record, string) {
	r.t.Helper()
	a := r.do("PATCH", api+"/v1/contacts/"+id, token, `{"notes":"mended"}`)
	if a.status != 202 {
		r.t.Fatalf("%d %s", a.status, a.body)
	}
	rec := r.last()
	return rec, r.bury(rec, "failed")
}

func (r *rig) bury(rec ledger.Record, code string) string {
	r.t.Helper()
	must(r.t, r.ledger.Bury(r.t.Context(), ledger.DeadLetter{Service: "worker", Code: code, Reason: "the handler crashed", Deliveries: 3, Record: rec}))
	return "worker." + strings.TrimPrefix(events.DeadSubject("worker", "LEDGER", rec.Address), "writ.dead.worker.")
}

// last is the first event of the last message on the ledger: these tests ask one thing at a time.
func (r *rig) last() ledger.Record {
	r.t.Helper()
	last := need(r.ledger.Last(r.t.Context()))(r.t)
	return need(r.ledger.Get(r.t.Context(), events.At(last, 0)))(r.t)
}

// settle moves the position of a record's shard past it, and keeps what
// became of its command.
func (r *rig) settle(rec ledger.Record, status events.Status) {
	r.t.Helper()
	c := need(events.Parse(rec.Data))(r.t).Command
	must(r.t, r.store.Update(r.t.Context(), func(ctx context.Context, tx *store.Tx) error {
		p := events.Shard(c.ResourceID, r.ledger.Shards())
		positions, err := tx.Positions(ctx, []int{p})
		if err != nil {
			return err
		}
		if err := tx.AddCommands(ctx, []store.Command{{
			ID: c.ID, Tenant: c.Tenant, Kind: c.Kind, ResourceID: c.ResourceID, Action: c.Action, PrincipalID: c.PrincipalID, Status: status,
			Code: "failed", Fingerprint: c.Fingerprint, Sequence: rec.Address, IssuedAt: c.IssuedAt, At: time.Now(),
		}}); err != nil {
			return err
		}
		return tx.MoveAll(ctx, []store.Move{{Part: p, From: positions[p], To: rec.Address}})
	}))
}

const because = `{"reason":"the defect is mended"}`

func TestReplayedDeadLetterIsOneNewCommand(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api, again := r.api(), r.api()
	sam, samToken := r.person("sam", "user")
	alice, aliceToken := r.person("alice", "admin")
	rec, id := r.dead(api, samToken, r.contact(sam))
	r.settle(rec, events.StatusFailed)

	var page struct{ Items []DeadLetter }
	must(t, json.Unmarshal(r.do("GET", api+"/v1/dead", aliceToken, "").body, &page))
	if len(page.Items) != 1 || page.Items[0].ID != id || page.Items[0].PrincipalID != sam || page.Items[0].Unreplayable != "" || page.Items[0].Action != "update" {
		t.Fatalf("%+v", page)
	}
	var one DeadMessage
	must(t, json.Unmarshal(r.do("GET", api+"/v1/dead/"+id, aliceToken, "").body, &one))
	if string(one.Message) != string(rec.Data) || len(one.Decision) == 0 {
		t.Errorf("%+v", one.DeadLetter)
	}

	before := len(r.events())
	var first, second Accepted
	a := r.do("POST", api+"/v1/dead/"+id+"/replay", aliceToken, because)
	if a.status != 202 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	must(t, json.Unmarshal(a.body, &first))
	if a.header.Get("Location") != "/v1/commands/"+first.Command.ID {
		t.Errorf("Location %q", a.header.Get("Location"))
	}
	all := r.events()[before:]
	if len(all) != 2 {
		t.Fatalf("%d events", len(all))
	}
	permission, writ := all[0].Decision, all[1]
	if permission.Principal.ID != alice || permission.Action != "replay" || permission.Resource.Kind != "dead" || permission.Resource.ID != id ||
		permission.Effect != events.Allow || permission.Resource.Attr["reason"] != "the defect is mended" {
		t.Errorf("%+v", permission)
	}
	original := need(events.Parse(rec.Data))(t)
	if writ.Type != events.TypeWrit || writ.Decision.Principal.ID != sam || writ.Decision.Asker != alice || writ.Command.PrincipalID != sam ||
		writ.Command.ID == original.Command.ID || writ.Command.ID != first.Command.ID || string(writ.Command.Body) != string(original.Command.Body) ||
		writ.Command.ResourceID != original.Command.ResourceID || !writ.Decision.Command.Expires.After(time.Now().Add(23*time.Hour)) {
		t.Errorf("%+v\n%+v", writ.Decision, writ.Command)
	}
	if a := r.do("GET", api+"/v1/dead/"+id, aliceToken, ""); a.status != 404 {
		t.Errorf("the letter is still there: %d", a.status)
	}

	// The client had no answer and asks once more, another instance.
	a = r.do("POST", again+"/v1/dead/"+id+"/replay", aliceToken, because)
	must(t, json.Unmarshal(a.body, &second))
	if a.status != 202 || second.Command.ID != first.Command.ID {
		t.Errorf("%d %s", a.status, a.body)
	}
	// The letter was not removed, or was buried again: the command is the same.
	if again := r.bury(rec, "failed"); again != id {
		t.Fatal(again)
	}
	a = r.do("POST", api+"/v1/dead/"+id+"/replay", aliceToken, because)
	must(t, json.Unmarshal(a.body, &second))
	if a.status != 202 || second.Command.ID != first.Command.ID {
		t.Errorf("%d %s", a.status, a.body)
	}
	commands := map[string]bool{}
	for _, e := range r.events() {
		if e.Type == events.TypeWrit {
			commands[e.Command.ID] = true
		}
	}
	if len(commands) != 2 {
		t.Errorf("%d commands, want the first and one more", len(commands))
	}
}

func TestReplayIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	sam, samToken := r.person("sam", "user")
	_, aliceToken := r.person("alice", "admin")
	mine := r.contact(sam)
	settled, id := r.dead(api, samToken, mine)
	r.settle(settled, events.StatusFailed)
	early, earlyID := r.dead(api, samToken, r.contact(sam)) // not moved past yet
	copied := settled
	copied.Address -= events.MaxBatch // a writ that somebody buried as another
	forged := early
	forged.Data = []byte(strings.Replace(string(early.Data), "mended", "mendet", 1))
	forged.Address = 99
	for _, c := range []struct {
		name, method, path, token, body string
		status                          int
		code                            string
	}{
		{"nobody's to list", "GET", "/v1/dead", samToken, "", 403, "denied"},
		{"nobody's to see", "GET", "/v1/dead/" + id, samToken, "", 404, "not-found"},
		{"nobody's to replay", "POST", "/v1/dead/" + id + "/replay", samToken, because, 404, "not-found"},
		{"nobody's to discard", "DELETE", "/v1/dead/" + id + "?reason=x", samToken, "", 404, "not-found"},
		{"without a reason", "POST", "/v1/dead/" + id + "/replay", aliceToken, `{}`, 422, "invalid"},
		{"with an empty reason", "POST", "/v1/dead/" + id + "/replay", aliceToken, `{"reason":""}`, 422, "invalid"},
		{"discarded without a reason", "DELETE", "/v1/dead/" + id, aliceToken, "", 422, "invalid"},
		{"no such", "POST", "/v1/dead/worker.LEDGER.4711/replay", aliceToken, because, 404, "not-found"},
		{"all of them", "DELETE", "/v1/dead/worker.LEDGER.*?reason=x", aliceToken, "", 422, "invalid"},
		{"another tenant's", "GET", "/v1/dead/" + id, aliceToken, "", 404, "not-found"},
		{"not settled", "POST", "/v1/dead/" + earlyID + "/replay", aliceToken, because, 409, "not-settled"},
		{"a copy", "POST", "/v1/dead/" + r.bury(copied, "failed") + "/replay", aliceToken, because, 409, "not-replayable"},
		{"a forgery", "POST", "/v1/dead/" + r.bury(forged, "bad-seal") + "/replay", aliceToken, because, 409, "not-replayable"},
	} {
		headers := []string{}
		if c.name == "another tenant's" {
			headers = []string{"Writ-Tenant", "acme"}
		}
		a := r.do(c.method, api+c.path, c.token, c.body, headers...)
		if p := a.problem(t); a.status != c.status || p.Code != c.code {
			t.Errorf("%s: %d %s", c.name, a.status, a.body)
		}
	}

	// The principal whose command it is may not give it any more.
	r.put(user.Kind, *user.Sync{Email: "sam@example.com", Tenants: map[string]user.Membership{user.DefaultTenant: {Roles: []string{"manager"}}}}.Apply(
		&kind.Row{Value: need(r.store.Get(t.Context(), user.Kind, sam))(t).Value}, sam, time.Now()))
	a := r.do("POST", api+"/v1/dead/"+id+"/replay", aliceToken, because)
	last := r.events()
	d := last[len(last)-1].Decision
	if p := a.problem(t); a.status != 403 || p.DecisionID != d.ID || d.Principal.ID != sam || d.Effect != events.Deny || d.Asker == "" {
		t.Errorf("%d %s\n%+v", a.status, a.body, d)
	}

	// It was applied after all, after its worker had died.
	r.put(user.Kind, *user.Sync{Email: "sam@example.com", Tenants: map[string]user.Membership{user.DefaultTenant: {Roles: []string{"user"}}}}.Apply(nil, sam, time.Now()))
	r.settle(early, events.StatusApplied)
	if a := r.do("POST", api+"/v1/dead/"+earlyID+"/replay", aliceToken, because); a.status != 409 || a.problem(t).Code != "already-applied" {
		t.Errorf("%d %s", a.status, a.body)
	}
	// What it is about is gone.
	must(t, r.store.Update(t.Context(), func(ctx context.Context, tx *store.Tx) error { return tx.DeleteRows(ctx, contact.Kind, []string{mine}) }))
	if a := r.do("POST", api+"/v1/dead/"+id+"/replay", aliceToken, because); a.status != 409 || a.problem(t).Code != "not-replayable" {
		t.Errorf("%d %s", a.status, a.body)
	}
	for _, e := range r.events() {
		if e.Type == events.TypeWrit && e.Decision.Asker != "" {
			t.Errorf("a command was replayed: %+v", e.Command)
		}
	}
}

// TestQueuedCommandIsNotReplayed buries the letter of a command that waits for
// Stytch, as a worker does that is killed before it says that the command
// failed: it goes on with it when it is back.
func TestQueuedCommandIsNotReplayed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	sam, samToken := r.person("sam", "user")
	_, aliceToken := r.person("alice", "admin")
	rec, id := r.dead(api, samToken, r.contact(sam))
	r.settle(rec, events.StatusRetrying)
	if a := r.do("POST", api+"/v1/dead/"+id+"/replay", aliceToken, because); a.status != 409 || a.problem(t).Code != "not-settled" {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// TestWhoMayNotSeeDeadLettersIsNotToldWhichThereAre: a letter that is there is
// answered as one that is not.
func TestWhoMayNotSeeDeadLettersIsNotToldWhichThereAre(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	sam, samToken := r.person("sam", "user")
	_, aliceToken := r.person("alice", "admin")
	rec, id := r.dead(api, samToken, r.contact(sam))
	rec.Address, rec.Data = 1<<40, []byte("rubbish")
	r.bury(rec, "unreadable")
	for _, id := range []string{id, "worker.LEDGER.987654321"} {
		before := len(r.events())
		for _, a := range []answer{
			r.do("GET", api+"/v1/dead/"+id, samToken, ""), r.do("POST", api+"/v1/dead/"+id+"/replay", samToken, because),
			r.do("DELETE", api+"/v1/dead/"+id+"?reason=x", samToken, ""),
		} {
			if a.status != 404 {
				t.Errorf("%s: %d %s", id, a.status, a.body)
			}
		}
		for i, e := range r.events()[before:] { // the work is the same, too
			if want := []string{"read", "replay", "discard"}[i]; e.Decision.Action != want || e.Decision.Resource.ID != id || e.Decision.Effect != events.Deny {
				t.Errorf("%+v", e.Decision)
			}
		}
		if n := len(r.events()) - before; n != 3 {
			t.Errorf("%s: %d decisions", id, n)
		}
	}
	var rubbish DeadMessage
	must(t, json.Unmarshal(r.do("GET", api+"/v1/dead/worker.LEDGER.1099511627776", aliceToken, "").body, &rubbish))
	if !strings.HasPrefix(rubbish.Unreplayable, "it cannot be read") || rubbish.Believed {
		t.Errorf("%+v", rubbish.DeadLetter)
	}
}

func TestDiscardedDeadLetterLeavesADecision(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	sam, samToken := r.person("sam", "user")
	alice, aliceToken := r.person("alice", "admin")
	_, id := r.dead(api, samToken, r.contact(sam))
	if a := r.do("DELETE", api+"/v1/dead/"+id+"?reason="+url.QueryEscape("a test's"), aliceToken, ""); a.status != 204 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	all := r.events()
	d := all[len(all)-1].Decision
	if d.Action != "discard" || d.Principal.ID != alice || d.Resource.ID != id || d.Resource.Attr["reason"] != "a test's" || d.Effect != events.Allow {
		t.Errorf("%+v", d)
	}
	if a := r.do("DELETE", api+"/v1/dead/"+id+"?reason=x", aliceToken, ""); a.status != 404 {
		t.Errorf("%d", a.status)
	}
}

func TestWaitingCommandsAreListed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	sam, samToken := r.person("sam", "user")
	_, aliceToken := r.person("alice", "admin")
	r.dead(api, samToken, r.contact(sam))
	var page struct {
		Items    []WaitingCommand
		Complete bool
	}
	a := r.do("GET", api+"/v1/commands", aliceToken, "")
	must(t, json.Unmarshal(a.body, &page))
	if len(page.Items) != 1 || !page.Complete || page.Items[0].PrincipalID != sam || page.Items[0].Status != events.StatusAccepted {
		t.Errorf("%d %s", a.status, a.body)
	}
	var d events.Decision
	if must(t, json.Unmarshal(page.Items[0].Decision, &d)); d.Command == nil || d.Command.ID != page.Items[0].ID {
		t.Errorf("%+v", d)
	}
	if a := r.do("GET", api+"/v1/commands", samToken, ""); a.status != 403 {
		t.Errorf("%d", a.status)
	}
}

// A role change is moved past and queued: it still waits, and which of the two it is makes no difference.
func TestCommandsThatAreQueuedForStytchWait(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	sam, _ := r.person("sam", "user")
	_, aliceToken := r.person("alice", "admin")
	a := r.do("PUT", api+"/v1/users/"+sam+"/roles", aliceToken, `{"roles":["manager"]}`)
	if a.status != 202 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	rec := r.last()
	id := need(events.Parse(rec.Data))(t).Command.ID
	var page struct {
		Items    []WaitingCommand
		Complete bool
	}
	list := func() []WaitingCommand {
		t.Helper()
		a := r.do("GET", api+"/v1/commands", aliceToken, "")
		page.Items = nil
		must(t, json.Unmarshal(a.body, &page))
		if a.status != 200 || !page.Complete {
			t.Errorf("%d %s", a.status, a.body)
		}
		return page.Items
	}
	if got := list(); len(got) != 1 || got[0].ID != id || got[0].Status != events.StatusAccepted {
		t.Errorf("on the ledger: %+v", got)
	}
	queue := func(ctx context.Context, tx *store.Tx) error {
		return tx.Enqueue(ctx, []store.Queued{{Sequence: rec.Address, CommandID: id, Lane: sam}})
	}
	r.settle(rec, events.StatusRetrying)
	must(t, r.store.Update(t.Context(), queue))
	got := list()
	if len(got) != 1 || got[0].ID != id || got[0].Status != events.StatusRetrying || got[0].Action != "roles" || got[0].Resource.ID != sam {
		t.Fatalf("queued: %+v", got)
	}
	var d events.Decision
	if must(t, json.Unmarshal(got[0].Decision, &d)); d.Command == nil || d.Command.ID != id {
		t.Errorf("%+v", d)
	}
}
