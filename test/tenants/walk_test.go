package tenants

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/writ-project/writ/test/e2e/outside"
)

// document is what the walk needs of the OpenAPI document.
type document struct {
	Paths map[string]map[string]struct {
		Security *[]any `json:"security"`
	} `json:"paths"`
}

// request is one way to name a thing to an operation. ID in path and body stands for the id.
type request struct {
	kind       string // of the thing that is named, a key of world.things; "" for none
	path, body string
}

// logout is asked for by nobody, for who asks is nobody afterwards.
const logout = "/v1/auth/logout"

// untold are reads that tell nothing to an admin of acme either, and why.
var untold = map[string]string{
	"GET /v1/me":            "it is about oneself",
	"GET /v1/auth/callback": "the link that it opens is no id",
	"GET /v1/queues":        "all tenants' jobs are on them: they are looked after by the tenant default",
}

// operations says for each operation how somebody may name a thing of another tenant to it. An operation that names
// none is sent as it is.
var operations = map[string][]request{
	"GET /v1/me":                              {{path: "/v1/me"}},
	"POST /v1/me/sync":                        {{path: "/v1/me/sync"}},
	"GET /v1/commands":                        {{path: "/v1/commands"}},
	"GET /v1/dead":                            {{path: "/v1/dead"}, {path: "/v1/dead?limit=200"}},
	"GET /v1/dead/{id}":                       {{"dead", "/v1/dead/ID", ""}},
	"DELETE /v1/dead/{id}":                    {{"dead", "/v1/dead/ID?reason=x", ""}},
	"POST /v1/dead/{id}/replay":               {{"dead", "/v1/dead/ID/replay", `{"reason":"x"}`}},
	"GET /v1/jobs":                            {{path: "/v1/jobs"}, {path: "/v1/jobs?limit=100&queue=probe"}},
	"GET /v1/jobs/{id}":                       {{"jobs", "/v1/jobs/ID", ""}, {"films", "/v1/jobs/ID", ""}},
	"POST /v1/jobs/{id}/cancel":               {{"jobs", "/v1/jobs/ID/cancel", ""}},
	"POST /v1/jobs/{id}/retry":                {{"jobs", "/v1/jobs/ID/retry", ""}},
	"GET /v1/queues":                          {{path: "/v1/queues"}},
	"POST /v1/queues/{name}/pause":            {{path: "/v1/queues/probe/pause"}},
	"POST /v1/queues/{name}/resume":           {{path: "/v1/queues/probe/resume"}},
	"GET /v1/videos/{id}/content":             {{"films", "/v1/videos/ID/content", ""}, {"videos", "/v1/videos/ID/content", ""}},
	"PUT /v1/videos/{id}/content":             {{"films", "/v1/videos/ID/content", "bytes"}, {"videos", "/v1/videos/ID/content", "bytes"}},
	"GET /v1/videos/{id}/events":              {{"films", "/v1/videos/ID/events", ""}},
	"GET /account":                            {{path: "/account"}},
	"GET /v1/auth/callback":                   {{"people", "/v1/auth/callback?token=ID", ""}},
	"POST /v1/auth/magic-link":                {{"people", "/v1/auth/magic-link", `{"email":"ID"}`}}, // of addresses, see test/attacks
	"POST /v1/auth/logout":                    {{path: logout}},
	"GET /v1/commands/{id}":                   {{"commands", "/v1/commands/ID", ""}, {"contacts", "/v1/commands/ID", ""}},
	"GET /v1/contacts":                        listing("contacts"),
	"GET /v1/videos":                          listing("videos"),
	"GET /v1/expenses":                        listing("expenses"),
	"POST /v1/contacts":                       creating("contacts", `"first_name":"x"`),
	"POST /v1/videos":                         creating("videos", `"title":"x"`),
	"POST /v1/expenses":                       creating("expenses", `"vendor":"x","amount":1`),
	"GET /v1/contacts/{id}":                   reading("contacts"),
	"GET /v1/videos/{id}":                     reading("videos"),
	"GET /v1/expenses/{id}":                   reading("expenses"),
	"PATCH /v1/contacts/{id}":                 patching("contacts", `"notes":"x"`),
	"PATCH /v1/videos/{id}":                   patching("videos", `"description":"x"`),
	"PATCH /v1/expenses/{id}":                 patching("expenses", `"amount":1`),
	"DELETE /v1/contacts/{id}":                {{"contacts", "/v1/contacts/ID", ""}},
	"DELETE /v1/videos/{id}":                  {{"videos", "/v1/videos/ID", ""}, {"contacts", "/v1/videos/ID", ""}},
	"DELETE /v1/expenses/{id}":                {{"expenses", "/v1/expenses/ID", ""}},
	"POST /v1/expenses/{id}/approve":          {{"expenses", "/v1/expenses/ID/approve", ""}},
	"POST /v1/expenses/{id}/reject":           {{"expenses", "/v1/expenses/ID/reject", ""}},
	"POST /access/v1/evaluation":              asking("/access/v1/evaluation", `"action":{"name":"read"}`),
	"POST /access/v1/evaluations":             asking("/access/v1/evaluations", `"evaluations":[{"action":{"name":"read"}},{"action":{"name":"delete"}}]`),
	"POST /access/v1/search/subject":          asking("/access/v1/search/subject", `"action":{"name":"read"}`),
	"POST /access/v1/search/resource":         asking("/access/v1/search/resource", `"action":{"name":"read"}`),
	"POST /access/v1/search/action":           asking("/access/v1/search/action", ""),
	"GET /.well-known/authzen-configuration":  {{path: "/.well-known/authzen-configuration"}},
	"GET /v1/users":                           {{path: "/v1/users"}, {path: "/v1/users?include=permissions&limit=200"}, {path: "/v1/users?q=" + mark}, {path: "/v1/users?sort=email"}},
	"POST /v1/users":                          {{path: "/v1/users", body: `{"email":"walker@tenants.example"}`}},
	"GET /v1/users/{id}":                      {{"people", "/v1/users/ID", ""}, {"people", "/v1/users/ID?include=permissions", ""}},
	"DELETE /v1/users/{id}":                   {{"people", "/v1/users/ID", ""}},
	"PUT /v1/users/{id}/roles":                {{"people", "/v1/users/ID/roles", `{"roles":["user"]}`}, {"people", "/v1/users/ID/roles", `{"tenant":"acme","roles":["admin"]}`}},
	"GET /v1/tenants":                         {{path: "/v1/tenants"}, {path: "/v1/tenants?q=" + acme}, {path: "/v1/tenants?include=permissions"}},
	"POST /v1/tenants":                        {{path: "/v1/tenants", body: `{"key":"acme","name":"x"}`}},
	"GET /v1/tenants/{key}":                   {{path: "/v1/tenants/acme"}},
	"PATCH /v1/tenants/{key}":                 {{path: "/v1/tenants/acme", body: `{"name":"x"}`}},
	"PUT /v1/tenants/{key}/members/{user}":    {{"people", "/v1/tenants/acme/members/ID", `{"roles":["user"]}`}, {"people", "/v1/tenants/globex/members/ID", `{"roles":["user"]}`}},
	"DELETE /v1/tenants/{key}/members/{user}": {{"people", "/v1/tenants/acme/members/ID", ""}, {"people", "/v1/tenants/globex/members/ID", ""}},
	"POST /v1/webhooks/stytch":                {{path: "/v1/webhooks/stytch", body: `{}`}},
	"GET /v1/webhooks":                        listing("webhooks"),
	"POST /v1/webhooks":                       creating("webhooks", `"url":"https://walker.example/","kinds":["tenant"],"results":["failed"]`),
	"GET /v1/webhooks/{id}":                   reading("webhooks"),
	"PATCH /v1/webhooks/{id}":                 patching("webhooks", `"description":"x"`),
	"DELETE /v1/webhooks/{id}":                {{"webhooks", "/v1/webhooks/ID", ""}, {"contacts", "/v1/webhooks/ID", ""}},
	"POST /v1/webhooks/{id}/enable":           {{"webhooks", "/v1/webhooks/ID/enable", ""}},
	"POST /v1/webhooks/{id}/rotate":           {{"webhooks", "/v1/webhooks/ID/rotate", ""}, {"webhooks", "/v1/webhooks/ID/rotate?overlap=0", ""}},
}

func listing(plural string) []request {
	path := "/v1/" + plural
	return []request{
		{path: path}, {path: path + "?include=permissions&limit=200"}, {path: path + "?q=" + mark}, {path: path + "?sort=-updated_at"},
		{"users", path + "?owner_id=ID", ""},
	}
}

func creating(plural, members string) []request {
	return []request{{"users", "/v1/" + plural, `{` + members + `,"owner_id":"ID"}`}}
}

func reading(plural string) []request {
	path := "/v1/" + plural + "/ID"
	return []request{{plural, path, ""}, {plural, path + "?include=permissions", ""}, {"commands", path, ""}}
}

func patching(plural, members string) []request {
	path := "/v1/" + plural + "/ID"
	return []request{{plural, path, `{` + members + `}`}, {plural, path, `{"owner_id":null}`}, {plural, path, `{"unknown":1}`}}
}

// asking gives the AuthZEN questions: about every kind of thing, and about somebody else's users.
func asking(path, more string) []request {
	if more != "" {
		more = "," + more
	}
	var all []request
	for plural := range bodies {
		all = append(all, request{plural, path, fmt.Sprintf(`{"subject":{"type":"user","id":"ME"},"resource":{"type":%q,"id":"ID"}%s}`, strings.TrimSuffix(plural, "s"), more)})
	}
	return append(all, request{"users", path, `{"subject":{"type":"user","id":"ID"},"resource":{"type":"contact","id":"01a2005e-dd3c-789d-8a31-38f5a05a5841"}` + more + `}`})
}

// outsider is somebody who asks with a tenant in the header.
type outsider struct {
	person
	name, tenant string
	asked        string // all ids of acme's, which the walk gives them
}

func (w *world) outsiders() []outsider {
	var asked strings.Builder
	for _, all := range w.things {
		asked.WriteString(strings.Join(all, " "))
	}
	out := []outsider{
		{person: w.gil, name: "an admin of globex in globex", tenant: globex},
		{person: w.gus, name: "a user of globex in globex", tenant: globex},
		{person: w.gil, name: "an admin of globex in acme", tenant: acme},
		{person: w.dan, name: "an admin of default in acme", tenant: acme},
		{person: w.dan, name: "an admin of default in default", tenant: ""},
		{person: w.gus, name: "a user of globex in default", tenant: ""},
		{person: w.gil, name: "an admin of globex in a tenant that nobody made", tenant: "initech"},
	}
	for i := range out {
		out[i].asked = asked.String()
	}
	return out
}

// walk sends every operation the ids of acme's things, from outside, and what does not exist: the answers must not
// differ, and none may show anything.
func walk(t *testing.T, w *world) {
	seen := map[string]bool{}
	for path, methods := range w.document.Paths {
		for method := range methods {
			op := strings.ToUpper(method) + " " + path
			seen[op] = true
			if len(operations[op]) == 0 {
				t.Errorf("the walk does not know %s", op)
			}
		}
	}
	before := w.everything(t)
	for _, op := range slices.Sorted(maps.Keys(operations)) {
		if !seen[op] {
			t.Errorf("the document does not know %s", op)
			continue
		}
		method, _, _ := strings.Cut(op, " ")
		t.Run(op, func(t *testing.T) {
			if op == "GET /v1/commands" { // there is one that waits
				defer w.waiting(t)()
			}
			for _, o := range w.outsiders() {
				if o.id == w.dan.id && o.tenant == "" && strings.Contains(op, "/v1/tenants") {
					continue // whoever makes the tenants sees them
				}
				for _, r := range operations[op] {
					o.tries(t, w, method, r)
				}
			}
			if method == "GET" && strings.HasPrefix(op, "GET /v1/") && untold[op] == "" || strings.Contains(op, "/access/") {
				w.insiderSees(t, op)
			}
		})
	}
	if after := w.everything(t); after != before {
		t.Errorf("acme has\n%s\nand had\n%s", after, before)
	}
}

// insiderSees checks the walk itself: an admin of acme is told something by the same requests.
func (w *world) insiderSees(t *testing.T, op string) {
	method, _, _ := strings.Cut(op, " ")
	o := outsider{person: w.amy, name: "an admin of acme", tenant: acme}
	for _, r := range operations[op] {
		for _, id := range append(w.things[r.kind], "") {
			sent, a := o.send(t, method, r, id)
			_, b := o.send(t, method, r, uuid.NewString())
			told := id != "" && plain(a, id) != plain(b, id) || slices.ContainsFunc(w.theirs(sent), func(word string) bool { return strings.Contains(string(a.Body), word) })
			if a.Status == http.StatusOK && told {
				return
			}
		}
	}
	t.Errorf("%s tells nothing to an admin of acme either", op)
}

// send sends one request about the thing with an id.
func (o outsider) send(t *testing.T, method string, r request, id string) (sent string, a outside.Answer) {
	t.Helper()
	fill := strings.NewReplacer("ID", id, "ME", o.id).Replace
	headers := []string{"Prefer", wait}
	if o.tenant != "" {
		headers = append(headers, "Writ-Tenant", o.tenant)
	}
	client := o.Client
	if r.path == logout {
		client = o.With("")
	}
	a = client.Do(t, method, fill(r.path), fill(r.body), headers...)
	if a.Status == http.StatusCreated { // an admin may name any owner; what they made must not be in the way of the rest
		o.Want(t, http.StatusNoContent, nil, "DELETE", a.Header.Get("Location"), "", headers...)
	}
	sent = fill(r.path) + " " + fill(r.body)
	if r.path == "/account" { // one's own latest decisions, which name what one has asked for oneself
		sent += o.asked
	}
	return sent, a
}

// tries sends one request for each thing of acme's and one for what does not exist.
func (o outsider) tries(t *testing.T, w *world, method string, r request) {
	what := o.name + ": " + method + " " + r.path
	if r.kind == "" {
		sent, a := o.send(t, method, r, "")
		w.shows(t, what, sent, a)
		if o.tenant == acme || o.tenant == "initech" { // where they are no member
			nothingListed(t, what, a)
		}
		return
	}
	for _, id := range w.things[r.kind] {
		sent, a := o.send(t, method, r, id)
		w.shows(t, what, sent, a)
		none := uuid.NewString()
		switch r.kind {
		case "users", "people":
			none = "user-test-" + none
		case "dead":
			none = "worker.LEDGER.999999999"
		}
		_, b := o.send(t, method, r, none)
		if x, y := plain(a, id), plain(b, none); x != y {
			t.Errorf("%s tells what is there from what is not:\n%s\n%s", what, x, y)
		}
		if denied := strings.Contains(r.path, "/globex/") && a.Status == http.StatusForbidden; denied {
			continue // their own tenant, whose members are not theirs to name
		}
		if strings.Contains(r.path, "/ID") && a.Status != http.StatusNotFound && a.Status != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d %s", what, a.Status, a.Body)
		}
	}
}

// nothingListed checks that a list is an empty one.
func nothingListed(t *testing.T, what string, a outside.Answer) {
	t.Helper()
	var page struct {
		Items []any `json:"items"`
	}
	if strings.Contains(string(a.Body), `"items"`) {
		if a.Decode(t, &page); len(page.Items) > 0 {
			t.Errorf("%s: %s", what, a.Body)
		}
	}
}

// What differs between two answers although nothing was told.
var (
	secrets = regexp.MustCompile(`whsec_[A-Za-z0-9+/=]+`)
	ids     = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	moments = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`)
)

// plain is an answer without what is of its own: the id that was asked for, ids and times of the answer itself.
func plain(a outside.Answer, id string) string {
	h := a.Header.Clone()
	for _, name := range []string{"Date", "X-Request-Id", "Content-Length"} { // the id may be longer, a time shorter
		h.Del(name)
	}
	text := strings.ReplaceAll(fmt.Sprintf("%d %v %s", a.Status, h, a.Body), id, "ID")
	return secrets.ReplaceAllString(moments.ReplaceAllString(ids.ReplaceAllString(text, "UUID"), "TIME"), "SECRET")
}

// everything is all that acme has, as its admin sees it.
func (w *world) everything(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, plural := range append(slices.Sorted(maps.Keys(bodies)), "users", "tenants", "webhooks", "dead", "jobs") {
		a := w.amy.Want(t, http.StatusOK, nil, "GET", "/v1/"+plural+"?limit=200", "", "Writ-Tenant", acme)
		fmt.Fprintf(&all, "%s\n", a.Body)
	}
	return all.String()
}
