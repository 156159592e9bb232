package server

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/kinds"
)

// Every answer that a policy had a say in has its decision on the ledger, once,
// before it is given; allowed or denied, read or write.
func TestEveryAnswerHasItsDecision(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	sam, samToken := r.person("sam", "user")
	_, rimToken := r.person("rim", "user")
	_, johnToken := r.person("john", "manager")
	mine := r.contact(sam)
	for _, c := range []struct {
		name, method, path, token, body string
		status                          int
		action                          string
		effect                          events.Effect
	}{
		{"read", "GET", "/v1/contacts/" + mine, rimToken, "", 200, "read", events.Allow},
		{"read denied looks like no contact", "GET", "/v1/contacts/" + mine, johnToken, "", 404, "read", events.Deny},
		{"create", "POST", "/v1/contacts", samToken, `{"first_name":"personal"}`, 202, "create", events.Allow},
		{"create for another", "POST", "/v1/contacts", samToken, `{"first_name":"personal","owner_id":"rim"}`, 403, "create", events.Deny},
		{"create denied", "POST", "/v1/contacts", johnToken, `{"first_name":"personal"}`, 403, "create", events.Deny},
		{"update", "PATCH", "/v1/contacts/" + mine, samToken, `{"notes":"personal"}`, 202, "update", events.Allow},
		{"update of another's", "PATCH", "/v1/contacts/" + mine, rimToken, `{"notes":"a"}`, 403, "update", events.Deny},
		{"update of an unreadable one", "PATCH", "/v1/contacts/" + mine, johnToken, `{"notes":"a"}`, 404, "update", events.Deny},
		{"give away", "PATCH", "/v1/contacts/" + mine, samToken, `{"owner_id":"rim"}`, 403, "update", events.Deny},
		{"stale If-Match", "DELETE", "/v1/contacts/" + mine, samToken, "", 412, "delete", events.Allow},
		{"delete of another's", "DELETE", "/v1/contacts/" + mine, rimToken, "", 403, "delete", events.Deny},
		{"list", "GET", "/v1/contacts", samToken, "", 200, "list", events.Allow},
		{"list denied", "GET", "/v1/contacts", johnToken, "", 200, "list", events.Deny},
		{"me", "GET", "/v1/me", johnToken, "", 200, "read", events.Allow},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := r.count()
			headers := []string{}
			if c.status == 412 {
				r.bump(mine)
				headers = []string{"If-Match", `"1"`}
			}
			a := r.do(c.method, api+c.path, c.token, c.body, headers...)
			if a.status != c.status {
				t.Fatalf("%d, want %d: %s", a.status, c.status, a.body)
			}
			all := r.events()
			want := 1
			if c.path == "/v1/me" { // and a query plan for each kind and action
				for _, d := range kinds.All {
					want += 5 + len(d.Actions())
				}
			}
			if len(all) != int(before)+want {
				t.Fatalf("%d messages on the ledger, want %d", len(all)-int(before), want)
			}
			e := all[before]
			d := e.Decision
			if d.Action != c.action || d.Effect != c.effect || d.Request.ID == "" || d.Request.Route == "" || d.Policy.Revision == "" {
				t.Fatalf("%+v", d)
			}
			if isWrit := e.Type == events.TypeWrit; isWrit != (c.status == 202) {
				t.Fatalf("a writ: %v", isWrit)
			}
			switch c.status {
			case 403:
				if p := a.problem(t); p.DecisionID != d.ID {
					t.Fatalf("problem names decision %q, the ledger has %q", p.DecisionID, d.ID)
				}
			case 404:
				missing := r.do(c.method, api+"/v1/contacts/"+uuid.Must(uuid.NewV7()).String(), c.token, c.body)
				have, want := a.problem(t), missing.problem(t)
				if have.DecisionID != "" || have.Code != want.Code || have.Title != want.Title {
					t.Fatalf("%+v tells more than %+v", have, want)
				}
			}
			if strings.Contains(string(e.RawDecision), "personal") {
				t.Fatal("the decision holds the resource's content")
			}
		})
	}
}

func (r *rig) bump(id string) {
	r.t.Helper()
	row := need(r.store.Get(r.t.Context(), kindOf("contact"), id))(r.t)
	row.Version++
	r.put(kindOf("contact"), row)
}

func TestBadInputPublishesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	sam, token := r.person("sam", "user")
	mine := r.contact(sam)
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		field                    string
		headers                  []string
	}{
		{"unknown field", "POST", "/v1/contacts", `{"first_name":"a","nickname":"b"}`, 422, "body.nickname", nil},
		{"another letter case", "POST", "/v1/contacts", `{"First_Name":"a"}`, 422, "body.First_Name", nil},
		{"another letter case in a patch", "PATCH", "/v1/contacts/" + mine, `{"Owner_ID":"rim"}`, 422, "body.Owner_ID", nil},
		{"read-only field", "POST", "/v1/contacts", `{"first_name":"a","version":7}`, 422, "body.version", nil},
		{"missing field", "POST", "/v1/contacts", `{"last_name":"a"}`, 422, "body.first_name", nil},
		{"wrong type", "POST", "/v1/contacts", `{"first_name":7}`, 422, "body.first_name", nil},
		{"bad e-mail", "POST", "/v1/contacts", `{"first_name":"a","email":"nope"}`, 422, "body.email", nil},
		{"too long", "POST", "/v1/contacts", `{"first_name":"` + strings.Repeat("a", 201) + `"}`, 422, "body.first_name", nil},
		{"U+0000", "POST", "/v1/contacts", `{"first_name":"a\u0000"}`, 422, "body.first_name", nil},
		{"not UTF-8", "POST", "/v1/contacts", "{\"first_name\":\"\xff\"}", 400, "", nil},
		{"not JSON", "POST", "/v1/contacts", `{"first_name":`, 400, "", nil},
		{"a list", "POST", "/v1/contacts", `[]`, 422, "body", nil},
		{"no body", "POST", "/v1/contacts", ``, 400, "", nil},
		{"too large", "POST", "/v1/contacts", `{"first_name":"a","notes":"` + strings.Repeat("a", 1<<20) + `"}`, 413, "", nil},
		{"another media type", "POST", "/v1/contacts", `first_name=a`, 415, "", []string{"Content-Type", "application/x-www-form-urlencoded"}},
		{"null for a required field", "PATCH", "/v1/contacts/" + mine, `{"first_name":null}`, 422, "body.first_name", nil},
		{"unknown field in a patch", "PATCH", "/v1/contacts/" + mine, `{"id":"x"}`, 422, "body.id", nil},
		{"id that is none", "PATCH", "/v1/contacts/7", `{"notes":"a"}`, 422, "path.id", nil},
		{"an empty key", "POST", "/v1/contacts", `{"first_name":"a"}`, 400, "header.Idempotency-Key", []string{"Idempotency-Key", ""}},
		{"a JSON patch", "PATCH", "/v1/contacts/" + mine, `[{"op":"remove","path":"/notes"}]`, 415, "header.Content-Type", []string{"Content-Type", "application/json-patch+json"}},
		{"a merge patch that says it is a JSON patch", "PATCH", "/v1/contacts/" + mine, `{"notes":"x"}`, 415, "header.Content-Type", []string{"Content-Type", "application/json-patch+json"}},
		{"some other JSON", "POST", "/v1/contacts", `{"first_name":"a"}`, 415, "header.Content-Type", []string{"Content-Type", "application/vnd.x+json"}},
		{"a content coding", "POST", "/v1/contacts", `{"first_name":"a"}`, 415, "header.Content-Encoding", []string{"Content-Encoding", "gzip"}},
		{"a semicolon in a query", "DELETE", "/v1/contacts/" + mine + "?x=a;b", "", 400, "query.x", nil},
		{"a precondition that does not hold", "POST", "/v1/contacts", `{"first_name":"a"}`, 412, "", []string{"If-None-Match", "*"}},
		{"a tag of a list, which has none", "POST", "/v1/contacts", `{"first_name":"a"}`, 412, "", []string{"If-Match", `"1"`}},
		{"Idempotency-Key", "POST", "/v1/contacts", `{"first_name":"a"}`, 422, "header.Idempotency-Key", []string{"Idempotency-Key", `"open`}},
		{"If-Match", "PATCH", "/v1/contacts/" + mine, `{"notes":"a"}`, 422, "header.If-Match", []string{"If-Match", "1"}},
		{"limit", "GET", "/v1/contacts?limit=1000", "", 422, "query.limit", nil},
		{"cursor", "GET", "/v1/contacts?cursor=rubbish", "", 422, "query.cursor", nil},
		{"sort", "GET", "/v1/contacts?sort=colour", "", 422, "query.sort", nil},
		{"unknown parameter", "GET", "/v1/contacts?colour=red", "", 422, "query.colour", nil},
		{"filter of the wrong type", "GET", "/v1/contacts?is_active=maybe", "", 422, "query.is_active", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := r.count()
			a := r.do(c.method, api+c.path, token, c.body, c.headers...)
			if a.status != c.status || a.header.Get("Content-Type") != "application/problem+json" {
				t.Fatalf("%d %s, want %d: %s", a.status, a.header.Get("Content-Type"), c.status, a.body)
			}
			p := a.problem(t)
			named := c.field == ""
			for _, e := range p.Errors {
				named = named || e.Location == c.field
			}
			if !named || p.Code == "" || p.RequestID == "" {
				t.Fatalf("%s is not named: %s", c.field, a.body)
			}
			if after := r.count(); after != before && c.method != "GET" {
				t.Fatal("something was published")
			}
		})
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	_, token := r.person("sam", "user")
	for name, authorization := range map[string]string{
		"none": "", "another scheme": "Basic " + token, "empty": "Bearer ", "rubbish": "Bearer x.y.z", "forged": "Bearer " + token[:len(token)-4] + "AAAA",
	} {
		t.Run(name, func(t *testing.T) {
			a := r.do("GET", api+"/v1/me", "", "", "Authorization", authorization)
			if a.status != 401 || !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer") {
				t.Fatalf("%d %v", a.status, a.header)
			}
		})
	}
	if last := r.count(); last != 0 {
		t.Fatal("something was published")
	}
}

// A role that is taken away counts on the next request, in every instance,
// although the JWT lives on.
func TestRoleCountsAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	apis := []string{r.api(), r.api()}
	sam, token := r.person("sam", "admin")
	other := r.contact("somebody")
	for _, api := range apis {
		if a := r.do("PATCH", api+"/v1/contacts/"+other, token, `{"notes":"a"}`); a.status != 202 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	row := need(r.store.Get(t.Context(), user.Kind, sam))(t)
	u := row.Value.(*user.User)
	u.Tenants, u.Version = map[string]user.Membership{user.DefaultTenant: {Roles: []string{"user"}}}, 2
	r.put(user.Kind, row)
	for _, api := range apis {
		if a := r.do("PATCH", api+"/v1/contacts/"+other, token, `{"notes":"a"}`); a.status != 403 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
}

// Retries with one key at one moment, on two instances: one command, and a
// decision recorded for each.
func TestConcurrentRetriesAreOneCommand(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	apis := []string{r.api(), r.api()}
	_, token := r.person("sam", "user")
	const n = 20
	var wg sync.WaitGroup
	answers := make([]answer, n)
	for i := range n {
		wg.Go(func() {
			answers[i] = r.do("POST", apis[i%2]+"/v1/contacts", token, `{"first_name":"a"}`, "Idempotency-Key", `"k"`)
		})
	}
	wg.Wait()
	first := answers[0].header.Get("Writ-Command")
	resources := map[string]bool{}
	for _, a := range answers {
		var accepted Accepted
		if a.status != 202 || a.header.Get("Writ-Command") != first {
			t.Fatalf("%d %v %s", a.status, a.header, a.body)
		}
		must(t, json.Unmarshal(a.body, &accepted))
		resources[accepted.Resource.ID] = true
	}
	if len(resources) != 1 {
		t.Fatalf("%d resources", len(resources))
	}
	decisions := map[string]bool{}
	for _, e := range r.events() {
		if decisions[e.Decision.ID] = true; e.Type == events.TypeWrit && (e.Command.ID != first || !resources[e.Command.ResourceID]) {
			t.Errorf("a writ of command %s about %s, want only %s", e.Command.ID, e.Command.ResourceID, first)
		}
	}
	if len(decisions) != n {
		t.Fatalf("%d decisions recorded, want one for each of %d requests", len(decisions), n)
	}
	// Another request under the key, while the first is not applied yet: both instances have accepted the first.
	if a := r.do("POST", apis[1]+"/v1/contacts", token, `{"first_name":"b"}`, "Idempotency-Key", `"k"`); a.status != 422 || a.problem(t).Code != "idempotency-key-reused" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	// The bare form is the same key; another principal's is another.
	if a := r.do("POST", apis[0]+"/v1/contacts", token, `{"first_name":"a"}`, "Idempotency-Key", "k"); a.header.Get("Writ-Command") != first {
		t.Fatalf("%d %s", a.status, a.body)
	}
	_, rim := r.person("rim", "user")
	if a := r.do("POST", apis[0]+"/v1/contacts", rim, `{"first_name":"a"}`, "Idempotency-Key", "k"); a.status != 202 || a.header.Get("Writ-Command") == first {
		t.Fatalf("%d %s", a.status, a.body)
	}
}

// A command that another instance accepted and no worker has applied is found
// on the ledger, by its principal only.
func TestAcceptedCommandIsFound(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	one, two := r.api(), r.api()
	_, token := r.person("sam", "user")
	_, rim := r.person("rim", "user")
	for range 5 {
		a := r.do("POST", one+"/v1/contacts", token, `{"first_name":"a"}`)
		for _, api := range []string{one, two} {
			got := r.do("GET", api+a.header.Get("Location"), token, "")
			if got.status != 200 || !strings.Contains(string(got.body), `"status":"accepted"`) {
				t.Fatalf("%d %s", got.status, got.body)
			}
			if got := r.do("GET", api+a.header.Get("Location"), rim, ""); got.status != 404 {
				t.Fatalf("a stranger: %d %s", got.status, got.body)
			}
		}
	}
	if got := r.do("GET", two+"/v1/commands/"+uuid.NewString(), token, ""); got.status != 404 {
		t.Fatalf("%d %s", got.status, got.body)
	}
}

func TestDocuments(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	a := r.do("GET", api+"/openapi.json", "", "")
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]any
	}
	must(t, json.Unmarshal(a.body, &doc))
	if a.status != 200 || !strings.HasPrefix(doc.OpenAPI, "3.1") || doc.Paths["/v1/contacts"]["post"] == nil {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if strings.Contains(string(a.body), "octet-stream") {
		t.Error("the document offers a binary body")
	}
	page := r.do("GET", api+"/docs", "", "")
	if page.status != 200 || !strings.Contains(string(page.body), "/v1/contacts/{id}") || strings.Contains(string(page.body), "<script") {
		t.Fatalf("%d %s", page.status, page.body)
	}
	if a := r.do("GET", api+"/nowhere", "", ""); a.status != 404 || a.problem(t).Code != "not-found" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := r.do("PUT", api+"/v1/contacts", "", ""); a.status != 405 {
		t.Fatalf("%d %s", a.status, a.body)
	}
}
