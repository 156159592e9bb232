package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/events"
)

// ids are what two answers to one question may differ in.
var ids = regexp.MustCompile(`"(decision_id|request_id|trace_id|instance)":"[^"]*"`)

// An AuthZEN request does not tell whether a resource that the asker may not
// read exists.
func TestAuthzenIsNoOracle(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	rim, _ := r.person("rim", "user")
	region := map[string]any{"region": "EMEA", "department": "Sales"}
	there := r.row(kindOf("expense"), "default", rim, `{"vendor":"x","amount":12000,"region":"APAC"}`)
	elsewhere := r.row(kindOf("expense"), "acme", rim, `{"vendor":"x","amount":1}`)
	nowhere := uuid.Must(uuid.NewV7()).String()
	actions := append(actionsOf(kindOf("expense")), "made-up")
	for name, memberships := range map[string][]string{"sam": {"user"}, "mia": {"manager"}, "guest": nil, "away": {"elsewhere"}} {
		m := in("default", region, memberships...)
		if name == "away" {
			m = in("other", region, "admin")
		}
		me, token := r.member(name, m)
		for what, properties := range map[string]string{
			"none": `{}`, "bad": `{"amount":"much"}`, "mine": `{"owner_id":"` + me + `"}`, "mine and bad": `{"owner_id":"` + me + `","region":7}`,
			"mine and open": `{"owner_id":"` + me + `","status":"OPEN","amount":1,"region":"EMEA","department":"Sales","vendor":"x","approved_by":""}`,
			"as it is":      `{"owner_id":"` + rim + `","status":"OPEN","amount":12000,"region":"APAC","vendor":"x"}`,
		} {
			ask := func(path, action, id string) (int, string) {
				about := fmt.Sprintf(`{"subject":{"type":"user","id":%q},"action":{"name":%q},"resource":{"type":"expense","id":%q,"properties":%s}}`, me, action, id, properties)
				if path == authzenEvaluations {
					about = `{"evaluations":[` + about + `,` + about + `]}`
				}
				a := r.do("POST", api+path, token, about)
				return a.status, strings.ReplaceAll(ids.ReplaceAllString(string(a.body), ""), id, "")
			}
			for _, path := range []string{authzenEvaluation, authzenEvaluations, authzenSearchAction} {
				for _, action := range actions {
					if path == authzenSearchAction && action != actions[0] {
						break // it asks about all
					}
					status, want := ask(path, action, nowhere)
					for _, id := range []string{there, elsewhere} {
						if s, got := ask(path, action, id); s != status || got != want {
							t.Errorf("%s, %s, properties %s, %s: %d %s, but of what does not exist %d %s", name, action, what, path, s, got, status, want)
						}
					}
					member := name == "sam" || name == "mia"
					if bad := strings.Contains(what, "bad"); member && action != "made-up" && path != authzenEvaluations && (status == http.StatusBadRequest) != bad {
						t.Errorf("%s, %s, properties %s, %s: %d %s", name, action, what, path, status, want)
					}
					if !member && action != "made-up" && path == authzenEvaluation && (status != 200 || !strings.Contains(want, noSuchUser)) {
						t.Errorf("%s, who is no member, %s, properties %s: %d %s", name, action, what, status, want)
					}
				}
			}
		}
	}
}

// Who may know a resource is told why something is denied: who may read it,
// and who may ask about anybody.
func TestAuthzenTellsReasonsToWhoMayKnow(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	ada, adaToken := r.person("ada", "admin")
	_, aud := r.person("aud", "auditor")
	sam, samToken := r.person("sam", "user")
	rim, rimToken := r.person("rim", "user")
	contact := r.contact(rim)
	expense := r.row(kindOf("expense"), "default", rim, `{"vendor":"x","amount":1}`)
	for _, c := range []struct{ name, token, body, reason string }{
		{"a reader", samToken, question(sam, "delete", "contact", contact), "only the owner or an admin may change or delete a contact"},
		{"no reader", samToken, question(sam, "approve", "expense", expense), untold},
		{"who is denied reading", samToken, question(sam, "read", "expense", expense), untold},
		{"the owner", rimToken, question(rim, "approve", "expense", expense), "nobody may approve"},
		{"an admin about another", adaToken, question(sam, "approve", "expense", expense), "only finance or an admin"},
		{"an auditor about another", aud, question(sam, "read", "expense", expense), "only its owner"},
		{"who makes up what is created", samToken, strings.Replace(question(sam, "create", "expense", expense), `"resource":{`, `"resource":{"properties":{"region":"EMEA"},`, 1), "only an admin may set region"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got AuthzenDecision
			r.ask(api+authzenEvaluation, c.token, c.body, &got)
			if got.Decision || !strings.Contains(got.Context.Reason, c.reason) {
				t.Fatalf("%+v %+v", got, got.Context)
			}
		})
	}
	// Properties that do not fit are so for everybody, whatever there is.
	for _, id := range []string{expense, "new"} {
		body := strings.Replace(question(sam, "read", "expense", id), `"resource":{`, `"resource":{"properties":{"amount":"much"},`, 1)
		if a := r.do("POST", api+authzenEvaluation, adaToken, body); a.status != 400 || a.problem(t).Errors[0].Location != "body.resource.properties" {
			t.Errorf("%s: %d %s", id, a.status, a.body)
		}
	}

	// The ledger names who asked about another, and nobody where they are one.
	before := r.count()
	for subject, token := range map[string]string{sam: adaToken, rim: rimToken, "nobody": adaToken, ada: adaToken} {
		var got AuthzenDecision
		r.ask(api+authzenEvaluation, token, question(subject, "read", "expense", expense), &got)
	}
	var found AuthzenResults[AuthzenEntity]
	r.ask(api+authzenSearchSubject, adaToken, question("-", "read", "expense", expense), &found)
	r.ask(api+authzenSearchResource, adaToken, question(sam, "read", "expense", "-"), &found)
	seen := map[string]int{}
	for _, e := range r.events()[before:] {
		d := e.Decision
		want := ""
		if d.Principal.ID != ada && d.Principal.ID != rim {
			want = ada
		}
		if d.Principal.ID == rim { // asked themselves, or found in the search
			want = map[bool]string{true: ada}[d.Request.Route == authzenSearchSubject]
		}
		var raw struct {
			Asker *string `json:"asker"`
		}
		must(t, json.Unmarshal(e.RawDecision, &raw))
		if d.Asker != want || (raw.Asker != nil) != (want != "") || d.Action == actionCheck && d.Asker != "" {
			t.Errorf("%s of %s by %s: asker %q, want %q", d.Action, d.Resource.Kind, d.Principal.ID, d.Asker, want)
		}
		seen[d.Asker]++
		if d.Effect == events.Allow && d.Principal.ID == "nobody" {
			t.Errorf("%+v", d)
		}
	}
	if seen[ada] < 5 || seen[""] < 5 {
		t.Errorf("%v", seen)
	}
}
