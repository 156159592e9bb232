package matrix

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
)

// videos: read and created by users and managers; deleted by the owner, as a user; updated by a manager of the same
// region; their files sent by the owner and by a manager of the same region; everything by admins and auditors. So owners
// cannot update and managers cannot delete.
func videos(t *testing.T, m *matrix, policies string) {
	k := kind{plural: "videos", name: "title", patch: `{"description":"seen"}`, actions: map[string]byte{"upload": 'f'}}
	owners := map[string]principal{
		"eu": m.principal(t, "videos eu", "user", "region=eu"),
		"us": m.principal(t, "videos us", "user", "region=us"),
		"":   m.principal(t, "videos nowhere", "user"),
	}
	glass := m.principal(t, "videos glass", "guest")
	locked, _ := m.make(t, k, owners["eu"], "")
	missing(t, "a guest's read", glass.Do(t, "GET", k.path(locked.ID), ""))
	m.breakGlass(t, policies, glass, k.path(locked.ID))

	rows := []struct {
		name     string
		what     []string
		own      string // what they may do with a video of their own, which is of their region
		eu       string // … with somebody else's, of the region eu
		us       string
		nowhere  string // … of no region
		creating int
	}{
		{"user in eu", []string{"user", "region=eu"}, "rdf", "r", "r", "r", 201},
		{"user in us", []string{"user", "region=us"}, "rdf", "r", "r", "r", 201},
		{"user of no region", []string{"user"}, "rdf", "r", "r", "r", 201},
		{"manager in eu", []string{"manager", "region=eu"}, "ruf", "ruf", "r", "r", 201},
		{"manager in us", []string{"manager", "region=us"}, "ruf", "r", "ruf", "r", 201},
		{"manager of no region", []string{"manager"}, "rf", "r", "r", "r", 201},
		{"user and manager in eu", []string{"user", "manager", "region=eu"}, "rudf", "ruf", "r", "r", 201},
		{"admin", []string{"admin"}, "rudf", "rudf", "rudf", "rudf", 201},
		{"admin in us", []string{"admin", "region=us"}, "rudf", "rudf", "rudf", "rudf", 201},
		{"auditor in eu", []string{"auditor", "region=eu"}, "rudf", "rudf", "rudf", "rudf", 201},
		{"auditor and user", []string{"auditor", "user"}, "rudf", "rudf", "rudf", "rudf", 201},
		{"finance", []string{"finance", "region=eu"}, "", "", "", "", 403},
		{"guest", []string{"guest", "region=eu"}, "", "", "", "", 403},
		{"break-glass", nil, "rudf", "rudf", "rudf", "rudf", 201},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			p := glass
			if row.what != nil {
				p = m.principal(t, "videos "+row.name, row.what...)
			}
			region := ""
			for _, r := range []string{"eu", "us"} {
				if slices.Contains(row.what, "region="+r) {
					region = r
				}
			}
			for owner, may := range map[principal]string{p: row.own, owners["eu"]: row.eu, owners["us"]: row.us, owners[""]: row.nowhere} {
				m.cell(t, p, k, may, "", func(t *testing.T) (item, string) { return m.make(t, k, owner, "") })
			}

			made := creates(t, p, k, row.creating, `{"title":"Own"}`)
			if row.creating == http.StatusCreated && (made.OwnerID != p.id || made.Region != region || made.Status != "NOT_PROCESSED") {
				t.Errorf("%+v, want region %q", made, region)
			}
			// Only an admin names the region or the owner, at first or later. null names it too.
			isAdmin := row.nowhere == "rudf"
			naming, setting := http.StatusForbidden, http.StatusForbidden
			if isAdmin {
				naming, setting = http.StatusCreated, http.StatusOK
			}
			if it := creates(t, p, k, naming, `{"title":"Named","region":"ap"}`); isAdmin && it.Region != "ap" {
				t.Errorf("%+v, want the region that the admin named", it)
			}
			if it := creates(t, p, k, naming, `{"title":"Named","region":null}`); isAdmin && it.Region != "" {
				t.Errorf("%+v, want no region", it)
			}
			if it := creates(t, p, k, naming, fmt.Sprintf(`{"title":"Named","owner_id":%q}`, owners["us"].id)); isAdmin && (it.OwnerID != owners["us"].id || it.Region != "us") {
				t.Errorf("%+v, want the region of the owner", it)
			}
			if made.ID == "" {
				return
			}
			for _, patch := range []string{`{"region":"ap"}`, `{"region":null}`, fmt.Sprintf(`{"owner_id":%q}`, owners["us"].id)} {
				a := p.Do(t, "PATCH", k.path(made.ID), patch, "Prefer", wait)
				if setting == http.StatusForbidden {
					refused(t, p.name+" sets "+patch, a)
				} else if a.Status != setting {
					t.Errorf("%s sets %s: %d %s", p.name, patch, a.Status, a.Body)
				}
			}
		})
	}
	t.Run("not settable", func(t *testing.T) {
		t.Parallel()
		m.notSettable(t, k, owners["eu"], `"status":"PROCESSED"`, `"content_type":"video/mp4"`, `"size":1`, `"sha256":"00"`, `"tenant":"acme"`, `"version":7`)
	})
}
