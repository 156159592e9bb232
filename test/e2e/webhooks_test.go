package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	svix "github.com/svix/svix-webhooks/go"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

// hook is a webhook as the API shows it.
type hook struct {
	ID             string
	Status         string
	Secret         string
	SecretID       string `json:"secret_id"`
	DisabledReason string `json:"disabled_reason"`
	LastError      string `json:"last_error"`
	Attempts       int
}

// heard is one message that an endpoint got.
type heard struct {
	header http.Header
	body   []byte
	id     string
	Type   string
	Data   struct {
		CommandID  string `json:"command_id"`
		ResourceID string `json:"resource_id"`
		Tenant     string
		Status     string
		Effect     string
	}
}

// endpoint is somebody's server that takes webhooks.
type endpoint struct {
	*httptest.Server
	mu     sync.Mutex
	all    []heard
	answer func(n int, w http.ResponseWriter) // nil: 204
}

func newEndpoint(t *testing.T, answer func(n int, w http.ResponseWriter)) *endpoint {
	t.Helper()
	e := &endpoint{answer: answer}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := heard{header: r.Header, id: r.Header.Get("webhook-id")}
		h.body, _ = io.ReadAll(r.Body)
		if err := json.Unmarshal(h.body, &h); err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s %s: %v", r.Method, r.Header, h.body, err)
		}
		e.mu.Lock()
		e.all = append(e.all, h)
		n := len(e.all)
		e.mu.Unlock()
		if e.answer != nil {
			e.answer(n, w)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) messages() []heard {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]heard(nil), e.all...)
}

// commands are those whose outcomes were heard, and how often.
func (e *endpoint) commands() map[string]int {
	n := map[string]int{}
	for _, h := range e.messages() {
		n[h.Data.CommandID]++
	}
	return n
}

func verified(t *testing.T, secret string, h heard) error {
	t.Helper()
	v, err := svix.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	return v.Verify(h.body, h.header)
}

// TestWebhooks is webhooks as somebody outside has them.
func TestWebhooks(t *testing.T) {
	t.Parallel()
	s := outside.StartServices(t, "webhooks-1", "WRIT_WEBHOOKS_ALLOW_PRIVATE=true")
	admin := outside.NewClient(t, s.API, s.SessionToken(t, "hooks@example.com", "admin"))
	sam := outside.NewClient(t, s.API, s.SessionToken(t, "hooked@example.com", "user"))
	_, second := s.Another(t, "worker")
	outside.Ready(t, second, "")

	t.Run("what is sent", func(t *testing.T) { whatIsSent(t, s, admin, sam) })
	t.Run("secrets", func(t *testing.T) { hookSecrets(t, s, admin) })
	t.Run("tenants", func(t *testing.T) { hooksOfTenants(t, s, admin) })
	t.Run("gone, and enabled again", func(t *testing.T) { goneHook(t, admin) })
	t.Run("limits", func(t *testing.T) { hookLimits(t, admin, sam) })
	t.Run("killed in between", func(t *testing.T) { killedHook(t, s, admin) })
}

func makeHook(t *testing.T, c *outside.Client, body string, headers ...string) hook {
	t.Helper()
	var h hook
	c.Want(t, http.StatusCreated, &h, "POST", "/v1/webhooks", body, append(headers, "Prefer", wait)...)
	if !strings.HasPrefix(h.Secret, "whsec_") || h.Status != "ACTIVE" {
		t.Fatalf("%+v", h)
	}
	return h
}

func (h hook) delete(t *testing.T, c *outside.Client) {
	t.Helper()
	c.Want(t, http.StatusNoContent, nil, "DELETE", "/v1/webhooks/"+h.ID, "", "Prefer", wait)
}

func whatIsSent(t *testing.T, s *outside.Services, admin, sam *outside.Client) {
	all, applied, denials := newEndpoint(t, nil), newEndpoint(t, nil), newEndpoint(t, nil)
	a := makeHook(t, admin, fmt.Sprintf(`{"url":%q}`, all.URL))
	b := makeHook(t, admin, fmt.Sprintf(`{"url":%q,"kinds":["contact"],"actions":["create","delete"],"results":["applied"]}`, applied.URL))
	c := makeHook(t, admin, fmt.Sprintf(`{"url":%q,"results":["deny"]}`, denials.URL))

	var contact outside.Contact
	created := admin.Want(t, http.StatusCreated, &contact, "POST", "/v1/contacts", `{"first_name":"Notforyou","email":"secret.person@example.com"}`, "Prefer", wait).CommandID()
	updated := admin.Want(t, http.StatusOK, nil, "PATCH", "/v1/contacts/"+contact.ID, `{"notes":"Notforyou"}`, "Prefer", wait).CommandID()
	sam.Want(t, http.StatusOK, nil, "GET", "/v1/me", "") // which only asks
	sam.Want(t, http.StatusOK, nil, "GET", "/v1/contacts?include=permissions", "")
	sam.Want(t, http.StatusForbidden, nil, "PATCH", "/v1/contacts/"+contact.ID, `{"notes":"mine"}`)
	sam.Want(t, http.StatusForbidden, nil, "GET", "/v1/dead", "")
	until(t, 20*time.Second, func() bool {
		got := all.commands()
		return got[created] > 0 && got[updated] > 0 && applied.commands()[created] > 0 && len(denials.messages()) >= 2 && len(all.messages()) >= 4
	})
	for _, one := range []struct {
		e *endpoint
		h hook
	}{{all, a}, {applied, b}, {denials, c}} {
		for _, m := range one.e.messages() {
			if err := verified(t, one.h.Secret, m); err != nil {
				t.Errorf("%s: %v", m.body, err)
			}
			if bytes.Contains(m.body, []byte("Notforyou")) || bytes.Contains(m.body, []byte("secret.person")) || bytes.Contains(m.body, []byte("127.0.0.1")) {
				t.Errorf("personal: %s", m.body)
			}
			if m.Data.Tenant != "default" || strings.Contains(m.Type, ".webhook.") || m.id == "" || strings.Contains(m.id, ".") {
				t.Errorf("%s %s", m.id, m.body)
			}
		}
	}
	for _, m := range applied.messages() {
		if m.Type != "outcome.contact.create.applied" && m.Type != "outcome.contact.delete.applied" {
			t.Errorf("%s", m.body)
		}
	}
	for _, m := range denials.messages() {
		if m.Type != "decision.contact.update.deny" && m.Type != "decision.dead.list.deny" || m.Data.Effect != "deny" {
			t.Errorf("a denial of no request that was refused is sent: %s", m.body)
		}
	}
	for _, h := range []hook{a, b, c} {
		h.delete(t, admin)
	}
	// Its queue goes with it.
	until(t, 20*time.Second, func() bool {
		var queues struct{ Items []struct{ Name string } }
		admin.Want(t, http.StatusOK, &queues, "GET", "/v1/queues", "")
		for _, q := range queues.Items {
			if strings.HasPrefix(q.Name, "wh--") {
				return false
			}
		}
		return true
	})
}

// hookSecrets: a secret is shown once, rotated with both signing, and stands nowhere.
func hookSecrets(t *testing.T, s *outside.Services, admin *outside.Client) {
	e := newEndpoint(t, nil)
	body := fmt.Sprintf(`{"url":%q,"kinds":["contact"]}`, e.URL)
	h := makeHook(t, admin, body, "Idempotency-Key", "hook-once")
	if again := makeHook(t, admin, body, "Idempotency-Key", "hook-once"); again != h {
		t.Errorf("%+v, %+v", again, h)
	}
	var rotated hook
	admin.Want(t, http.StatusOK, &rotated, "POST", "/v1/webhooks/"+h.ID+"/rotate", "", "Prefer", wait)
	if rotated.Secret == "" || rotated.Secret == h.Secret || rotated.SecretID == h.SecretID {
		t.Fatalf("%+v", rotated)
	}
	a := admin.Want(t, http.StatusCreated, nil, "POST", "/v1/contacts", `{"first_name":"x"}`, "Prefer", wait)
	until(t, 20*time.Second, func() bool { return e.commands()[a.CommandID()] > 0 })
	m := e.messages()[0]
	if err := verified(t, h.Secret, m); err != nil {
		t.Errorf("the secret before: %v", err)
	}
	if err := verified(t, rotated.Secret, m); err != nil {
		t.Errorf("the secret now: %v", err)
	}
	var last hook
	admin.Want(t, http.StatusOK, &last, "POST", "/v1/webhooks/"+h.ID+"/rotate?overlap=0", "", "Prefer", wait)
	a = admin.Want(t, http.StatusCreated, nil, "POST", "/v1/contacts", `{"first_name":"x"}`, "Prefer", wait)
	until(t, 20*time.Second, func() bool { return e.commands()[a.CommandID()] > 0 })
	m = e.messages()[len(e.messages())-1]
	if verified(t, last.Secret, m) != nil || verified(t, rotated.Secret, m) == nil || verified(t, h.Secret, m) == nil {
		t.Errorf("after a rotation without overlap: %s", m.header)
	}

	for _, path := range []string{"/v1/webhooks/" + h.ID, "/v1/webhooks", "/v1/commands/" + a.CommandID(), "/v1/jobs?limit=100"} {
		got := admin.Want(t, http.StatusOK, nil, "GET", path, "")
		for _, secret := range []string{h.Secret, rotated.Secret, last.Secret} {
			if bytes.Contains(got.Body, []byte(secret[6:])) || bytes.Contains(got.Body, []byte(`"secret"`)) {
				t.Errorf("%s shows a secret: %s", path, got.Body)
			}
		}
	}
	for _, r := range outside.Ledger(t, s.NATS) {
		raw := bytes.Join([][]byte{r.Event.RawDecision, r.Event.RawCommand, r.Event.RawOutcome}, nil)
		for _, secret := range []string{h.Secret, rotated.Secret, last.Secret} {
			if bytes.Contains(raw, []byte(secret[6:])) {
				t.Errorf("the ledger holds a secret: %s", raw)
			}
		}
	}
	h.delete(t, admin)
}

// hooksOfTenants: a tenant hears of itself alone, and others know nothing of its webhooks.
func hooksOfTenants(t *testing.T, s *outside.Services, admin *outside.Client) {
	const other = "globex"
	found, err := s.Identity().CreateUser(t.Context(), identity.User{Email: "globex.admin@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Identity().UpdateUser(t.Context(), found.ID, identity.Update{Tenants: map[string]user.Membership{other: {Roles: []string{"admin"}}}}); err != nil {
		t.Fatal(err)
	}
	theirs := outside.NewClient(t, s.API, s.SessionToken(t, "globex.admin@example.com"))
	mine, their := newEndpoint(t, nil), newEndpoint(t, nil)
	a := makeHook(t, admin, fmt.Sprintf(`{"url":%q}`, mine.URL))
	b := makeHook(t, theirs, fmt.Sprintf(`{"url":%q}`, their.URL), "Writ-Tenant", other)
	here := admin.Want(t, http.StatusCreated, nil, "POST", "/v1/contacts", `{"first_name":"x"}`, "Prefer", wait).CommandID()
	there := theirs.Want(t, http.StatusCreated, nil, "POST", "/v1/contacts", `{"first_name":"x"}`, "Prefer", wait, "Writ-Tenant", other).CommandID()
	until(t, 20*time.Second, func() bool { return mine.commands()[here] > 0 && their.commands()[there] > 0 })
	if mine.commands()[there] > 0 || their.commands()[here] > 0 {
		t.Error("a tenant hears of another")
	}
	theirs.Want(t, http.StatusNotFound, nil, "GET", "/v1/webhooks/"+a.ID, "", "Writ-Tenant", other)
	theirs.Want(t, http.StatusNotFound, nil, "POST", "/v1/webhooks/"+a.ID+"/rotate", "", "Writ-Tenant", other)
	theirs.Want(t, http.StatusNoContent, nil, "DELETE", "/v1/webhooks/"+b.ID, "", "Writ-Tenant", other, "Prefer", wait)
	a.delete(t, admin)
}

// goneHook: 410 disables at once, with a dead letter; enabled again it hears what comes from then on.
func goneHook(t *testing.T, admin *outside.Client) {
	gone := true
	var mu sync.Mutex
	e := newEndpoint(t, func(_ int, w http.ResponseWriter) {
		mu.Lock()
		defer mu.Unlock()
		if gone {
			w.WriteHeader(http.StatusGone)
		}
	})
	h := makeHook(t, admin, fmt.Sprintf(`{"url":%q,"kinds":["contact"]}`, e.URL))
	admin.Want(t, http.StatusConflict, nil, "POST", "/v1/webhooks/"+h.ID+"/enable", "", "Prefer", wait)
	admin.Want(t, http.StatusCreated, nil, "POST", "/v1/contacts", `{"first_name":"x"}`, "Prefer", wait)
	var at hook
	until(t, 20*time.Second, func() bool {
		admin.Want(t, http.StatusOK, &at, "GET", "/v1/webhooks/"+h.ID, "")
		return at.Status == "DISABLED"
	})
	if at.DisabledReason != "gone" || at.Attempts != 1 || !strings.Contains(at.LastError, "410") || len(e.messages()) != 1 {
		t.Errorf("%+v after %d messages", at, len(e.messages()))
	}
	until(t, 20*time.Second, func() bool {
		return strings.Contains(string(admin.Want(t, http.StatusOK, nil, "GET", "/v1/jobs?status=dead", "").Body), h.ID)
	})
	missed := admin.Want(t, http.StatusCreated, nil, "POST", "/v1/contacts", `{"first_name":"missed"}`, "Prefer", wait).CommandID()
	mu.Lock()
	gone = false
	mu.Unlock()
	admin.Want(t, http.StatusOK, &at, "POST", "/v1/webhooks/"+h.ID+"/enable", "", "Prefer", wait)
	if at.Status != "ACTIVE" || at.LastError != "" {
		t.Errorf("%+v", at)
	}
	heard := admin.Want(t, http.StatusCreated, nil, "POST", "/v1/contacts", `{"first_name":"heard"}`, "Prefer", wait).CommandID()
	until(t, 20*time.Second, func() bool { return e.commands()[heard] > 0 })
	_ = missed // sent or not, as the clocks' leeway has it
	h.delete(t, admin)
}

func hookLimits(t *testing.T, admin, sam *outside.Client) {
	for body, status := range map[string]int{
		`{"url":"ftp://example.com/"}`:                                               http.StatusUnprocessableEntity,
		`{"url":"https://a:b@example.com/"}`:                                         http.StatusUnprocessableEntity,
		`{"url":"/relative"}`:                                                        http.StatusUnprocessableEntity,
		`{"url":"https://example.com/#x"}`:                                           http.StatusUnprocessableEntity,
		`{"url":"https://example.com/","kinds":["a.b"]}`:                             http.StatusUnprocessableEntity,
		`{"url":"https://example.com/","results":["maybe"]}`:                         http.StatusUnprocessableEntity,
		`{"url":"https://example.com/","secret_id":"mine"}`:                          http.StatusUnprocessableEntity,
		`{"url":"https://example.com/","status":"DISABLED"}`:                         http.StatusUnprocessableEntity,
		`{"description":"no URL"}`:                                                   http.StatusUnprocessableEntity,
		`{"url":"https://example.com/` + strings.Repeat("x", 2000) + `"}`:            http.StatusUnprocessableEntity,
		`{"url":"https://example.com/","kinds":["` + strings.Repeat("x", 65) + `"]}`: http.StatusUnprocessableEntity,
	} {
		if a := admin.Do(t, "POST", "/v1/webhooks", body); a.Status != status {
			t.Errorf("%s: %d %s", body, a.Status, a.Body)
		}
	}
	sam.Want(t, http.StatusForbidden, nil, "POST", "/v1/webhooks", `{"url":"https://example.com/"}`)
	sam.Want(t, http.StatusOK, nil, "GET", "/v1/webhooks", "")
	var made []hook
	for range 20 {
		made = append(made, makeHook(t, admin, `{"url":"https://example.com/","kinds":["nothing"]}`))
	}
	a := admin.Want(t, http.StatusConflict, nil, "POST", "/v1/webhooks", `{"url":"https://example.com/"}`)
	if !strings.Contains(string(a.Body), "too-many-webhooks") {
		t.Errorf("%s", a.Body)
	}
	admin.Want(t, http.StatusUnprocessableEntity, nil, "PATCH", "/v1/webhooks/"+made[0].ID, `{"url":null}`)
	admin.Want(t, http.StatusUnprocessableEntity, nil, "PATCH", "/v1/webhooks/"+made[0].ID, `{"secret_key":"x"}`)
	admin.Want(t, http.StatusOK, nil, "PATCH", "/v1/webhooks/"+made[0].ID, `{"kinds":["contact"]}`, "Prefer", wait)
	for _, h := range made {
		h.delete(t, admin)
	}
}

// killedHook: both workers are killed while events are dispatched and delivered, one of them to an endpoint that takes
// its time and another to one that is down: every event comes, under one id.
func killedHook(t *testing.T, s *outside.Services, admin *outside.Client) {
	fast := newEndpoint(t, nil)
	down := httptest.NewServer(http.NotFoundHandler())
	down.Close()
	a := makeHook(t, admin, fmt.Sprintf(`{"url":%q,"kinds":["contact"],"results":["applied"]}`, fast.URL))
	b := makeHook(t, admin, fmt.Sprintf(`{"url":%q}`, down.URL))
	const n = 60
	want := map[string]bool{}
	for i := range n {
		got := admin.Want(t, http.StatusAccepted, nil, "POST", "/v1/contacts", `{"first_name":"killed"}`)
		want[got.CommandID()] = true
		if i == n/3 || i == 2*n/3 {
			s.WorkerProc.Kill()
			s.WorkerProc.Start(t)
		}
	}
	until(t, 90*time.Second, func() bool {
		got := fast.commands()
		for id := range want {
			if got[id] == 0 {
				return false
			}
		}
		return true
	})
	repeats := 0
	ids := map[string]string{}
	for _, m := range fast.messages() {
		if before, again := ids[m.id]; again {
			repeats++
			if before != string(m.body) {
				t.Errorf("two messages under one id: %s and %s", before, m.body)
			}
		}
		ids[m.id] = string(m.body)
		if m.id != strings.ReplaceAll(events.OutcomeID(m.Data.CommandID), ".", "_") {
			t.Errorf("%s for %s", m.id, m.body)
		}
	}
	t.Logf("%d events, %d came twice", len(ids), repeats)
	a.delete(t, admin)
	b.delete(t, admin)
}

func until(t *testing.T, within time.Duration, ok func() bool) {
	t.Helper()
	testkit.Eventually(t, within, func() error {
		if !ok() {
			return errors.New("not yet")
		}
		return nil
	})
}
