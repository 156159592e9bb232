package apply

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/kind/webhook"
	"github.com/writ-project/writ/pkg/store"
)

// TestLimitOfATenantIsExact: more webhooks than a tenant may have, all permitted
// before any was there, and two workers that apply them at once.
func TestLimitOfATenantIsExact(t *testing.T) {
	t.Parallel()
	databases(t, func(t *testing.T, r *rig) {
		send := func(action, tenant, id string, version int64) (command string) {
			c := events.Command{ID: newID(), Kind: webhook.Kind.Name, ResourceID: id, Action: action, Tenant: tenant, PrincipalID: "u1", IssuedAt: time.Now().UTC()}
			if action == kind.ActionCreate {
				c.Body = json.RawMessage(`{"url":"https://example.com/","secret_id":"s","secret_key":"test"}`)
			}
			d := events.Decision{ID: newID(), Stage: events.StageRequest, Tenant: tenant, Principal: events.Principal{ID: "u1", Roles: []string{"admin"}}, Action: action,
				Effect: events.Allow, Resource: events.Resource{Kind: c.Kind, ID: id, Version: version}, Policy: events.Policy{Revision: r.authz.Revision()}}
			r.append(need(events.NewWrit(r.keys, events.SourceAPI, &d, &c, time.Now().Add(time.Hour)))(t))
			return c.ID
		}
		const more = 12
		var commands, elsewhere, ids []string
		for n := range webhook.MaxPerTenant + more {
			ids = append(ids, newID())
			commands = append(commands, send(kind.ActionCreate, user.DefaultTenant, ids[n], 0))
			if n < webhook.MaxPerTenant {
				elsewhere = append(elsewhere, send(kind.ActionCreate, "acme", newID(), 0))
			}
		}
		r.start(nil)
		r.start(nil)
		all := r.outcomes(append(commands, elsewhere...)...)
		var made []string
		for n, c := range commands {
			switch o := all[c]; {
			case o.Status == events.StatusApplied:
				made = append(made, ids[n])
			case o.Status != events.StatusRejected || o.Code != "too-many-webhooks":
				t.Errorf("%+v", o)
			}
		}
		for _, c := range elsewhere {
			if all[c].Status != events.StatusApplied {
				t.Errorf("another tenant: %+v", all[c])
			}
		}
		has := func() int {
			return len(need(r.store.Select(t.Context(), webhook.Kind, store.Where{SQL: `"tenant" = ?`, Args: []any{user.DefaultTenant}}, 100))(t))
		}
		if n := has(); n != webhook.MaxPerTenant || len(made) != n {
			t.Errorf("the tenant has %d, %d were applied", n, len(made))
		}

		// One goes, and there is room for one.
		gone := send(kind.ActionDelete, user.DefaultTenant, made[0], 1)
		if o := r.outcomes(gone)[gone]; o.Status != events.StatusApplied {
			t.Fatalf("%+v", o)
		}
		one, two := send(kind.ActionCreate, user.DefaultTenant, newID(), 0), send(kind.ActionCreate, user.DefaultTenant, newID(), 0)
		all = r.outcomes(one, two)
		if a, b := all[one].Status, all[two].Status; a == b || has() != webhook.MaxPerTenant {
			t.Errorf("%s and %s, %d in all", a, b, has())
		}
	})
}
