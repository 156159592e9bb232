package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/test/e2e/outside"
)

// named checks that a problem names the part of the request that is wrong.
func named(t *testing.T, what string, problem outside.Problem, location string) {
	t.Helper()
	for _, e := range problem.Errors {
		if strings.HasPrefix(e.Location+" "+e.Message, location) || strings.Contains(e.Location, location) {
			return
		}
	}
	t.Errorf("%s: the problem does not name %s: %+v", what, location, problem)
}

// unpublished checks that nothing has come onto the ledger.
func unpublished(t *testing.T, s *outside.Stack, before uint64) {
	t.Helper()
	for _, r := range outside.Ledger(t, s.NATS) {
		if events.SequenceOf(r.Address) <= before || r.Event.Type == events.TypeCheckpoint { // of what was there before
			continue
		}
		t.Errorf("what was refused must not be published: event %d on %s: %s%s", r.Address, r.Subject, r.Event.RawDecision, r.Event.RawOutcome)
	}
}

const megabyte = 1 << 20

// refusedBodies are bodies that must be refused before anything is published.
func refusedBodies(t *testing.T, s *outside.Stack, p people) {
	var contact outside.Contact
	p.owner.Want(t, http.StatusCreated, &contact, "POST", "/v1/contacts", `{"first_name":"Target"}`, "Prefer", wait)
	outside.Settled(t, s, settle)
	before := outside.Last(t, s.NATS, events.StreamLedger)

	type refused struct {
		name, body string
		status     int
		location   string // "" where no field is to blame
	}
	both := []refused{
		{"unknown field", `{"first_name":"A","nick_name":"B"}`, 422, "body.nick_name"},
		{"unknown field with an odd name", `{"first_name":"A","__proto__":{}}`, 422, "__proto__"},
		{"read-only id", `{"first_name":"A","id":"01890000-0000-7000-8000-000000000000"}`, 422, "id"},
		{"read-only version", `{"first_name":"A","version":7}`, 422, "version"},
		{"read-only tenant", `{"first_name":"A","tenant":"other"}`, 422, "tenant"},
		{"number for text", `{"first_name":5}`, 422, "body.first_name"},
		{"object for text", `{"first_name":{"a":1}}`, 422, "body.first_name"},
		{"text for a boolean", `{"first_name":"A","is_active":"yes"}`, 422, "body.is_active"},
		{"null for a name", `{"first_name":null}`, 422, "body.first_name"},
		{"empty name", `{"first_name":""}`, 422, "body.first_name"},
		{"long name", `{"first_name":"` + strings.Repeat("x", 201) + `"}`, 422, "body.first_name"},
		{"long notes", `{"first_name":"A","notes":"` + strings.Repeat("x", 100_001) + `"}`, 422, "body.notes"},
		{"bad e-mail", `{"first_name":"A","email":"not an address"}`, 422, "body.email"},
		{"e-mail with a name", `{"first_name":"A","email":"Ada <ada@example.com>"}`, 422, "body.email"},
		{"U+0000", `{"first_name":"A","notes":"a\u0000b"}`, 422, "body.notes"},
		{"an array", `[{"first_name":"A"}]`, 422, "body"},
		{"a text", `"first_name"`, 422, "body"},
		{"null", `null`, 422, "body"},
		{"half an object", `{"first_name":"A"`, 400, ""},
		{"two objects", `{"first_name":"A"}{"first_name":"B"}`, 400, ""},
		{"no JSON", `first_name=A`, 400, ""},
		{"a bare NUL byte", "{\"first_name\":\"A\x00\"}", 400, ""},
		{"not UTF-8", "{\"first_name\":\"A\xff\"}", 400, ""},
		{"1 MiB and a byte", `{"first_name":"A"}` + strings.Repeat(" ", megabyte+1-18), 413, ""},
		{"much too large", `{"notes":"` + strings.Repeat("x", 5*megabyte) + `"}`, 413, ""},
	}
	check := func(method, path string, r refused, headers ...string) {
		t.Helper()
		what := method + " with " + r.name
		answer := p.owner.Do(t, method, path, r.body, headers...)
		if answer.Status != r.status {
			t.Errorf("%s: %d, want %d: %s", what, answer.Status, r.status, answer.Body)
			return
		}
		if ct := answer.Header.Get("Content-Type"); !strings.HasPrefix(ct, "application/problem+json") {
			t.Errorf("%s: answered as %s", what, ct)
		}
		var problem outside.Problem
		answer.Decode(t, &problem)
		if problem.Status != r.status || problem.Code == "" || problem.Title == "" {
			t.Errorf("%s: %s", what, answer.Body)
		}
		if r.location != "" {
			named(t, what, problem, r.location)
		}
	}
	for _, r := range both {
		check("POST", "/v1/contacts", r)
		check("PATCH", "/v1/contacts/"+contact.ID, r, "Content-Type", "application/merge-patch+json")
	}
	check("POST", "/v1/contacts", refused{"no first name", `{"last_name":"A"}`, 422, "first_name"})
	check("POST", "/v1/contacts", refused{"nothing in it", `{}`, 422, "first_name"})
	for _, contentType := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/octet-stream", "application/xml"} {
		check("POST", "/v1/contacts", refused{contentType, `{"first_name":"A"}`, 415, ""}, "Content-Type", contentType)
	}
	for _, method := range []string{"POST", "PATCH"} {
		path := "/v1/contacts"
		if method == "PATCH" {
			path += "/" + contact.ID
		}
		if a := p.owner.Do(t, method, path, "", "Content-Type", "application/json"); a.Status != 400 && a.Status != 422 {
			t.Errorf("%s without a body: %d %s", method, a.Status, a.Body)
		}
	}
	for _, method := range []string{"GET", "PATCH", "DELETE"} {
		check(method, "/v1/contacts/not-an-id", refused{"no id", map[string]string{"PATCH": `{"first_name":"A"}`}[method], 422, "path.id"})
	}
	unpublished(t, s, before)
}

// oddBodies look wrong and are not.
func oddBodies(t *testing.T, _ *outside.Stack, p people) {
	for name, c := range map[string]struct{ body, notes string }{
		"exactly 1 MiB":              {`{"first_name":"A","notes":"n"}` + strings.Repeat(" ", megabyte-30), "n"},
		"an escaped escape":          {`{"first_name":"A","notes":"\\u0000"}`, `\u0000`},
		"emoji and markup":           {`{"first_name":"A","notes":"👩‍🚀 <b>&amp;</b> \u2028"}`, "👩‍🚀 <b>&amp;</b> \u2028"},
		"half a surrogate":           {`{"first_name":"A","notes":"\ud800"}`, "\ufffd"},
		"as many notes as there may": {`{"first_name":"A","notes":"` + strings.Repeat("é", 50_000) + strings.Repeat("x", 50_000) + `"}`, strings.Repeat("é", 50_000) + strings.Repeat("x", 50_000)},
	} {
		a := p.owner.Do(t, "POST", "/v1/contacts", c.body, "Prefer", wait)
		if a.Status != http.StatusCreated {
			t.Errorf("%s: %d %.300s", name, a.Status, a.Body)
			continue
		}
		var created, read outside.Contact
		a.Decode(t, &created)
		p.owner.Want(t, http.StatusOK, &read, "GET", "/v1/contacts/"+created.ID, "")
		if read != created || read.Notes != c.notes {
			t.Errorf("%s: created %.200q, read %.200q", name, created.Notes, read.Notes)
		}
	}
	var contact outside.Contact
	p.owner.Want(t, http.StatusCreated, &contact, "POST", "/v1/contacts", `{"first_name":"A"}`, "Prefer", wait, "Content-Type", "application/json; charset=utf-8")
	p.owner.Want(t, http.StatusOK, &contact, "PATCH", "/v1/contacts/"+contact.ID, `{}`, "Prefer", wait, "Content-Type", "application/merge-patch+json")
	p.owner.Want(t, http.StatusOK, &contact, "PATCH", "/v1/contacts/"+contact.ID, `{"is_active":false,"notes":null}`, "Prefer", "respond-async, wait=20;x=y")
	if contact.IsActive {
		t.Errorf("%+v", contact)
	}
}

func refusedHeaders(t *testing.T, s *outside.Stack, p people) {
	var contact outside.Contact
	p.owner.Want(t, http.StatusCreated, &contact, "POST", "/v1/contacts", `{"first_name":"Target"}`, "Prefer", wait)
	outside.Settled(t, s, settle)
	before := outside.Last(t, s.NATS, events.StreamLedger)
	for _, h := range [][2]string{
		{"Idempotency-Key", `"open`}, {"Idempotency-Key", `""`},
		{"Idempotency-Key", strings.Repeat("k", 256)}, {"Idempotency-Key", "clé"}, {"If-Match", "1"}, {"If-Match", strings.Repeat(`"1",`, 20) + `"1"`},
	} {
		var problem outside.Problem
		a := p.owner.Do(t, "PATCH", "/v1/contacts/"+contact.ID, `{"notes":"x"}`, h[0], h[1])
		if a.Status != http.StatusUnprocessableEntity {
			t.Errorf("%s: %s: %d %s", h[0], h[1], a.Status, a.Body)
			continue
		}
		a.Decode(t, &problem)
		named(t, h[0]+": "+h[1], problem, "header."+h[0])
	}
	unpublished(t, s, before)
}

// refusedTokens are credentials that are missing, forged, altered or of another kind.
func refusedTokens(t *testing.T, s *outside.Stack, p people) {
	boss := p.admin.Me(t).Principal.ID
	before := outside.Last(t, s.NATS, events.StreamLedger)
	anyone := p.owner.With("")
	ask := func(what string, headers ...string) {
		t.Helper()
		for _, request := range [][2]string{{"GET", "/v1/me"}, {"POST", "/v1/contacts"}, {"GET", "/v1/contacts"}} {
			a := anyone.Do(t, request[0], request[1], map[string]string{"POST": `{"first_name":"A"}`}[request[0]], headers...)
			if a.Status != http.StatusUnauthorized || !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer") ||
				!strings.HasPrefix(a.Header.Get("Content-Type"), "application/problem+json") {
				t.Errorf("%s, %s %s: %d %v %s", what, request[0], request[1], a.Status, a.Header, a.Body)
			}
		}
	}
	good := p.owner.Token
	ask("nothing")
	for what, authorization := range map[string]string{
		"no scheme": good, "Basic": "Basic dXNlcjpwYXNz", "an empty token": "Bearer ", "rubbish": "Bearer rubbish",
		"what looks like a session token": "Bearer " + strings.Repeat("aB3_", 11), "a very long token": "Bearer " + strings.Repeat("x", 20_000),
		"two dots": "Bearer ..", "no signature": "Bearer " + good[:strings.LastIndex(good, ".")+1],
		"a signature of another": "Bearer " + good[:strings.LastIndex(good, ".")+1] + strings.Repeat("A", 342),
		"alg none":               "Bearer " + forge(t, good, map[string]any{"alg": "none", "typ": "JWT"}, nil),
		"another's subject":      "Bearer " + forge(t, good, nil, map[string]any{"sub": boss}),
		"expired":                "Bearer " + forge(t, good, nil, map[string]any{"exp": 1_000_000_000}),
		"never expiring":         "Bearer " + forge(t, good, nil, map[string]any{"exp": 99_999_999_999}),
	} {
		ask(what, "Authorization", authorization)
	}
	unpublished(t, s, before) // whoever is refused is nobody yet: there is no principal to decide about
	p.owner.Me(t)             // and the good one still is
}

// forge changes a JWT's header or claims and leaves its signature.
func forge(t *testing.T, jwt string, header, claims map[string]any) string {
	t.Helper()
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("not a JWT: %d parts", len(parts))
	}
	for i, change := range []map[string]any{header, claims} {
		if change == nil {
			continue
		}
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			t.Fatal(err)
		}
		var members map[string]any
		if err := json.Unmarshal(raw, &members); err != nil {
			t.Fatal(err)
		}
		for k, v := range change {
			members[k] = v
		}
		if raw, err = json.Marshal(members); err != nil {
			t.Fatal(err)
		}
		parts[i] = base64.RawURLEncoding.EncodeToString(raw)
	}
	return strings.Join(parts, ".")
}

// roleChange gives and takes a role while the same old JWT is used.
func roleChange(t *testing.T, s *outside.Stack, p people) {
	var contact outside.Contact
	p.owner.Want(t, http.StatusCreated, &contact, "POST", "/v1/contacts", `{"first_name":"Mine"}`, "Prefer", wait)
	path := "/v1/contacts/" + contact.ID
	old := p.owner.With(s.SignIn(t, "climber@example.com"))
	old.Want(t, http.StatusForbidden, nil, "PATCH", path, `{"notes":"1"}`)
	s.SignIn(t, "climber@example.com", "admin")
	old.Want(t, http.StatusOK, nil, "PATCH", path, `{"notes":"2"}`, "Prefer", wait)
	s.SignIn(t, "climber@example.com", "user")
	old.Want(t, http.StatusForbidden, nil, "PATCH", path, `{"notes":"3"}`)
	s.SignIn(t, "climber@example.com", "auditor")
	old.Want(t, http.StatusNotFound, nil, "GET", path, "")
	if roles := fmt.Sprint(old.Me(t).Principal.Roles); roles != "[auditor]" {
		t.Errorf("roles %s", roles)
	}
}
