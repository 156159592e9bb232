package apply

import (
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind/tenant"
	"github.com/writ-project/writ/pkg/kind/user"
)

// TestWhoIsGoneAtStytchStaysGone: a sync that asked Stytch before the user was deleted does not make them again, in the
// same batch or later.
func TestWhoIsGoneAtStytchStaysGone(t *testing.T) {
	t.Parallel()
	r := sqlite(t)
	r.start(nil)
	sync := func(version int64, body string) string {
		c := events.Command{ID: newID(), Kind: user.Kind.Name, ResourceID: "u1", Action: user.ActionSync, Tenant: user.DefaultTenant, PrincipalID: user.System, Body: []byte(body), IssuedAt: time.Now().UTC()}
		d := events.Decision{ID: newID(), Stage: events.StageRequest, Tenant: c.Tenant, Principal: events.Principal{ID: user.System, Roles: []string{"guest"}, Attr: map[string]any{"tenant": c.Tenant}},
			Action: c.Action, Effect: events.Allow, Resource: events.Resource{Kind: c.Kind, ID: "u1", Version: version}, Policy: events.Policy{Revision: r.authz.Revision()}}
		r.append(need(events.NewWrit(r.keys, events.SourceAPI, &d, &c, time.Now().Add(time.Hour)))(t))
		return c.ID
	}
	body := `{"email":"u1@example.com","tenants":{"default":{"roles":["admin"]}}}`
	first := sync(0, body)
	r.outcomes(first)
	gone, old := sync(1, `{"email":"","tenants":null,"gone":true}`), sync(1, body)
	all := r.outcomes(gone, old)
	if all[gone].Status != events.StatusApplied || all[old].Status != events.StatusRejected || all[old].Code != "not-found" {
		t.Errorf("%+v and %+v", all[gone], all[old])
	}
	later := sync(0, body)
	if o := r.outcomes(later)[later]; o.Status != events.StatusRejected {
		t.Errorf("%+v", o)
	}
	if _, err := r.store.Get(t.Context(), user.Kind, "u1"); !fault.Is(err, fault.NotFound) {
		t.Errorf("%v", err)
	}
}

// TestATenantBelongsToItself: it is made from the default tenant, and then both may change it.
func TestATenantBelongsToItself(t *testing.T) {
	t.Parallel()
	r := sqlite(t)
	r.start(nil)
	send := func(action, key, from string, version int64, body string) events.Outcome {
		t.Helper()
		c := events.Command{ID: newID(), Kind: tenant.Kind.Name, ResourceID: key, Action: action, Tenant: from, PrincipalID: "u1", Body: []byte(body), IssuedAt: time.Now().UTC()}
		d := events.Decision{ID: newID(), Stage: events.StageRequest, Tenant: from, Principal: events.Principal{ID: "u1", Roles: []string{"admin"}},
			Action: action, Effect: events.Allow, Resource: events.Resource{Kind: c.Kind, ID: key, Version: version}, Policy: events.Policy{Revision: r.authz.Revision()}}
		r.append(need(events.NewWrit(r.keys, events.SourceAPI, &d, &c, time.Now().Add(time.Hour)))(t))
		return r.outcomes(c.ID)[c.ID]
	}
	for _, c := range []struct {
		what, action, key, from, body string
		version                       int64
		want                          events.Status
	}{
		{"made", "create", "acme", "default", `{"key":"acme","name":"Acme"}`, 0, events.StatusApplied},
		{"made again", "create", "acme", "default", `{"key":"acme","name":"Again"}`, 1, events.StatusRejected},
		{"under another key", "create", "globex", "default", `{"key":"acme","name":"x"}`, 0, events.StatusFailed},
		{"changed by its own", "update", "acme", "acme", `{"name":"Acme 2"}`, 1, events.StatusApplied},
		{"changed by default", "update", "acme", "default", `{"name":"Acme 3"}`, 2, events.StatusApplied},
		{"changed by another", "update", "acme", "globex", `{"name":"x"}`, 3, events.StatusRejected},
		{"given another key", "update", "acme", "acme", `{"key":"globex"}`, 3, events.StatusFailed},
		{"deleted", "delete", "acme", "default", ``, 3, events.StatusRejected},
		{"default", "update", "default", "default", `{"name":"Home"}`, 1, events.StatusApplied},
	} {
		if o := send(c.action, c.key, c.from, c.version, c.body); o.Status != c.want {
			t.Errorf("%s: %+v", c.what, o)
		}
	}
	row := need(r.store.Get(t.Context(), tenant.Kind, "acme"))(t)
	if v := row.Value.(*tenant.Tenant); v.Name != "Acme 3" || v.Tenant != "acme" || v.ID != "acme" || v.OwnerID != "u1" || v.Version != 3 {
		t.Errorf("%+v", v)
	}
}
