package events

import (
	"encoding/json"
	"testing"
)

func TestQuestionsAreToldFromRefusals(t *testing.T) {
	for _, c := range []struct {
		name string
		d    Decision
		want bool
	}{
		{"a plan of GET /v1/me", about("GET", "/v1/me", "contact", "", "delete", true), true},
		{"a plan of reads of GET /v1/me", about("GET", "/v1/me", "webhook", "", "list", true), true},
		{"a plan of POST /v1/me/sync", about("POST", "/v1/me/sync", "contact", "", "create", true), true},
		{"who may not read themselves", about("GET", "/v1/me", "user", "u1", "read", false), false},
		{"who may not sync themselves", about("POST", "/v1/me/sync", "user", "u1", "sync", false), false},
		{"a permission of a row", about("GET", "/v1/contacts/{id}", "contact", "c1", "delete", false), true},
		{"a permission of a listed row", about("GET", "/v1/contacts", "contact", "c1", "update", false), true},
		{"a row that a list leaves out", about("GET", "/v1/contacts", "contact", "c1", "list", false), true},
		{"a field that is left out", about("PATCH", "/v1/expenses/{id}", "expense", "e1", "view:approver", false), true},
		{"AuthZEN's evaluation", about("POST", "/access/v1/evaluation", "contact", "c1", "delete", false), true},
		{"leave to ask AuthZEN", about("POST", "/access/v1/evaluation", "authzen", "", "check", false), false},
		{"a refused read", about("GET", "/v1/contacts/{id}", "contact", "c1", "read", false), false},
		{"a refused list", about("GET", "/v1/contacts", "contact", "", "list", true), false},
		{"a refused look at all dead letters", about("GET", "/v1/dead", "dead", "*", "list", false), false},
		{"a refused export", about("GET", "/v1/decisions/export", "audit", "a1", "export", false), false},
		{"a refused delete", about("DELETE", "/v1/contacts/{id}", "contact", "c1", "delete", false), false},
		{"a refused transition", about("POST", "/v1/expenses/{id}/approve", "expense", "e1", "approve", false), false},
		{"a job's refused act", about("", RouteJob+"probe", "video", "v1", "process", false), false},
		{"a command that is denied when it is applied", func() Decision {
			d := about("PATCH", "/v1/contacts/{id}", "contact", "c1", "update", false)
			d.Stage = StageApply
			return d
		}(), false},
	} {
		if got := c.d.IsQuestion(); got != c.want {
			t.Errorf("%s: a question: %t, want %t", c.name, got, c.want)
		}
	}
}

func about(method, route, kind, id, action string, plan bool) Decision {
	d := Decision{Stage: StageRequest, Resource: Resource{Kind: kind, ID: id}, Action: action, Effect: Deny, Request: RequestInfo{Method: method, Route: route}}
	if plan {
		d.Plan = json.RawMessage(`{}`)
	}
	return d
}
