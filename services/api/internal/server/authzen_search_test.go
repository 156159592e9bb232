package server

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestAuthzenEvaluations(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	_, ada := r.person("ada", "admin")
	sam, _ := r.person("sam", "user")
	rim, _ := r.person("rim", "user")
	mine, theirs := r.contact(sam), r.contact(rim)
	res := func(id string) string { return `{"resource":{"type":"contact","id":"` + id + `"}}` }
	subject := `"subject":{"type":"user","id":"` + sam + `"}`
	for _, c := range []struct {
		name, body string
		want       string // 1 permitted, 0 denied, e denied for an error
		decided    int
	}{
		{"defaults, in order", `{` + subject + `,"action":{"name":"update"},"evaluations":[` + res(mine) + `,` + res(theirs) + `,` + res(mine) + `]}`, "101", 3},
		{"execute_all", `{` + subject + `,"action":{"name":"update"},"options":{"evaluations_semantic":"execute_all","another_option":"value"},"evaluations":[` + res(theirs) + `,` + res(mine) + `]}`, "01", 2},
		{"deny_on_first_deny", `{` + subject + `,"action":{"name":"update"},"options":{"evaluations_semantic":"deny_on_first_deny"},"evaluations":[` + res(mine) + `,` + res(theirs) + `,` + res(mine) + `]}`, "10", 2},
		{"permit_on_first_permit", `{` + subject + `,"action":{"name":"update"},"options":{"evaluations_semantic":"permit_on_first_permit"},"evaluations":[` + res(theirs) + `,` + res(mine) + `,` + res(mine) + `]}`, "01", 2},
		{"an error denies first", `{` + subject + `,"action":{"name":"update"},"options":{"evaluations_semantic":"deny_on_first_deny"},"evaluations":[` + res(mine) + `,{},` + res(mine) + `]}`, "1e", 1},
		{"an error does not permit", `{` + subject + `,"action":{"name":"update"},"options":{"evaluations_semantic":"permit_on_first_permit"},"evaluations":[{},7,` + res(mine) + `,` + res(mine) + `]}`, "ee1", 1},
		{"own members come first", `{` + subject + `,"action":{"name":"update"},"resource":{"type":"contact","id":"` + theirs + `"},"context":{"time":"2024-05-31T15:22-07:00"},
			"evaluations":[{},{"action":{"name":"read"}},{"subject":{"type":"user","id":"rim@example.com"}},{"resource":{"type":"contact","id":"` + mine + `"},"context":{}},{"action":null}]}`, "01110", 5},
		{"a subject is not completed", `{` + subject + `,"action":{"name":"update"},"evaluations":[{"subject":{"type":"user"},"resource":{"type":"contact","id":"1"}}]}`, "e", 0},
		{"properties that do not fit", `{` + subject + `,"action":{"name":"update"},"evaluations":[{"resource":{"type":"contact","id":"1","properties":{"owner_id":7}}},` + res(mine) + `]}`, "e1", 1},
		{"no defaults, several subjects", `{"evaluations":[` + question(sam, "update", "contact", mine) + `,` + question(rim, "update", "contact", mine) + `,` + question("sam@example.com", "update", "contact", theirs) + `,` + question(rim, "update", "contact", theirs) + `,` + question(rim, "can_read", "todo", "1") + `]}`, "10010", 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := r.count()
			a := r.do("POST", api+authzenEvaluations, ada, c.body)
			var got map[string]json.RawMessage
			var list []AuthzenDecision
			must(t, json.Unmarshal(a.body, &got))
			if a.status != 200 || len(got) != 1 {
				t.Fatalf("%d %s", a.status, a.body)
			}
			must(t, json.Unmarshal(got["evaluations"], &list))
			have := ""
			for _, d := range list {
				switch {
				case d.Context.Error != nil:
					have += "e"
					if d.Decision || d.Context.Error.Status != 400 || d.Context.Error.Message == "" {
						t.Errorf("%+v", d.Context.Error)
					}
				case d.Decision:
					have += "1"
				default:
					have += "0"
				}
			}
			if have != c.want {
				t.Fatalf("%s, want %s: %s", have, c.want, a.body)
			}
			decided := map[string]events.Decision{}
			for _, e := range r.events()[before:] {
				if e.Decision.Action != actionCheck {
					decided[e.Decision.ID] = e.Decision
				}
			}
			if len(decided) != c.decided {
				t.Fatalf("%d decisions, want %d", len(decided), c.decided)
			}
			for _, d := range list {
				if on, ok := decided[d.Context.DecisionID]; d.Context.Error == nil && (!ok || (on.Effect == events.Allow) != d.Decision) {
					t.Errorf("%+v is not on the ledger as it was answered", d.Context)
				}
			}
		})
	}
	for _, body := range []string{
		question(sam, "update", "contact", mine), strings.TrimSuffix(question(sam, "update", "contact", mine), "}") + `,"evaluations":[]}`,
	} {
		var got map[string]any
		r.ask(api+authzenEvaluations, ada, body, &got)
		if got["decision"] != true || got["evaluations"] != nil {
			t.Errorf("%v for %s", got, body)
		}
	}
	var got AuthzenDecisions
	r.ask(api+authzenEvaluations, ada, strings.TrimSuffix(question(sam, "update", "contact", mine), "}")+`,"evaluations":[{}`+strings.Repeat(",{}", maxEvaluations-1)+`]}`, &got)
	if len(got.Evaluations) != maxEvaluations || slices.ContainsFunc(got.Evaluations, func(d AuthzenDecision) bool { return !d.Decision }) {
		t.Errorf("%d of %d", len(got.Evaluations), maxEvaluations)
	}
}

// pages follows a search to its end; the later pages name no limit, as in the
// specification's example.
func pages[T any](r *rig, url, token, body string, limit int, headers ...string) (all []T, n int) {
	r.t.Helper()
	body = strings.TrimSuffix(body, "}")
	page := fmt.Sprintf(`{"limit":%d}`, limit)
	for {
		var got AuthzenResults[T]
		a := r.do("POST", url, token, body+`,"page":`+page+`}`, headers...)
		if a.status != 200 || !strings.HasPrefix(string(a.body), `{"page":{"next_token":"`) {
			r.t.Fatalf("%d %s", a.status, a.body)
		}
		must(r.t, json.Unmarshal(a.body, &got))
		if len(got.Results) > limit || got.Page.Count != len(got.Results) || got.Results == nil {
			r.t.Fatalf("limit %d: %s", limit, a.body)
		}
		all, n = append(all, got.Results...), n+1
		if got.Page.NextToken == "" {
			return all, n
		}
		if n > 100 {
			r.t.Fatal("it does not end")
		}
		page = fmt.Sprintf(`{"token":%q}`, got.Page.NextToken)
	}
}

func TestAuthzenSearch(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]option{
		"sqlite": nil, "postgres": {func(r *rig) { r.open(testkit.Postgres(r.t)) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			authzenSearch(t, newRig(t, options...))
		})
	}
}

func authzenSearch(t *testing.T, r *rig) {
	api := r.api()
	ada, adaToken := r.person("ada", "admin")
	sam, samToken := r.person("sam", "user")
	rim, _ := r.member("rim", map[string]user.Membership{"default": {Roles: []string{"user"}}, "acme": {Roles: []string{"admin"}}})
	zoe, zoeToken := r.member("zoe", in("acme", nil, "admin"))
	r.member("tricky", in("other", map[string]any{"acme": map[string]any{}, "default": map[string]any{}}, "admin"))
	aud, _ := r.person("aud", "auditor")
	var mine []string
	for i := range 7 {
		mine = append(mine, r.row(kindOf("expense"), "default", sam, fmt.Sprintf(`{"vendor":"v","amount":%d}`, i)))
		r.row(kindOf("expense"), "default", rim, `{"vendor":"v","amount":1}`)
		r.row(kindOf("expense"), "acme", sam, `{"vendor":"v","amount":1}`)
	}
	ids := func(all []AuthzenEntity, typ string) []string {
		out := []string{}
		for _, e := range all {
			if e.Type != typ {
				t.Fatalf("%+v is no %s", e, typ)
			}
			out = append(out, e.ID)
		}
		slices.Sort(out)
		return out
	}
	sorted := func(all ...string) []string { slices.Sort(all); return all }

	t.Run("resources", func(t *testing.T) {
		search := `{"subject":{"type":"user","id":"sam@example.com"},"action":{"name":"update"},"resource":{"type":"expense","id":"ignored"},"context":{"time":"2024-10-26T01:22-07:00"}}`
		all, n := pages[AuthzenEntity](r, api+authzenSearchResource, adaToken, search, 3)
		if !slices.Equal(ids(all, "expense"), sorted(mine...)) || n != 3 {
			t.Fatalf("%v in %d pages, want %v", all, n, mine)
		}
		own, _ := pages[AuthzenEntity](r, api+authzenSearchResource, samToken, search, 100)
		if !slices.Equal(ids(own, "expense"), sorted(mine...)) {
			t.Fatalf("about oneself: %v", own)
		}
		for _, e := range all { // what a search gives is permitted
			var d AuthzenDecision
			r.ask(api+authzenEvaluation, adaToken, question(sam, "update", "expense", e.ID), &d)
			if !d.Decision {
				t.Errorf("%+v", d.Context)
			}
		}
		everything, _ := pages[AuthzenEntity](r, api+authzenSearchResource, adaToken, question(ada, "delete", "expense", "-"), 100)
		if len(everything) != 14 {
			t.Errorf("an admin may delete %d of 14", len(everything))
		}
		for why, body := range map[string]string{
			noSuchUser: question(zoe, "read", "expense", "-"), noSuchUser + " ": question("nobody@example.com", "read", "expense", "-"), `no action "can_read"`: question(sam, "can_read", "expense", "-"),
			`no resources of type "account"`: question(sam, "read", "account", "-"), "allows read of no": question(aud, "read", "contact", "-"),
		} {
			var got AuthzenResults[AuthzenEntity]
			r.ask(api+authzenSearchResource, adaToken, body, &got)
			if len(got.Results) != 0 || got.Page.NextToken != "" || got.Context == nil || !strings.Contains(got.Context.Reason+" ", why) {
				t.Errorf("%s: %+v %+v", why, got, got.Context)
			}
		}
	})

	t.Run("tokens are of one search", func(t *testing.T) {
		search := func(subject, page string) answer {
			return r.do("POST", api+authzenSearchResource, adaToken, strings.TrimSuffix(question(subject, "read", "expense", "-"), "}")+`,"page":`+page+`}`)
		}
		var first AuthzenResults[AuthzenEntity]
		must(t, json.Unmarshal(search(sam, `{"limit":2}`).body, &first))
		token := first.Page.NextToken
		for page, status := range map[string]int{
			`{"limit":2,"token":"` + token + `"}`: 200, `{"token":"` + token + `"}`: 200, `{"token":"` + token + `","properties":{}}`: 200, `{"token":"` + token + `","limit":3}`: 400,
			`{"token":"` + token + `","properties":{"x":1}}`: 400, `{"token":"` + token[:len(token)-3] + `"}`: 400,
			`{"token":"` + pageToken{Of: "x", Limit: 2}.String() + `"}`: 400,
		} {
			if a := search(sam, page); a.status != status {
				t.Errorf("%s: %d %s", page, a.status, a.body)
			}
		}
		if a := search(ada, `{"token":"`+token+`"}`); a.status != 400 || a.problem(t).Errors[0].Location != "body.page.token" {
			t.Errorf("another subject: %d %s", a.status, a.body)
		}
		var none AuthzenResults[AuthzenEntity]
		must(t, json.Unmarshal(search(sam, `{"limit":0}`).body, &none))
		if len(none.Results) != 0 || none.Page.NextToken == "" {
			t.Errorf("%+v", none)
		}
	})

	t.Run("subjects", func(t *testing.T) {
		for act, want := range map[string][]string{"read": sorted(ada, sam), "delete": sorted(ada, sam), "approve": {ada}, "view:approver": {ada}} {
			search := `{"subject":{"type":"user","id":"ignored"},"action":{"name":"` + act + `"},"resource":{"type":"expense","id":"` + mine[0] + `"}}`
			for _, limit := range []int{1, 2, 50} {
				before := r.count()
				all, n := pages[AuthzenEntity](r, api+authzenSearchSubject, adaToken, search, limit)
				if !slices.Equal(ids(all, "user"), want) {
					t.Errorf("%s, limit %d: %v, want %v", act, limit, all, want)
				}
				checks, asked := 0, 0
				for _, e := range r.events()[before:] {
					if d := e.Decision; d.Action == actionCheck && d.Principal.ID == ada && d.Resource.ID == anybody {
						checks++
					} else if d.Action == act && d.Resource.ID == mine[0] {
						asked++
					}
				}
				if checks != n || asked != 4 { // ada, sam, rim and aud are this tenant's
					t.Errorf("%s: %d checks and %d decisions for %d pages", act, checks, asked, n)
				}
			}
		}
		acme, _ := pages[AuthzenEntity](r, api+authzenSearchSubject, zoeToken, question("-", "create", "contact", "new"), 2, gate.TenantHeader, "acme")
		if !slices.Equal(ids(acme, "user"), sorted(rim, zoe)) {
			t.Errorf("in acme: %v", acme)
		}
		for why, body := range map[string]string{
			`no subjects of type "group"`:    `{"subject":{"type":"group"},"action":{"name":"read"},"resource":{"type":"contact","id":"1"}}`,
			`no resources of type "account"`: question("-", "can_read", "account", "123"), `no action "can_read"`: question("-", "can_read", "contact", "123"),
		} {
			var got AuthzenResults[AuthzenEntity]
			r.ask(api+authzenSearchSubject, adaToken, body, &got)
			if len(got.Results) != 0 || got.Page.NextToken != "" || got.Context == nil || !strings.Contains(got.Context.Reason, why) {
				t.Errorf("%s: %+v %+v", why, got, got.Context)
			}
		}
	})

	t.Run("actions", func(t *testing.T) {
		for subject, want := range map[string][]string{
			sam: {"create", "read", "list", "update", "delete"}, ada: actionsOf(kindOf("expense")), aud: nil, "nobody": nil,
		} {
			for _, limit := range []int{2, 50} {
				all, _ := pages[AuthzenAction](r, api+authzenSearchAction, adaToken, question(subject, "-", "expense", mine[0]), limit)
				var have []string
				for _, a := range all {
					have = append(have, a.Name)
					var d AuthzenDecision
					if r.ask(api+authzenEvaluation, adaToken, question(subject, a.Name, "expense", mine[0]), &d); !d.Decision {
						t.Errorf("%s: %+v", a.Name, d.Context)
					}
				}
				if !slices.Equal(have, want) {
					t.Errorf("%s, limit %d: %v, want %v", subject, limit, have, want)
				}
			}
		}
		var got AuthzenResults[AuthzenAction]
		r.ask(api+authzenSearchAction, adaToken, question(sam, "-", "account", "123"), &got)
		if len(got.Results) != 0 || got.Context == nil {
			t.Errorf("%+v", got)
		}
	})

	t.Run("tenants", func(t *testing.T) {
		acme := []string{gate.TenantHeader, "acme"}
		for name, body := range map[string]string{"resources": question(sam, "read", "expense", "-"), "sam's": question("sam@example.com", "update", "expense", "-")} {
			if all, _ := pages[AuthzenEntity](r, api+authzenSearchResource, zoeToken, body, 100, acme...); len(all) != 0 {
				t.Errorf("%s of who is nobody in acme: %v", name, all)
			}
		}
		all, _ := pages[AuthzenEntity](r, api+authzenSearchResource, zoeToken, question(zoe, "read", "expense", "-"), 100, acme...)
		for _, e := range all {
			if slices.Contains(mine, e.ID) {
				t.Errorf("%s is another tenant's", e.ID)
			}
		}
		// A row of another tenant is like one that does not exist.
		var there, nowhere AuthzenDecision
		r.ask(api+authzenEvaluation, zoeToken, question(zoe, "update", "expense", mine[0]), &there, acme...)
		r.ask(api+authzenEvaluation, zoeToken, question(zoe, "update", "expense", "nowhere"), &nowhere, acme...)
		if there.Decision != nowhere.Decision || there.Context.Reason != nowhere.Context.Reason {
			t.Errorf("%+v and %+v", there.Context, nowhere.Context)
		}
		// Who is a member elsewhere is like who does not exist.
		r.ask(api+authzenEvaluation, zoeToken, question(sam, "update", "expense", "new"), &there, acme...)
		r.ask(api+authzenEvaluation, zoeToken, question("nobody", "update", "expense", "new"), &nowhere, acme...)
		if there.Decision || nowhere.Decision || there.Context.Reason != nowhere.Context.Reason {
			t.Errorf("%+v and %+v", there.Context, nowhere.Context)
		}
		for _, e := range r.events() {
			if d := e.Decision; d.Principal.ID == zoe && d.Action == actionCheck && d.Tenant != "acme" {
				t.Errorf("%+v", d)
			}
		}
	})
}

// A directory that is larger than what one request looks through: short pages
// that go on, and everybody once.
func TestAuthzenSearchesALargeDirectory(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	ada, token := r.person("ada", "admin")
	for i := range 2 * maxUsers {
		id := fmt.Sprintf("user-test-%04d", i)
		r.put(user.Kind, *user.Sync{Email: id + "@example.org", Tenants: in("default", nil, "auditor")}.Apply(nil, id, time.Now()))
	}
	mine := r.contact(ada)
	all, n := pages[AuthzenEntity](r, api+authzenSearchSubject, token, question("-", "delete", "contact", mine), 100)
	if len(all) != 1 || all[0].ID != ada || n != 3 {
		t.Fatalf("%v in %d pages", all, n)
	}
}
