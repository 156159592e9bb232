package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/problem"
)

// TestQuestionThatNoRecordHoldsIsRefused: AuthZEN counts characters, the ledger bytes.
func TestQuestionThatNoRecordHoldsIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	sam, token := r.person("sam", "user")
	mine := r.contact(sam)
	for name, letter := range map[string]string{"two bytes": "ä", "four bytes": "😀", "escaped": "\u2028", "quotes": `\"`} {
		var changes []string
		for i := range maxChanges {
			changes = append(changes, fmt.Sprintf(`"%s%02d"`, strings.Repeat(letter, 250), i))
		}
		body := `{"subject":{"type":"user","id":"` + sam + `"},"action":{"name":"update","properties":{"changes":[` + strings.Join(changes, ",") + `]}},"resource":{"type":"contact","id":"` + mine + `"}}`
		a := r.do("POST", api+authzenEvaluation, token, body)
		if a.status != http.StatusBadRequest || !strings.Contains(string(a.body), "changes") || !strings.Contains(string(a.body), fmt.Sprint(maxChangesSize)) {
			t.Errorf("%s: %d %.300s, want 400 that names the limit", name, a.status, a.body)
		}
		// And as much as may be asked about can be recorded.
		long := strings.Repeat(letter, maxName)
		a = r.do("POST", api+authzenEvaluation, token, `{"subject":{"type":"user","id":"`+sam+`"},"action":{"name":"update","properties":{"changes":["`+long+`"]}},"resource":{"type":"contact","id":"`+long+`","properties":{"x":"`+long+`"}}}`)
		if a.status >= http.StatusInternalServerError {
			t.Errorf("%s, within the limits: %d %.300s", name, a.status, a.body)
		}
	}
	d := &events.Decision{ID: "x", Resource: events.Resource{Attr: map[string]any{"x": strings.Repeat("x", events.MaxRecord)}}}
	_, err := events.NewDecision(r.keys, d)
	if p := problem.From(t.Context(), nil, tooLarge(d, err)); p.Status != http.StatusRequestEntityTooLarge || !strings.Contains(p.Detail, fmt.Sprint(events.MaxRecord)) {
		t.Errorf("a decision that is too large: %d %s, want 413 that names the limit", p.Status, p.Detail)
	}
}

// TestFailedCommandIsAnsweredAsItIsTold: with the outcome's code and reason, and never as a defect of ours.
func TestFailedCommandIsAnsweredAsItIsTold(t *testing.T) {
	for code, want := range map[string]int{
		"metadata-too-large": 422, "invalid-email": 422, "duplicate-email": 409, "expired": 409, "gone": 409, "not-found": 409, "failed": 409, "": 409,
	} {
		c := &command{ID: "c", Status: events.StatusFailed, Code: code, Reason: "because"}
		p := problem.From(t.Context(), nil, c.outcomeError())
		if p.Status != want || code != "" && p.Code != code || p.Detail != "Because" {
			t.Errorf("%s: %d %s %s, want %d with the outcome's code and reason", code, p.Status, p.Code, p.Detail, want)
		}
	}
}

// TestAddressDoesNotTellWhoIsKnownElsewhere: a tenant that takes somebody in is told
// of them as if they were new.
func TestAddressDoesNotTellWhoIsKnownElsewhere(t *testing.T) {
	at := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	o := &order{asked: &user.New{Email: "x@example.com", FirstName: "Given"}}
	made := user.Sync{Email: "x@example.com", FirstName: "Given", Tenants: tenants{"acme": roles("guest")}}.Apply(nil, "u", at.Add(time.Second))
	old := user.Sync{Email: "x@example.com", FirstName: "Real", LastName: "Name", Tenants: tenants{"globex": roles("user")}}.Apply(nil, "u", at.Add(-time.Hour))
	found := user.Sync{Email: "x@example.com", FirstName: "Real", LastName: "Name", Tenants: tenants{"globex": roles("user"), "acme": roles("guest")}}.Apply(old, "u", at.Add(time.Second))
	shown := func(u *user.User) string {
		u = u.Seen("acme")
		u.Version = 0 // which its owner's tenants count, too
		return string(need(json.Marshal(u))(t))
	}
	a, knownA := o.met(*made, at)
	b, knownB := o.met(*found, at)
	if x, y := shown(a.Value.(*user.User)), shown(b.Value.(*user.User)); x != y || knownA || knownB {
		t.Errorf("somebody new: %v %s\nknown elsewhere: %v %s\nwant the same, and 201", knownA, x, knownB, y)
	}
	o.member = true
	if c, known := o.met(*found, at); !known || c.Value.(*user.User).FirstName != "Real" {
		t.Error("a member of the tenant is not told of as they are")
	}
}

// TestSortTellsNothingHidden: neither the order nor a cursor may hold what is not shown.
func TestSortTellsNothingHidden(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	_, admin := r.person("alice", "admin")
	for _, path := range []string{"/v1/users?sort=roles_command", "/v1/users?sort=-synced", "/v1/expenses?sort=approved_by"} {
		if a := r.do("GET", api+path+"&limit=1", admin, ""); a.status != http.StatusUnprocessableEntity || !strings.Contains(string(a.body), "query.sort") {
			t.Errorf("%s: %d %s, want 422", path, a.status, a.body)
		}
	}
}

// TestOwnerMustBeAUserOfTheTenant: and where somebody is known is not told.
func TestOwnerMustBeAUserOfTheTenant(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	mine := w.contact(w.zoeID)
	var told []string
	for _, owner := range []string{"nobody", w.amyID} {
		for _, c := range [][3]string{{"POST", "/v1/contacts", `{"first_name":"x","owner_id":"` + owner + `"}`}, {"PATCH", "/v1/contacts/" + mine, `{"owner_id":"` + owner + `"}`}} {
			a := w.do(c[0], w.url+c[1], w.alice, c[2])
			if a.status != http.StatusConflict || !bytes.Contains(a.body, []byte("body.owner_id")) {
				t.Errorf("%s %s for %s: %d %s, want 409 that names it", c[0], c[1], owner, a.status, a.body)
			}
			told = append(told, a.problem(t).Detail)
		}
	}
	if told[0] != told[2] || told[1] != told[3] {
		t.Errorf("who is nobody and who is somebody else's are told apart: %q", told)
	}
	if a := w.do("PATCH", w.url+"/v1/contacts/"+mine, w.alice, `{"owner_id":"`+w.aliceID+`"}`); a.status != http.StatusAccepted {
		t.Errorf("to a user of the tenant: %d %s", a.status, a.body)
	}
}

// TestWrongMembersAreTold: 32 of them and how many more; a number that does not fit without Go's types.
func TestWrongMembersAreTold(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	_, token := r.person("sam", "user")
	var b strings.Builder
	for i := range 40_000 {
		fmt.Fprintf(&b, `"unknown%d":1,`, i)
	}
	a := r.do("POST", api+"/v1/contacts", token, `{`+b.String()+`"first_name":"x"}`)
	if p := a.problem(t); a.status != http.StatusUnprocessableEntity || len(p.Errors) != 32 || p.MoreErrors != 40_000-32 || len(a.body) > 16<<10 {
		t.Errorf("%d, %d bytes, %d errors and %d more, want 32 and the rest counted", a.status, len(a.body), len(p.Errors), p.MoreErrors)
	}
	a = r.do("POST", api+"/v1/expenses", token, `{"vendor":"x","amount":1e400}`)
	if a.status/100 != 4 || strings.Contains(string(a.body), "Go ") || strings.Contains(string(a.body), "float64") || !strings.Contains(string(a.body), "1e400") {
		t.Errorf("1e400: %d %s, want 4xx in words of JSON", a.status, a.body)
	}
	a = r.do("PATCH", api+"/v1/contacts/"+r.contact("x"), token, `[]`, "Content-Type", "application/json-patch+json")
	if a.status != http.StatusUnsupportedMediaType || a.header.Get("Accept-Patch") != "application/json, application/merge-patch+json" {
		t.Errorf("a JSON patch: %d %v, want 415 and Accept-Patch", a.status, a.header)
	}
	a = r.do("POST", api+"/v1/contacts", token, `x`, "Content-Encoding", "gzip")
	if a.status != http.StatusUnsupportedMediaType || a.header.Get("Accept-Encoding") != "identity" {
		t.Errorf("a body in gzip: %d %v, want 415 and Accept-Encoding", a.status, a.header)
	}
	a = r.do("POST", api+"/v1/contacts", token, `{"first_name":"x"}`, "Content-Type", "Application/JSON")
	if a.status != http.StatusAccepted {
		t.Errorf("Application/JSON: %d %s, want 202", a.status, a.body)
	}
}
