package matrix

import (
	"fmt"
	"net/http"
	"testing"
)

// contacts: list, read and create are for users and admins; update and delete for admins, and for users on their own.
func contacts(t *testing.T, m *matrix) {
	k := kind{plural: "contacts", name: "first_name", patch: `{"notes":"seen"}`}
	someone := m.principal(t, "contacts someone", "user", "region=eu")
	rows := []struct {
		name     string
		what     []string
		own      string // what they may do with a contact of their own
		other    string // … of somebody else
		creating int
	}{
		{"user", []string{"user", "region=eu"}, "rud", "r", 201},
		{"user elsewhere", []string{"user", "region=us"}, "rud", "r", 201},
		{"user and manager", []string{"user", "manager"}, "rud", "r", 201},
		{"user and admin", []string{"user", "admin"}, "rud", "rud", 201},
		{"admin", []string{"admin"}, "rud", "rud", 201},
		{"manager", []string{"manager", "region=eu"}, "", "", 403},
		{"auditor", []string{"auditor"}, "", "", 403},
		{"finance", []string{"finance"}, "", "", 403},
		{"guest", []string{"guest"}, "", "", 403},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			p := m.principal(t, "contacts "+row.name, row.what...)
			m.cell(t, p, k, row.own, "", func(t *testing.T) (item, string) { return m.make(t, k, p, "") })
			m.cell(t, p, k, row.other, "", func(t *testing.T) (item, string) { return m.make(t, k, someone, "") })
			made := creates(t, p, k, row.creating, `{"first_name":"Own"}`)
			if row.creating == http.StatusCreated && made.OwnerID != p.id {
				t.Errorf("it belongs to %s", made.OwnerID)
			}
			// Only an admin makes somebody else the owner, at first or later.
			isAdmin := row.other == "rud"
			named, given := http.StatusForbidden, http.StatusForbidden
			if isAdmin {
				named, given = http.StatusCreated, http.StatusOK
			}
			creates(t, p, k, named, fmt.Sprintf(`{"first_name":"Named","owner_id":%q}`, someone.id))
			if made.ID == "" {
				return
			}
			a := p.Do(t, "PATCH", k.path(made.ID), fmt.Sprintf(`{"owner_id":%q}`, someone.id), "Prefer", wait)
			if given == http.StatusForbidden {
				refused(t, p.name+" gives a contact away", a)
			} else if a.Status != given {
				t.Errorf("%s gives a contact away: %d %s", p.name, a.Status, a.Body)
			}
		})
	}
	t.Run("not settable", func(t *testing.T) {
		t.Parallel()
		m.notSettable(t, k, someone, `"id":"01a2005e-dd3c-789d-8a31-38f5a05a5841"`, `"tenant":"acme"`, `"version":7`, `"created_at":"2020-01-01T00:00:00Z"`)
	})
}
