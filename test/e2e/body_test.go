package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

// settle is how long the last command may take to be applied and published; a redelivery comes after 5 s.
const settle = 30 * time.Second

const wait = "wait=20"

// people are who acts in the body.
type people struct{ owner, other, admin, olive *outside.Client }

// body is what must hold on every set-up.
func body(t *testing.T, s *outside.Stack) {
	anyone := outside.NewClient(t, s.API, "")
	p := people{
		owner: anyone.With(s.SignIn(t, "owner@example.com")), other: anyone.With(s.SignIn(t, "other@example.com", "user")),
		admin: anyone.With(s.SignIn(t, "boss@example.com", "admin")), olive: anyone.With(s.SignIn(t, "ear@example.com", "auditor")),
	}
	for _, part := range []struct {
		name string
		test func(*testing.T, *outside.Stack, people)
	}{
		{"life of a contact", lifeOfContact}, {"commands", commands}, {"conditional requests", conditional}, {"owners", owners},
		{"one key at once", hasty}, {"lists", lists}, {"list refusals", listRefusals}, {"who I am", whoIAm}, {"refused bodies", refusedBodies}, {"odd bodies", oddBodies},
		{"refused headers", refusedHeaders}, {"refused tokens", refusedTokens}, {"a change of role counts at once", roleChange},
		{"documents", documents}, {"operations", operations},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.test(t, s, p) }) && t.Context().Err() != nil {
			return
		}
	}
}

// lifeOfContact is the story that the README tells.
func lifeOfContact(t *testing.T, s *outside.Stack, p people) {
	const ada = `{"first_name":"Ada","last_name":"Lovelace","email":"ada.life@example.com","notes":"a-very-private-note"}`
	before := outside.Last(t, s.NATS, events.StreamLedger)
	var contact, again outside.Contact
	created := p.owner.Want(t, http.StatusCreated, &contact, "POST", "/v1/contacts", ada, "Prefer", wait, "Idempotency-Key", `"life-1"`)
	if contact.Version != 1 || contact.OwnerID != p.owner.Me(t).Principal.ID || !contact.IsActive || contact.Notes != "a-very-private-note" {
		t.Errorf("created %+v", contact)
	}
	if created.Header.Get("ETag") != `"1"` || created.Header.Get("Location") != "/v1/contacts/"+contact.ID || created.Header.Get("Preference-Applied") == "" {
		t.Errorf("headers of a create: %v", created.Header)
	}
	path := "/v1/contacts/" + contact.ID

	retried := p.owner.Want(t, http.StatusCreated, &again, "POST", "/v1/contacts", ada, "Prefer", wait, "Idempotency-Key", `"life-1"`)
	if retried.CommandID() == "" || retried.CommandID() != created.CommandID() || !bytes.Equal(retried.Body, created.Body) {
		t.Errorf("the same request and key: command %s and %s, body %s and %s", created.CommandID(), retried.CommandID(), created.Body, retried.Body)
	}
	bare := p.owner.Want(t, http.StatusCreated, nil, "POST", "/v1/contacts", ada, "Prefer", wait, "Idempotency-Key", "life-1")
	if bare.CommandID() != created.CommandID() {
		t.Error("a bare key is not the quoted one")
	}
	var problem outside.Problem
	p.owner.Want(t, http.StatusUnprocessableEntity, &problem, "POST", "/v1/contacts", `{"first_name":"Eve"}`, "Prefer", wait, "Idempotency-Key", `"life-1"`)
	if problem.Code != "idempotency-key-reused" {
		t.Errorf("another body under the key: %+v", problem)
	}

	denied := p.other.Want(t, http.StatusForbidden, &problem, "PATCH", path, `{"notes":"mine now"}`, "Prefer", wait)
	if problem.DecisionID == "" || !strings.HasPrefix(denied.Header.Get("Content-Type"), "application/problem+json") {
		t.Errorf("denied: %s %s", denied.Header.Get("Content-Type"), denied.Body)
	}
	p.other.Want(t, http.StatusForbidden, nil, "DELETE", path, "", "Prefer", wait)

	changed := p.owner.Want(t, http.StatusOK, &contact, "PATCH", path, `{"company":"Analytical Engines","last_name":null}`, "Prefer", wait, "If-Match", created.Header.Get("ETag"))
	if contact.Version != 2 || contact.Company != "Analytical Engines" || contact.LastName != "" || contact.FirstName != "Ada" || changed.Header.Get("ETag") != `"2"` {
		t.Errorf("changed: %s %s", changed.Header.Get("ETag"), changed.Body)
	}
	stale := p.owner.Do(t, "PATCH", path, `{"company":"Too late"}`, "Prefer", wait, "If-Match", created.Header.Get("ETag"))
	stale.Decode(t, &problem)
	if stale.Status != http.StatusPreconditionFailed || problem.Code != "version-conflict" {
		t.Errorf("a stale If-Match: %d %s", stale.Status, stale.Body)
	}
	read := p.other.Want(t, http.StatusOK, &contact, "GET", path, "")
	if contact.Version != 2 || contact.Company != "Analytical Engines" || read.Header.Get("ETag") != `"2"` {
		t.Errorf("read: %s", read.Body)
	}
	p.other.Want(t, http.StatusNotModified, nil, "GET", path, "", "If-None-Match", `"2"`)

	p.owner.Want(t, http.StatusNoContent, nil, "DELETE", path, "", "Prefer", wait)
	p.owner.Want(t, http.StatusNotFound, nil, "GET", path, "")
	p.owner.Want(t, http.StatusNotFound, nil, "PATCH", path, `{"company":"Gone"}`)
	p.owner.Want(t, http.StatusNotFound, nil, "DELETE", path, "")
	again2 := p.owner.Want(t, http.StatusCreated, nil, "POST", "/v1/contacts", ada, "Prefer", wait, "Idempotency-Key", `"life-1"`)
	if again2.CommandID() != created.CommandID() || !bytes.Equal(again2.Body, created.Body) {
		t.Error("a retry after the contact is gone must tell the same story")
	}

	// The audit log tells it too: each decision once, and nothing personal.
	audited := outside.Audit(t, s)
	count := map[string]int{}
	for i, r := range audited.Ledger {
		if uint64(i) < before || r.Event.Type == events.TypeOutcome || r.Event.Decision.Resource.ID != contact.ID {
			continue
		}
		d := r.Event.Decision
		count[fmt.Sprintf("%s %s %s", d.Stage, d.Action, d.Effect)]++
		if problem.DecisionID == d.ID && d.Effect != events.Deny {
			t.Errorf("the problem names decision %+v", d)
		}
	}
	for what, want := range map[string]int{
		"request create allow": 1, "request update deny": 1, "request delete deny": 1, "request update allow": 2, // one of them stale
		"request read allow": 2, "request delete allow": 1,
	} {
		if count[what] != want {
			t.Errorf("%d decisions %q on record, want %d: %v", count[what], what, want, count)
		}
	}
	for _, entries := range [][]string{records(audited.Decisions, "decision"), records(audited.Outcomes, "outcome")} {
		for _, record := range entries {
			for _, private := range []string{"a-very-private-note", "Lovelace", "ada.life@example.com", "Analytical Engines"} {
				if strings.Contains(record, private) {
					t.Errorf("the audit log holds %q: %s", private, record)
				}
			}
		}
	}
}

// commands asks what became of commands, as different people.
func commands(t *testing.T, s *outside.Stack, p people) {
	var accepted outside.Accepted
	answer := p.owner.Want(t, http.StatusAccepted, &accepted, "POST", "/v1/contacts", `{"first_name":"Charles"}`)
	if answer.Header.Get("Location") != "/v1/commands/"+accepted.Command.ID || accepted.Command.Status != "accepted" || accepted.Resource.Kind != "contact" {
		t.Errorf("accepted: %v %s", answer.Header, answer.Body)
	}
	path := answer.Header.Get("Location")
	var command outside.Command
	p.owner.Want(t, http.StatusOK, &command, "GET", path, "") // accepted or applied by now, never unknown
	if command.ID != accepted.Command.ID || command.Status != "accepted" && command.Status != "applied" {
		t.Errorf("right after: %+v", command)
	}
	testkit.Eventually(t, settle, func() error {
		p.owner.Want(t, http.StatusOK, &command, "GET", path, "")
		if command.Status != "applied" {
			return fmt.Errorf("%+v", command)
		}
		return nil
	})
	if command.Version != 1 || command.Action != "create" || command.Attempts != 1 || command.DecisionID == "" || command.Resource != accepted.Resource {
		t.Errorf("applied: %+v", command)
	}
	p.admin.Want(t, http.StatusOK, nil, "GET", path, "")
	for _, stranger := range []*outside.Client{p.other, p.olive} {
		var problem outside.Problem
		stranger.Want(t, http.StatusNotFound, &problem, "GET", path, "")
		var unknown outside.Problem
		stranger.Want(t, http.StatusNotFound, &unknown, "GET", "/v1/commands/01890000-0000-7000-8000-000000000000", "")
		if problem.Code != unknown.Code || problem.DecisionID != "" {
			t.Errorf("another's command can be told from none: %+v and %+v", problem, unknown)
		}
	}
	p.owner.Want(t, http.StatusUnprocessableEntity, nil, "GET", "/v1/commands/not-an-id", "")
	// The same key of another principal is another command.
	one := p.owner.Want(t, http.StatusCreated, nil, "POST", "/v1/contacts", `{"first_name":"Key"}`, "Prefer", wait, "Idempotency-Key", "shared")
	two := p.other.Want(t, http.StatusCreated, nil, "POST", "/v1/contacts", `{"first_name":"Key"}`, "Prefer", wait, "Idempotency-Key", "shared")
	if one.CommandID() == two.CommandID() {
		t.Error("two principals share a command because they chose the same key")
	}
}

// conditional races two changes that were made from the same version: one of them wins.
func conditional(t *testing.T, _ *outside.Stack, p people) {
	var contact outside.Contact
	created := p.owner.Want(t, http.StatusCreated, &contact, "POST", "/v1/contacts", `{"first_name":"Race"}`, "Prefer", wait)
	path, tag := "/v1/contacts/"+contact.ID, created.Header.Get("ETag")
	const racers = 8
	answers := make(chan outside.Answer, racers)
	for i := range racers {
		go func() {
			a, err := p.owner.Try(t.Context(), "PATCH", path, fmt.Sprintf(`{"notes":"racer %d"}`, i), "Prefer", wait, "If-Match", tag)
			if err != nil {
				a = outside.Answer{Body: []byte(err.Error())}
			}
			answers <- a
		}()
	}
	won := 0
	for range racers {
		switch a := <-answers; a.Status {
		case http.StatusOK:
			won++
		case http.StatusPreconditionFailed:
			var problem outside.Problem
			a.Decode(t, &problem)
			if problem.Code != "version-conflict" {
				t.Errorf("lost: %s", a.Body)
			}
		default:
			t.Errorf("a racer got %d %s", a.Status, a.Body)
		}
	}
	p.owner.Want(t, http.StatusOK, &contact, "GET", path, "")
	if won != 1 || contact.Version != 2 {
		t.Errorf("%d of %d changes made from version 1 won, version %d", won, racers, contact.Version)
	}
	p.owner.Want(t, http.StatusOK, nil, "PATCH", path, `{"notes":"any"}`, "Prefer", wait, "If-Match", "*")
	p.owner.Want(t, http.StatusOK, nil, "PATCH", path, `{"notes":"one of them"}`, "Prefer", wait, "If-Match", `"1", "3"`)
	p.owner.Want(t, http.StatusPreconditionFailed, nil, "PATCH", path, `{"notes":"weak"}`, "Prefer", wait, "If-Match", `W/"4"`)
	// A version that is still to come is known to be wrong only when it is applied: the command is rejected.
	ahead := p.owner.Do(t, "PATCH", path, `{"notes":"ahead"}`, "Prefer", wait, "If-Match", `"99"`)
	if ahead.Status != http.StatusPreconditionFailed {
		t.Errorf("If-Match of a version to come: %d %s", ahead.Status, ahead.Body)
	}
	var problem outside.Problem
	ahead.Decode(t, &problem)
	var command outside.Command
	p.owner.Want(t, http.StatusOK, &command, "GET", "/v1/commands/"+problem.CommandID, "")
	if command.Status != "rejected" || command.Code != "version-conflict" {
		t.Errorf("the command: %+v", command)
	}
	p.owner.Want(t, http.StatusPreconditionFailed, nil, "DELETE", path, "", "Prefer", wait, "If-Match", `"1"`)
	p.owner.Want(t, http.StatusNoContent, nil, "DELETE", path, "", "Prefer", wait, "If-Match", `"4"`)
}

// owners checks who may name an owner.
func owners(t *testing.T, _ *outside.Stack, p people) {
	owner := p.owner.Me(t).Principal.ID
	var contact outside.Contact
	var problem outside.Problem
	p.admin.Want(t, http.StatusCreated, &contact, "POST", "/v1/contacts", `{"first_name":"Given","owner_id":"`+owner+`"}`, "Prefer", wait)
	if contact.OwnerID != owner {
		t.Errorf("owner %s, want %s", contact.OwnerID, owner)
	}
	p.other.Want(t, http.StatusForbidden, &problem, "POST", "/v1/contacts", `{"first_name":"Foisted","owner_id":"`+owner+`"}`, "Prefer", wait)
	p.owner.Want(t, http.StatusOK, nil, "PATCH", "/v1/contacts/"+contact.ID, `{"phone":"+1 555 0100"}`, "Prefer", wait)
	p.owner.Want(t, http.StatusForbidden, nil, "PATCH", "/v1/contacts/"+contact.ID, `{"owner_id":"`+p.other.Me(t).Principal.ID+`"}`, "Prefer", wait)
	p.admin.Want(t, http.StatusOK, &contact, "PATCH", "/v1/contacts/"+contact.ID, `{"owner_id":"`+p.other.Me(t).Principal.ID+`"}`, "Prefer", wait)
	p.owner.Want(t, http.StatusForbidden, nil, "DELETE", "/v1/contacts/"+contact.ID, "")
	p.other.Want(t, http.StatusNoContent, nil, "DELETE", "/v1/contacts/"+contact.ID, "", "Prefer", wait)
	// Who may not even read gets the answer of a contact that does not exist.
	p.owner.Want(t, http.StatusCreated, &contact, "POST", "/v1/contacts", `{"first_name":"Hidden"}`, "Prefer", wait)
	for _, method := range []string{"GET", "PATCH", "DELETE"} {
		change := map[string]string{"PATCH": `{"notes":"x"}`}[method]
		p.olive.Want(t, http.StatusNotFound, nil, method, "/v1/contacts/"+contact.ID, change)
	}
	p.olive.Want(t, http.StatusForbidden, nil, "POST", "/v1/contacts", `{"first_name":"No"}`)
}

func whoIAm(t *testing.T, _ *outside.Stack, p people) {
	me := p.admin.Me(t).Principal
	if me.Email != "boss@example.com" || !slices.Equal(me.Roles, []string{"admin"}) || me.ID == "" || me.Attr == nil {
		t.Errorf("%+v", me)
	}
}

// documents are what needs no session.
func documents(t *testing.T, s *outside.Stack, p people) {
	anyone := p.owner.With("")
	var api struct {
		OpenAPI string                    `json:"openapi"`
		Paths   map[string]map[string]any `json:"paths"`
	}
	anyone.Want(t, http.StatusOK, &api, "GET", "/openapi.json", "")
	if !strings.HasPrefix(api.OpenAPI, "3.1") {
		t.Errorf("OpenAPI %q", api.OpenAPI)
	}
	for path, methods := range map[string][]string{
		"/v1/contacts": {"get", "post"}, "/v1/contacts/{id}": {"get", "patch", "delete"}, "/v1/commands/{id}": {"get"}, "/v1/me": {"get"},
	} {
		for _, m := range methods {
			if api.Paths[path][m] == nil {
				t.Errorf("openapi.json has no %s %s", m, path)
			}
		}
	}
	docs := anyone.Want(t, http.StatusOK, nil, "GET", "/docs", "")
	if !strings.HasPrefix(docs.Header.Get("Content-Type"), "text/html") || !bytes.Contains(docs.Body, []byte("/v1/contacts")) {
		t.Errorf("docs: %s, %d bytes", docs.Header.Get("Content-Type"), len(docs.Body))
	}
	for _, where := range []string{"/nowhere", "/v1/nowhere", "/v2/contacts"} {
		var problem outside.Problem
		anyone.Want(t, http.StatusNotFound, &problem, "GET", where, "")
		if problem.Code != "not-found" || problem.RequestID == "" {
			t.Errorf("%s: %+v", where, problem)
		}
	}
	anyone.Want(t, http.StatusMethodNotAllowed, nil, "PUT", "/v1/contacts", `{}`)
}

// operations are what orchestrators and Prometheus ask.
func operations(t *testing.T, s *outside.Stack, p people) {
	for service, url := range map[string]string{"api": s.API, "worker": s.Worker, "auditor": s.Auditor} {
		c := outside.NewClient(t, url, "")
		c.Want(t, http.StatusOK, nil, "GET", "/livez", "")
		verbose := c.Want(t, http.StatusOK, nil, "GET", "/readyz?verbose", "")
		wants := map[string][]string{
			"api": {"ledger", "database", "cerbos", "stytch"}, "worker": {"ledger", "database", "cerbos"}, "auditor": {"ledger", "redis", "database", "cerbos", "stytch"},
		}[service]
		for _, want := range wants {
			if !bytes.Contains(verbose.Body, []byte(want)) {
				t.Errorf("%s: readyz does not name %s: %s", service, want, verbose.Body)
			}
		}
		metrics := c.Want(t, http.StatusOK, nil, "GET", "/metrics", "")
		wants = map[string][]string{
			"api":     {"http_server_request_duration_seconds", "writ_decisions_total", `effect="deny"`, "writ_ledger_append_duration_seconds"},
			"worker":  {"writ_apply_batch_size", "writ_apply_batch_duration_seconds", "writ_apply_lag", "writ_apply_commands_total"},
			"auditor": {"writ_audit_lag", "writ_audit_entries_total"},
		}[service]
		for _, want := range wants {
			if !bytes.Contains(metrics.Body, []byte(want)) {
				t.Errorf("%s: no metric %s", service, want)
			}
		}
		if bytes.Contains(metrics.Body, []byte("@example.com")) {
			t.Errorf("%s: metrics hold an e-mail address", service)
		}
	}
}

// decidedTwice checks that each command on the ledger was decided again when it was applied.
func decidedTwice(t *testing.T, s *outside.Stack) {
	outside.Settled(t, s, settle)
	first, second, reused := map[string]bool{}, map[string]int{}, map[string]bool{}
	for _, r := range outside.Ledger(t, s.NATS) {
		switch d := r.Event.Decision; {
		case r.Event.Type == events.TypeWrit:
			first[d.Command.ID] = true
		case r.Event.Type == events.TypeDecision && d.Stage == events.StageApply:
			second[d.Command.ID]++
		case r.Event.Outcome.Code == "idempotency-key-reused":
			reused[r.Event.Outcome.CommandID] = true
		}
	}
	missing := 0
	for id := range first {
		if second[id] != 1 && !reused[id] {
			missing++
		}
	}
	// What is rejected for its idempotency key is so before anybody has to decide.
	if missing > 0 || len(second) != len(first)-len(reused) {
		t.Errorf("%d of %d commands were not decided again exactly once", missing, len(first))
	}
}

// records are one field of stream entries.
func records(entries []redis.XMessage, field string) []string {
	out := make([]string, len(entries))
	for i, e := range entries {
		out[i], _ = e.Values[field].(string)
	}
	return out
}
