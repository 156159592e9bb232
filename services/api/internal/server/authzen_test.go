package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/kind/video"
	"github.com/writ-project/writ/pkg/request"
	"github.com/writ-project/writ/pkg/testkit"
)

// member makes a user with a session in any tenants.
func (r *rig) member(name string, tenants map[string]user.Membership) (id, token string) {
	r.t.Helper()
	id, token = r.person(name)
	row := need(r.store.Get(r.t.Context(), user.Kind, id))(r.t)
	u := row.Value.(*user.User)
	u.Tenants, u.Version = tenants, 2
	r.put(user.Kind, row)
	return id, token
}

func in(tenant string, attr map[string]any, roles ...string) map[string]user.Membership {
	return map[string]user.Membership{tenant: {Roles: roles, Attr: attr}}
}

// row puts a resource into the database.
func (r *rig) row(d *kind.Definition, tenant, owner, body string) string {
	r.t.Helper()
	id := uuid.Must(uuid.NewV7()).String()
	r.put(d, need(d.Create(id, tenant, owner, []byte(body), time.Now()))(r.t))
	return id
}

// ask posts a question and reads the answer.
func (r *rig) ask(url, token, body string, into any, headers ...string) {
	r.t.Helper()
	a := r.do("POST", url, token, body, headers...)
	if a.status != 200 || a.header.Get("Content-Type") != "application/json" {
		r.t.Fatalf("%s: %d %s: %s", body, a.status, a.header.Get("Content-Type"), a.body)
	}
	must(r.t, json.Unmarshal(a.body, into))
}

func question(subject, action, typ, id string) string {
	return fmt.Sprintf(`{"subject":{"type":"user","id":%q},"action":{"name":%q},"resource":{"type":%q,"id":%q}}`, subject, action, typ, id)
}

func TestAuthzenMetadata(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	a := r.do("GET", api+authzenConfiguration, "", "")
	want := fmt.Sprintf(`{"policy_decision_point":"%[1]s","access_evaluation_endpoint":"%[1]s/access/v1/evaluation",`+
		`"access_evaluations_endpoint":"%[1]s/access/v1/evaluations","search_subject_endpoint":"%[1]s/access/v1/search/subject",`+
		`"search_resource_endpoint":"%[1]s/access/v1/search/resource","search_action_endpoint":"%[1]s/access/v1/search/action"}`, api)
	if a.status != 200 || a.header.Get("Content-Type") != "application/json" || strings.TrimSpace(string(a.body)) != want {
		t.Fatalf("%d %v\n%s\n%s", a.status, a.header, a.body, want)
	}
	if a.header.Get("Cache-Control") != "no-store" {
		t.Error("what the Host header said may be cached")
	}
	public := need((&Server{Config: Config{PublicURL: "https://pdp.example.com/"}}).authzenMetadata(t.Context(), nil))(t)
	if public.Body.PolicyDecisionPoint != "https://pdp.example.com" || public.Body.SearchActionEndpoint != "https://pdp.example.com/access/v1/search/action" {
		t.Errorf("%+v", public)
	}
	for _, path := range []string{authzenEvaluation, authzenEvaluations, authzenSearchAction, authzenSearchResource, authzenSearchSubject} {
		if a := r.do("POST", api+path, "", `{}`); a.status != 401 || a.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s without credentials: %d", path, a.status)
		}
		if a := r.do("GET", api+path, "", ""); a.status != 405 {
			t.Errorf("GET %s: %d", path, a.status)
		}
	}
	if last := r.count(); last != 0 {
		t.Error("something was recorded")
	}
	doc := string(r.do("GET", api+"/openapi.json", "", "").body)
	for _, want := range []string{`"/access/v1/search/subject"`, `"evaluations_semantic"`, `"next_token"`, authzenConfiguration} {
		if !strings.Contains(doc, want) {
			t.Errorf("the OpenAPI document lacks %s", want)
		}
	}
	if strings.Contains(doc, "octet-stream") {
		t.Error("the document offers a binary body")
	}
}

// What is answered about somebody is what the api does when they try.
func TestAuthzenSaysWhatTheAPIDoes(t *testing.T) {
	t.Parallel()
	r := newStudio(t) // with files, so that every action has its route
	api := r.api
	_, ada := r.person("ada", "admin")
	region := func(name string) map[string]any { return map[string]any{"region": name, "department": "Sales"} }
	people := map[string][2]string{}
	for name, m := range map[string]map[string]user.Membership{
		"sam": in("default", region("EMEA"), "user"), "rim": in("default", region("APAC"), "user"), "mia": in("default", region("EMEA"), "manager"),
		"fin": in("default", nil, "finance"), "aud": in("default", nil, "auditor"), "adm": in("default", nil, "admin"), "none": {},
		"away": in("acme", region("EMEA"), "admin"), "both": in("default", region("EMEA"), "user", "manager"),
	} {
		id, token := r.member(name, m)
		people[name] = [2]string{id, token}
	}
	sam := people["sam"][0]
	rows := map[string]string{
		"contact": r.row(kindOf("contact"), "default", sam, `{"first_name":"x"}`),
		"video":   r.row(kindOf("video"), "default", sam, `{"title":"x","region":"EMEA"}`),
		"expense": r.row(kindOf("expense"), "default", sam, `{"vendor":"x","amount":12000,"region":"EMEA"}`),
	}
	compared := map[bool]int{}
	for name, who := range people {
		for typ, id := range rows {
			def := kindOf(typ)
			path := api + "/v1/" + def.Plural + "/" + id
			body := map[string]string{"contact": `{"notes":"x"}`, "video": `{"title":"y"}`, "expense": `{"vendor":"y"}`}[typ]
			tries := map[string]answer{"read": r.do("GET", path, who[1], ""), "update": r.do("PATCH", path, who[1], body), "delete": r.do("DELETE", path, who[1], "")}
			create := map[string]string{"contact": `{"first_name":"x"}`, "video": `{"title":"x"}`, "expense": `{"vendor":"x","amount":1}`}[typ]
			tries["create"] = r.do("POST", api+"/v1/"+def.Plural, who[1], create)
			for _, act := range def.Actions() {
				if act == video.ActionUpload {
					tries[act] = r.do("PUT", path+"/content", who[1], "bytes", "Content-Type", "video/mp4")
					continue
				}
				tries[act] = r.do("POST", path+"/"+act, who[1], "")
			}
			for act, tried := range tries {
				about := question(strings.ToUpper(name)+"@example.com", act, typ, id) // by address, whatever the case
				if act == "create" {
					about = question(who[0], act, typ, "new")
				}
				var got AuthzenDecision
				r.ask(api+authzenEvaluation, ada, about, &got)
				did := tried.status < 300
				if got.Decision != did || (got.Context.Reason == "") != did || got.Context.DecisionID == "" {
					t.Errorf("%s %s %s: %+v %+v, but the api says %d %s", name, act, typ, got, got.Context, tried.status, tried.body)
				}
				if tried.status == 403 && name != "away" && name != "none" && !strings.EqualFold(tried.problem(t).Detail, got.Context.Reason) {
					t.Errorf("%s %s %s: reason %q, the api's %q", name, act, typ, got.Context.Reason, tried.problem(t).Detail)
				}
				compared[did]++
			}
		}
	}
	if compared[true] < 25 || compared[false] < 25 {
		t.Fatalf("compared %v", compared)
	}
}

func TestAuthzenEvaluation(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	_, ada := r.person("ada", "admin")
	_, aud := r.person("aud", "auditor")
	sam, samToken := r.person("sam", "user")
	rim, _ := r.person("rim", "user")
	away, _ := r.member("away", in("acme", nil, "admin"))
	mine := r.contact(sam)
	elsewhere := r.row(kindOf("contact"), "acme", sam, `{"first_name":"x"}`)
	for _, c := range []struct {
		name, token, body string
		decision          bool
		reason            string
	}{
		{"admin about the owner", ada, question(sam, "update", "contact", mine), true, ""},
		{"auditor about the owner", aud, question(sam, "delete", "contact", mine), true, ""},
		{"oneself by id", samToken, question(sam, "delete", "contact", mine), true, ""},
		{"oneself by address", samToken, question("sam@example.com", "delete", "contact", mine), true, ""},
		{"about another", ada, question(rim, "update", "contact", mine), false, "only the owner"},
		{"the specification's example", ada, `{"subject":{"type":"user","id":"sam@example.com"},"resource":{"type":"account","id":"123"},"action":{"name":"can_read","properties":{"method":"GET"}},"context":{"time":"1985-10-26T01:22-07:00"}}`, false, `no resources of type "account"`},
		{"an action that there is not", ada, question(sam, "can_read", "contact", mine), false, `no action "can_read"`},
		{"nobody", ada, question("nobody", "read", "contact", mine), false, noSuchUser},
		{"nobody by address", ada, question("nobody@example.com", "read", "contact", mine), false, noSuchUser},
		{"of another tenant", ada, question(away, "read", "contact", mine), false, noSuchUser},
		{"another type of subject", ada, `{"subject":{"type":"group","id":"` + sam + `"},"action":{"name":"read"},"resource":{"type":"contact","id":"` + mine + `"}}`, false, `no subjects of type "group"`},
		{"members that are not known", ada, `{"extra":1,"Subject":7,"subject":{"type":"user","id":"` + sam + `","x":[]},"action":{"name":"read","x":{}},"resource":{"type":"contact","id":"` + mine + `"},"options":7}`, true, ""},
		{"properties make nobody an admin", ada, `{"subject":{"type":"user","id":"` + rim + `","properties":{"roles":["admin"],"region":"EMEA"}},"action":{"name":"delete"},"resource":{"type":"contact","id":"` + mine + `"},"context":{"roles":["admin"]}}`, false, "only the owner"},
		{"properties make nobody the owner", ada, `{"subject":{"type":"user","id":"` + rim + `"},"action":{"name":"delete"},"resource":{"type":"contact","id":"` + mine + `","properties":{"owner_id":"` + rim + `"}}}`, false, "only the owner"},
		{"what does not exist is what it is said to be", ada, `{"subject":{"type":"user","id":"` + rim + `"},"action":{"name":"delete"},"resource":{"type":"contact","id":"new","properties":{"owner_id":"` + rim + `","is_active":null,"tenant":"acme","colour":"red"}}}`, true, ""},
		{"what does not exist and has no owner", ada, question(rim, "delete", "contact", "new"), false, "owner_id"},
		{"what is in another tenant does not exist", ada, question(sam, "delete", "contact", elsewhere), false, ""},
		{"create one's own", ada, question(sam, "create", "contact", "new"), true, ""},
		{"create another's", ada, `{"subject":{"type":"user","id":"` + rim + `"},"action":{"name":"create"},"resource":{"type":"contact","id":"new","properties":{"owner_id":"` + sam + `"}}}`, false, "for another owner"},
		{"give away", ada, `{"subject":{"type":"user","id":"` + sam + `"},"action":{"name":"update","properties":{"changes":["owner_id"]}},"resource":{"type":"contact","id":"` + mine + `"}}`, false, "give a contact to another owner"},
		{"create and name the region", ada, `{"subject":{"type":"user","id":"` + sam + `"},"action":{"name":"create"},"resource":{"type":"video","id":"new","properties":{"region":"EMEA"}}}`, false, "region"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got AuthzenDecision
			r.ask(api+authzenEvaluation, c.token, c.body, &got)
			if got.Decision != c.decision || !strings.Contains(got.Context.Reason, c.reason) || got.Decision != (got.Context.Reason == "") {
				t.Fatalf("%+v %+v", got, got.Context)
			}
		})
	}
	a := r.do("POST", api+authzenEvaluation, ada, question(sam, "read", "contact", mine), "X-Request-ID", "bfe9eb29-ab87-4ca3-be83-a1d5d8305716")
	if a.header.Get("X-Request-ID") != "bfe9eb29-ab87-4ca3-be83-a1d5d8305716" {
		t.Errorf("X-Request-ID came back as %q", a.header.Get("X-Request-ID"))
	}
}

// Who asks and what is answered are both on the ledger, the subject as the
// principal of the answer.
func TestAuthzenIsOnTheLedger(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	ada, adaToken := r.person("ada", "admin")
	sam, samToken := r.person("sam", "user")
	rim, _ := r.person("rim", "user")
	mine := r.contact(sam)
	var got AuthzenDecision
	r.ask(api+authzenEvaluation, adaToken, question("sam@example.com", "update", "contact", mine), &got, "X-Request-ID", "r1")
	all := r.events()
	if len(all) != 2 {
		t.Fatalf("%d decisions", len(all))
	}
	check, d := all[0].Decision, all[1].Decision
	if check.Principal.ID != ada || check.Resource.Kind != "authzen" || check.Resource.ID != sam || check.Action != "check" || check.Effect != events.Allow ||
		check.Resource.Attr["subject"] != sam || check.Resource.Attr["tenant"] != "default" || check.Request.ID != "r1" {
		t.Errorf("%+v", check)
	}
	if d.ID != got.Context.DecisionID || d.Principal.ID != sam || !slices.Equal(d.Principal.Roles, []string{"user"}) || d.Principal.Version != 1 ||
		d.Resource.ID != mine || d.Resource.Version != 1 || d.Action != "update" || d.Effect != events.Allow || d.Stage != events.StageRequest ||
		d.Request.ID != "r1" || d.Request.Route != authzenEvaluation || d.Policy.Revision == "" {
		t.Errorf("%+v", d)
	}

	// Asking about others takes a permission, for whomever there is or is not.
	for _, id := range []string{rim, "rim@example.com", "nobody", "nobody@example.com", ada} {
		for path, body := range map[string]string{
			authzenEvaluation: question(id, "read", "contact", mine), authzenEvaluations: `{"evaluations":[` + question(sam, "read", "contact", mine) + `,` + question(id, "read", "contact", mine) + `]}`,
			authzenSearchResource: question(id, "read", "contact", mine), authzenSearchAction: question(id, "read", "contact", mine), authzenSearchSubject: question(id, "read", "contact", mine),
		} {
			before := r.count()
			a := r.do("POST", api+path, samToken, body)
			p := a.problem(t)
			if a.status != 403 || !strings.Contains(p.Detail, "somebody else") {
				t.Fatalf("%s about %s: %d %s", path, id, a.status, a.body)
			}
			fresh := r.events()[before:]
			last := fresh[len(fresh)-1].Decision
			if last.ID != p.DecisionID || last.Principal.ID != sam || last.Effect != events.Deny || last.Action != "check" {
				t.Fatalf("%s: %+v", path, last)
			}
		}
	}
	for _, e := range r.events() {
		if strings.Contains(string(e.RawDecision), "@example.com") {
			t.Fatalf("an address is on the ledger: %s", e.RawDecision)
		}
	}
	// What clients make up does not become a subject.
	r.ask(api+authzenEvaluation, samToken, question(sam, "made.up>*", "contact", mine), &got)
	r.ask(api+authzenEvaluation, samToken, question(sam, "read", "made.up>*", mine), &got)
	for _, e := range r.events()[r.count()-4:] {
		if d := e.Decision; d.Action != "check" && (d.Action != notAsked || d.Effect != events.Deny || !strings.Contains(d.Policy.Reason, "made.up>*")) {
			t.Errorf("%+v", d)
		}
	}
}

func TestAuthzenBadRequests(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	_, token := r.person("ada", "admin")
	const subject, act, resource = `"subject":{"type":"user","id":"x"}`, `"action":{"name":"read"}`, `"resource":{"type":"contact","id":"1"}`
	full := subject + "," + act + "," + resource
	for _, c := range []struct {
		name, path, body, field string
		status                  int
		headers                 []string
	}{
		{"not JSON", authzenEvaluation, `{` + full, "", 400, nil},
		{"not UTF-8", authzenEvaluation, "{\"subject\":\"\xff\"}", "", 400, nil},
		{"nothing", authzenEvaluation, ``, "", 400, nil},
		{"more than one value", authzenEvaluation, `{` + full + `}{}`, "", 400, nil},
		{"a list", authzenEvaluation, `[]`, "body", 400, nil},
		{"null", authzenEvaluation, `null`, "body", 400, nil},
		{"a name twice", authzenEvaluation, `{` + full + `,"subject":{"type":"user","id":"y"}}`, "body", 400, nil},
		{"a name twice, escaped", authzenEvaluation, `{` + full + `,"\u0073ubject":{"type":"user","id":"y"}}`, "body", 400, nil},
		{"deep", authzenEvaluation, `{` + full + `,"context":{"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}}`, "body", 400, nil},
		{"NUL", authzenEvaluation, `{"subject":{"type":"user","id":"x\u0000"},` + act + `,` + resource + `}`, "body", 400, nil},
		{"a number that is none", authzenEvaluation, `{` + full + `,"context":{"x":1e999}}`, "body", 400, nil},
		{"too large", authzenEvaluation, `{` + full + `,"context":{"x":"` + strings.Repeat("a", 1<<20) + `"}}`, "", 413, nil},
		{"another media type", authzenEvaluation, `{` + full + `}`, "", 415, []string{"Content-Type", "text/plain"}},
		{"no subject", authzenEvaluation, `{` + act + `,` + resource + `}`, "body.subject", 400, nil},
		{"null subject", authzenEvaluation, `{"subject":null,` + act + `,` + resource + `}`, "body.subject", 400, nil},
		{"subject is a text", authzenEvaluation, `{"subject":"x",` + act + `,` + resource + `}`, "body.subject", 400, nil},
		{"no subject type", authzenEvaluation, `{"subject":{"id":"x"},` + act + `,` + resource + `}`, "body.subject.type", 400, nil},
		{"no subject id", authzenEvaluation, `{"subject":{"type":"user"},` + act + `,` + resource + `}`, "body.subject.id", 400, nil},
		{"another case is another member", authzenEvaluation, `{"subject":{"type":"user","ID":"x"},` + act + `,` + resource + `}`, "body.subject.id", 400, nil},
		{"id is a number", authzenEvaluation, `{"subject":{"type":"user","id":7},` + act + `,` + resource + `}`, "body.subject.id", 400, nil},
		{"empty id", authzenEvaluation, `{"subject":{"type":"user","id":""},` + act + `,` + resource + `}`, "body.subject.id", 400, nil},
		{"long id", authzenEvaluation, `{"subject":{"type":"user","id":"` + strings.Repeat("x", 257) + `"},` + act + `,` + resource + `}`, "body.subject.id", 400, nil},
		{"no action", authzenEvaluation, `{` + subject + `,` + resource + `}`, "body.action", 400, nil},
		{"no action name", authzenEvaluation, `{` + subject + `,"action":{},` + resource + `}`, "body.action.name", 400, nil},
		{"changes", authzenEvaluation, `{` + subject + `,"action":{"name":"update","properties":{"changes":"all"}},` + resource + `}`, "body.action.properties.changes", 400, nil},
		{"no resource", authzenEvaluation, `{` + subject + `,` + act + `}`, "body.resource", 400, nil},
		{"no resource id", authzenEvaluation, `{` + subject + `,` + act + `,"resource":{"type":"contact"}}`, "body.resource.id", 400, nil},
		{"properties are a list", authzenEvaluation, `{` + subject + `,` + act + `,"resource":{"type":"contact","id":"1","properties":[]}}`, "body.resource.properties", 400, nil},
		{"large properties", authzenEvaluation, `{` + subject + `,` + act + `,"resource":{"type":"contact","id":"1","properties":{"x":"` + strings.Repeat("a", maxProperties) + `"}}}`, "body.resource.properties", 400, nil},
		{"properties that do not fit", authzenEvaluation, `{"subject":{"type":"user","id":"ada@example.com"},` + act + `,"resource":{"type":"contact","id":"1","properties":{"is_active":"yes"}}}`, "body.resource.properties", 400, nil},
		{"context is a text", authzenEvaluation, `{` + full + `,"context":"x"}`, "body.context", 400, nil},
		{"no evaluations and not one", authzenEvaluations, `{"evaluations":[]}`, "body.subject", 400, nil},
		{"evaluations are no list", authzenEvaluations, `{"evaluations":{}}`, "body.evaluations", 400, nil},
		{"too many evaluations", authzenEvaluations, `{` + full + `,"evaluations":[{}` + strings.Repeat(`,{}`, 100) + `]}`, "body.evaluations", 400, nil},
		{"semantic", authzenEvaluations, `{` + full + `,"evaluations":[{}],"options":{"evaluations_semantic":"any"}}`, "body.options.evaluations_semantic", 400, nil},
		{"options", authzenEvaluations, `{` + full + `,"evaluations":[{}],"options":[]}`, "body.options", 400, nil},
		{"default is a text", authzenEvaluations, `{` + act + `,"subject":"x","evaluations":[{` + subject + `,` + resource + `}]}`, "body.subject", 400, nil},
		{"limit", authzenSearchResource, `{` + full + `,"page":{"limit":-1}}`, "body.page.limit", 400, nil},
		{"limit in parts", authzenSearchAction, `{` + full + `,"page":{"limit":1.5}}`, "body.page.limit", 400, nil},
		{"page", authzenSearchSubject, `{` + full + `,"page":[]}`, "body.page", 400, nil},
		{"token", authzenSearchResource, `{` + full + `,"page":{"token":"rubbish"}}`, "body.page.token", 400, nil},
		{"token is a number", authzenSearchAction, `{` + full + `,"page":{"token":7}}`, "body.page.token", 400, nil},
		{"search without its action", authzenSearchResource, `{` + subject + `,"resource":{"type":"contact"}}`, "body.action", 400, nil},
		{"search subjects without a type", authzenSearchSubject, `{"subject":{},` + act + `,` + resource + `}`, "body.subject.type", 400, nil},
		{"search actions without a resource", authzenSearchAction, `{` + subject + `}`, "body.resource", 400, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := r.do("POST", api+c.path, token, c.body, c.headers...)
			if a.status != c.status || a.header.Get("Content-Type") != "application/problem+json" {
				t.Fatalf("%d %s: %s", a.status, a.header.Get("Content-Type"), a.body)
			}
			p := a.problem(t)
			if c.field != "" && (len(p.Errors) != 1 || p.Errors[0].Location != c.field) || p.Code == "" || p.RequestID == "" {
				t.Fatalf("%s is not named: %s", c.field, a.body)
			}
		})
	}
}

// Whatever is down: 503 and no answer.
func TestAuthzenFailsClosed(t *testing.T) {
	t.Parallel()
	var ledger *testkit.NATSServer
	pg, pdp := testkit.PostgresServer(t), testkit.CerbosServer(t, "../../../../policies")
	r := newRig(t, func(r *rig) {
		ledger = testkit.NATS(t)
		r.nats = ledger.URL()
		r.open(pg.Database(t))
		az := need(authz.Open(t.Context(), "grpc:"+pdp.GRPCAddr(), authz.WithTimeout(300*time.Millisecond)))(t)
		t.Cleanup(func() { _ = az.Close() })
		r.authz = az
	})
	api := r.api()
	ada, token := r.person("ada", "admin")
	mine := r.contact(ada)
	body := question("ADA@example.com", "read", "contact", mine)
	paths := []string{authzenEvaluation, authzenEvaluations, authzenSearchAction, authzenSearchResource, authzenSearchSubject}
	down := func(what string) {
		t.Helper()
		for _, path := range paths {
			a := r.do("POST", api+path, token, body)
			if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || strings.Contains(string(a.body), "decision\":") {
				t.Errorf("%s down, %s: %d %s", what, path, a.status, a.body)
			}
		}
	}
	for _, path := range paths { // and all of it works with a PDP and PostgreSQL
		if a := r.do("POST", api+path, token, body); a.status != 200 || strings.Contains(string(a.body), `"decision":false`) || strings.Contains(string(a.body), `"results":[]`) {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	before := need(r.ledger.Last(t.Context()))(t)
	ledger.Stop(t)
	down("the ledger")
	ledger.Start(t)
	testkit.Eventually(t, soon, func() error {
		if a := r.do("POST", api+authzenEvaluation, token, body); a.status != 200 {
			return fmt.Errorf("%d %s", a.status, a.body)
		}
		return nil
	})
	testkit.Eventually(t, soon, func() error { // the test's own connection may come back later
		now, err := r.ledger.Last(t.Context())
		if err == nil && now <= before {
			err = fmt.Errorf("%d messages on the ledger, as many as before the answer", now)
		}
		return err
	})
	pdp.Kill()
	down("Cerbos")
	pg.Kill()
	down("the database")
}

// FuzzAuthzenBody: whatever is sent is read or refused with 400, and what is
// read is what every other JSON reader reads.
func FuzzAuthzenBody(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":[1,{"b":null}],"c":"x"}`, `{"a":1,"a":2}`, `[[[[`, `{"a" 1}`, "{\"a\":\"\xff\"}", `{"":{"":[]}}`, `{"a":1}x`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := readMembers(raw)
		var want map[string]any
		if err != nil {
			return
		}
		must(t, json.Unmarshal(raw, &want))
		if string(need(json.Marshal(m))(t)) != string(need(json.Marshal(want))(t)) {
			t.Fatalf("%s became %v", raw, m)
		}
		_, _ = m.evaluation("body")
		_, _ = m.page("", "")
		_, _ = m.semantic()
	})
}

func TestAuthzenMetadataOverTLS(t *testing.T) {
	t.Parallel()
	s := &Server{}
	web := httptest.NewTLSServer(request.Identify(nil)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out, err := s.authzenMetadata(context.WithoutCancel(r.Context()), nil)
		if err == nil {
			err = json.NewEncoder(w).Encode(out.Body)
		}
		if err != nil {
			t.Error(err)
		}
	})))
	defer web.Close()
	res := need(web.Client().Get(web.URL))(t)
	defer res.Body.Close()
	var m AuthzenMetadata
	must(t, json.NewDecoder(res.Body).Decode(&m))
	if m.PolicyDecisionPoint != web.URL || !strings.HasPrefix(m.AccessEvaluationEndpoint, "https://") {
		t.Fatalf("%+v", m)
	}
}
