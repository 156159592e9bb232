package server

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	svix "github.com/svix/svix-webhooks/go"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/health"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/kinds"
	"github.com/writ-project/writ/pkg/store"
)

func withWebhooks(r *rig) {
	r.webhookSecret = "whsec_" + base64.StdEncoding.EncodeToString([]byte("a secret of thirty-two bytes, so"))
}

// signed sends an event as Stytch does.
func (r *rig) signed(url, secret, message string, at time.Time, body string) answer {
	r.t.Helper()
	signature := need(need(svix.NewWebhook(secret))(r.t).Sign(message, at, []byte(body)))(r.t)
	return r.do("POST", url+"/v1/webhooks/stytch", "", body, "Svix-Id", message, "Svix-Timestamp", strconv.FormatInt(at.Unix(), 10), "Svix-Signature", signature)
}

func event(action, id string) string {
	return fmt.Sprintf(`{"project_id":%q,"event_id":"event-test-1","action":%q,"object_type":"user","source":"DASHBOARD","id":%q,"timestamp":"2026-11-22T00:00:00Z",
		"user":{"user_id":%[3]q,"trusted_metadata":{"roles":["admin"]}}}`, project, action, id)
}

// TestAWebhookIsBelievedNothing: the command says what Stytch says when it is asked.
func TestAWebhookIsBelievedNothing(t *testing.T) {
	r := newRig(t, withWebhooks)
	url := r.api()
	id, _ := r.in("zoe", tenants{"default": roles("user")})
	a := r.signed(url, r.webhookSecret, "msg_1", time.Now(), event("UPDATE", id))
	if a.status != http.StatusAccepted || a.header.Get("Location") != "/v1/commands/"+a.header.Get("Writ-Command") {
		t.Fatalf("%d %v %s", a.status, a.header, a.body)
	}
	e := r.events()[0]
	var s user.Sync
	must(t, json.Unmarshal(e.Command.Body, &s))
	if e.Command.Action != user.ActionSync || e.Command.ResourceID != id || e.Decision.Principal.ID != user.System || e.Decision.Effect != events.Allow ||
		fmt.Sprint(s.Tenants["default"].Roles) != "[user]" || s.Email != "zoe@example.com" || s.Gone {
		t.Errorf("%+v %+v", e.Command, s)
	}
	// Somebody new to the directory, and somebody whom Stytch does not know although the event says that they are new.
	fresh := need(r.id.CreateUser(t.Context(), identity.User{Email: "new@example.com"}))(t)
	if a := r.signed(url, r.webhookSecret, "msg_2", time.Now(), event("DELETE", fresh.ID)); a.status != http.StatusAccepted {
		t.Errorf("%d %s", a.status, a.body)
	}
	if e := r.events()[1]; e.Command.ResourceID != fresh.ID || strings.Contains(string(e.Command.Body), "gone") {
		t.Errorf("%s", e.Command.Body)
	}
	for message, body := range map[string]string{
		"msg_3": event("CREATE", "user-test-00000000-0000-4000-8000-000000000000"), "msg_4": `{"object_type":"session","id":"x"}`, "msg_5": `{}`,
	} {
		if a := r.signed(url, r.webhookSecret, message, time.Now(), body); a.status != http.StatusNoContent {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
	// Who is deleted at Stytch goes here, too, whatever the event says.
	must(t, r.id.DeleteUser(t.Context(), id))
	if a := r.signed(url, r.webhookSecret, "msg_6", time.Now(), event("UPDATE", id)); a.status != http.StatusAccepted {
		t.Errorf("%d %s", a.status, a.body)
	}
	all := r.events()
	if body := string(all[len(all)-1].Command.Body); len(all) != 3 || !strings.Contains(body, `"gone":true`) {
		t.Errorf("%d events, %s", len(all), body)
	}
}

// TestAReplayedWebhookIsTheSameCommand: before the worker has seen it and after, on another instance, whatever Stytch says by then.
func TestAReplayedWebhookIsTheSameCommand(t *testing.T) {
	r := newRig(t, withWebhooks)
	one, two := r.api(), r.api()
	id, _ := r.in("zoe", tenants{"default": roles("user")})
	other, _ := r.in("bob", tenants{"default": roles("user")})
	first := r.signed(one, r.webhookSecret, "msg_1", time.Now(), event("UPDATE", id))
	need(r.id.UpdateUser(t.Context(), id, identity.Update{Tenants: tenants{"default": roles("manager")}}))(t)
	again := r.signed(two, r.webhookSecret, "msg_1", time.Now().Add(time.Minute), event("UPDATE", id))
	command := first.header.Get("Writ-Command")
	if first.status != http.StatusAccepted || again.status != http.StatusAccepted || command == "" || again.header.Get("Writ-Command") != command {
		t.Fatalf("%d %s, %d %s", first.status, command, again.status, again.body)
	}
	// The same message about somebody else is refused: Svix never sends that.
	if a := r.signed(two, r.webhookSecret, "msg_1", time.Now(), event("UPDATE", other)); a.status != http.StatusUnprocessableEntity {
		t.Errorf("%d %s", a.status, a.body)
	}
	var writ *events.Event
	for _, e := range r.events() {
		if e.Type == events.TypeWrit {
			if e.Command.ID != command {
				t.Errorf("a writ of command %s, want only %s", e.Command.ID, command)
			}
			writ = e
		}
	}
	// Once it is applied: SQL has the id.
	must(t, r.store.Update(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		c := writ.Command
		return tx.AddCommands(ctx, []store.Command{{ID: c.ID, Tenant: c.Tenant, Kind: c.Kind, ResourceID: c.ResourceID, Action: c.Action, PrincipalID: c.PrincipalID,
			Status: events.StatusApplied, Fingerprint: c.Fingerprint, Key: c.Key, IssuedAt: c.IssuedAt, At: time.Now()}})
	}))
	late := r.signed(two, r.webhookSecret, "msg_1", time.Now(), event("UPDATE", id))
	if late.status != http.StatusAccepted || late.header.Get("Writ-Command") != command || !strings.Contains(string(late.body), `"applied"`) {
		t.Errorf("%d %s", late.status, late.body)
	}
}

func TestAWebhookThatIsNotStytchsIsRefused(t *testing.T) {
	r := newRig(t, withWebhooks)
	url := r.api()
	id, token := r.in("zoe", tenants{"default": roles("user")})
	body, now := event("UPDATE", id), time.Now()
	good := need(need(svix.NewWebhook(r.webhookSecret))(t).Sign("msg_1", now, []byte(body)))(t)
	stamp := strconv.FormatInt(now.Unix(), 10)
	another := "whsec_" + base64.StdEncoding.EncodeToString([]byte("another secret of thirty-two byte"))
	for what, a := range map[string]answer{
		"no signature":        r.do("POST", url+"/v1/webhooks/stytch", "", body),
		"a session instead":   r.do("POST", url+"/v1/webhooks/stytch", token, body),
		"an empty one":        r.do("POST", url+"/v1/webhooks/stytch", "", body, "Svix-Id", "msg_1", "Svix-Timestamp", stamp, "Svix-Signature", "v1,"),
		"no id":               r.do("POST", url+"/v1/webhooks/stytch", "", body, "Svix-Timestamp", stamp, "Svix-Signature", good),
		"another id":          r.do("POST", url+"/v1/webhooks/stytch", "", body, "Svix-Id", "msg_2", "Svix-Timestamp", stamp, "Svix-Signature", good),
		"another body":        r.do("POST", url+"/v1/webhooks/stytch", "", body+" ", "Svix-Id", "msg_1", "Svix-Timestamp", stamp, "Svix-Signature", good),
		"another version":     r.do("POST", url+"/v1/webhooks/stytch", "", body, "Svix-Id", "msg_1", "Svix-Timestamp", stamp, "Svix-Signature", "v2"+good[2:]),
		"another time":        r.do("POST", url+"/v1/webhooks/stytch", "", body, "Svix-Id", "msg_1", "Svix-Timestamp", strconv.FormatInt(now.Unix()+1, 10), "Svix-Signature", good),
		"no time":             r.do("POST", url+"/v1/webhooks/stytch", "", body, "Svix-Id", "msg_1", "Svix-Timestamp", "now", "Svix-Signature", good),
		"another secret":      r.signed(url, another, "msg_1", now, body),
		"six minutes old":     r.signed(url, r.webhookSecret, "msg_1", now.Add(-6*time.Minute), body),
		"six minutes too new": r.signed(url, r.webhookSecret, "msg_1", now.Add(6*time.Minute), body),
		"the empty secret":    r.signed(url, "", "msg_1", now, body),
	} {
		if a.status != http.StatusUnauthorized || a.problem(t).Code != "bad-signature" {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
	if a := r.signed(url, r.webhookSecret, "msg_1", now, `{"x":"`+strings.Repeat("x", 1<<20)+`"}`); a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("%d %s", a.status, a.body)
	}
	if all := r.events(); len(all) > 0 {
		t.Errorf("%d events", len(all))
	}
	// Without the setting there is nothing there.
	r.webhookSecret = ""
	if a := r.do("POST", r.api()+"/v1/webhooks/stytch", "", body); a.status != http.StatusNotFound || a.problem(t).Code != "not-set-up" {
		t.Errorf("%d %s", a.status, a.body)
	}
	for _, bad := range []string{"whsec_", "whsec_c2hvcnQ=", "%%%", "whsec_!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!"} {
		if _, err := newWebhook(bad); err == nil {
			t.Errorf("the secret %q is taken", bad)
		}
	}
}

// TestTheFirstAdmin: the one that the setting names, when they sign in, and only while there is no other.
func TestTheFirstAdmin(t *testing.T) {
	r := newRig(t)
	s, _, err := New(Config{
		Ledger: r.connect(r.nats), Store: r.store, Authz: r.authz, Identity: r.id, Keys: r.keys, Kinds: kinds.All, Health: health.New(),
		Telemetry: r.tel, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), BootstrapAdmin: "First@Example.com", OwnURL: "http://localhost",
	})
	must(t, err)
	defer s.Close()
	signIn := func(id string, verified bool) {
		t.Helper()
		found := need(r.id.User(t.Context(), id))(t)
		if found.EmailVerified { // nobody has opened a mailed link
			t.Errorf("%+v", found)
		}
		found.EmailVerified = verified
		must(t, s.bootstrap(t.Context(), need(r.store.Get(t.Context(), user.Kind, id))(t), found))
	}
	other, _ := r.in("other", nil)
	first, _ := r.in("first", tenants{"acme": roles("admin")})
	alike, _ := r.in("fir\u017ft", nil)
	signIn(other, true)
	signIn(alike, true)
	signIn(first, false) // by a password, say, of whoever knew the address
	if all := r.events(); len(all) != 0 {
		t.Fatalf("somebody else: %+v", all[0].Decision)
	}
	signIn(first, true)
	all := r.events()
	if len(all) != 1 || all[0].Command.Action != user.ActionBootstrap || all[0].Command.ResourceID != first || all[0].Command.PrincipalID != user.System ||
		string(all[0].Command.Body) != `{"tenant":"default","roles":["admin"]}` || all[0].Decision.Effect != events.Allow {
		t.Fatalf("%d %+v", len(all), all)
	}
	r.in("boss", tenants{"default": roles("admin")})
	signIn(first, true)
	if all := r.events(); len(all) != 1 {
		t.Errorf("although there is an admin: %+v", all[1].Decision)
	}
}

// FuzzStytchWebhook: nothing but what the secret signed is believed, and the library agrees with the definition.
func FuzzStytchWebhook(f *testing.F) {
	const secret = "whsec_YSBzZWNyZXQgb2YgdGhpcnR5LXR3byBieXRlcywgc28="
	signer := need(newWebhook(secret))(f)
	key := []byte("a secret of thirty-two bytes, so")
	at := time.Now()
	stamp := strconv.FormatInt(at.Unix(), 10)
	body := event("UPDATE", "user-test-00000000-0000-4000-8000-000000000000")
	good := need(signer.Sign("msg_1", at, []byte(body)))(f)
	f.Add("msg_1", int64(0), good, body)
	f.Add("msg_1", int64(600), good, body)
	f.Add("msg_1", int64(0), "v1,", "")
	f.Add("", int64(0), "v2,x v1,x", "{}")
	f.Add("a.b", int64(-400), "v1a,AAAA "+good, `{"object_type":"user","id":1}`)
	f.Add("msg_1", int64(0), strings.Repeat("v1,AAAA ", 40)+good, body)
	f.Fuzz(func(t *testing.T, id string, off int64, signature, body string) {
		if strings.ContainsAny(id+signature, "\r\n") {
			return // no header can be so
		}
		seconds := at.Unix() + off%100_000
		header := http.Header{"Svix-Id": {id}, "Svix-Timestamp": {strconv.FormatInt(seconds, 10)}, "Svix-Signature": {signature}}
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%s.%d.%s", id, seconds, body)
		right := base64.StdEncoding.EncodeToString(mac.Sum(nil))
		signed := slices.Contains(strings.Split(signature, " "), "v1,"+right)
		err := signer.Verify([]byte(body), header)
		if err == nil && !signed && !strings.Contains(signature, right) {
			t.Fatalf("believed: %q %q %q", id, signature, body)
		}
		if late := time.Since(time.Unix(seconds, 0)).Abs(); err == nil && late > 5*time.Minute+2*time.Second {
			t.Fatalf("believed although it is %s off", late)
		}
		// What is signed is read without a panic, whatever it is.
		var e stytchEvent
		_ = json.Unmarshal([]byte(body), &e)
		_ = plainText(e.ID)
		if stamp == header.Get("Svix-Timestamp") && id != "" {
			header.Set("Svix-Signature", "v1,"+right)
			if err := signer.Verify([]byte(body), header); err != nil {
				t.Fatalf("not believed although it is signed: %v", err)
			}
		}
	})
}
