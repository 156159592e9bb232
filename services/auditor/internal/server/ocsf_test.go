package server

import (
	"encoding/json"
	"testing"

	"github.com/writ-project/writ/pkg/events"
)

// TestActivityIsWhatWasDone: what has no command did nothing, and a question is no attempt.
func TestActivityIsWhatWasDone(t *testing.T) {
	command, plan := &events.CommandRef{ID: "c"}, json.RawMessage(`{}`)
	for _, c := range []struct {
		name          string
		method, route string
		action        string
		effect        events.Effect
		command       *events.CommandRef
		plan          json.RawMessage
		want          int
	}{
		{"a permitted delete", "DELETE", "/v1/contacts/{id}", "delete", events.Allow, command, nil, 4},
		{"a refused delete", "DELETE", "/v1/contacts/{id}", "delete", events.Deny, nil, nil, 4},
		{"a permitted create", "POST", "/v1/contacts", "create", events.Allow, command, nil, 1},
		{"a permitted update", "PATCH", "/v1/contacts/{id}", "update", events.Allow, command, nil, 3},
		{"a transition", "POST", "/v1/expenses/{id}/approve", "approve", events.Allow, command, nil, 99},
		{"a read", "GET", "/v1/contacts/{id}", "read", events.Allow, nil, nil, 2},
		{"a list", "GET", "/v1/contacts", "list", events.Allow, nil, plan, 2},
		{"GET /v1/me asks about deletes", "GET", "/v1/me", "delete", events.Allow, nil, plan, 99},
		{"GET /v1/me asks about updates, in vain", "GET", "/v1/me", "update", events.Deny, nil, plan, 99},
		{"?include=permissions", "GET", "/v1/contacts/{id}", "delete", events.Allow, nil, nil, 99},
		{"AuthZEN", "POST", "/access/v1/evaluation", "delete", events.Deny, nil, nil, 99},
		{"what was permitted and has no command", "POST", "/v1/contacts", "create", events.Allow, nil, nil, 99},
	} {
		d := events.Decision{
			Stage: events.StageRequest, Resource: events.Resource{Kind: "contact"}, Action: c.action, Effect: c.effect, Command: c.command, Plan: c.plan,
			Request: events.RequestInfo{Method: c.method, Route: c.route},
		}
		if got, name := activity(&d); got != c.want || name == "" {
			t.Errorf("%s: activity %d (%q), want %d", c.name, got, name, c.want)
		}
	}
}
