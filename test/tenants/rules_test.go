package tenants

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/writ-project/writ/test/e2e/outside"
)

// lists: what a list of one tenant gives is no use in another.
func lists(t *testing.T, w *world) {
	for plural := range bodies {
		path := "/v1/" + plural
		var page struct {
			Items      []made
			NextCursor string `json:"next_cursor"`
		}
		w.amy.Want(t, http.StatusOK, &page, "GET", path+"?limit=1", "", "Writ-Tenant", acme)
		if len(page.Items) != 1 || page.Items[0].Tenant != acme || page.NextCursor == "" {
			t.Fatalf("%+v", page)
		}
		cursor := path + "?cursor=" + url.QueryEscape(page.NextCursor)
		for _, o := range w.outsiders() {
			a := o.Do(t, "GET", cursor, "", "Writ-Tenant", o.tenant)
			w.shows(t, o.name+" with a cursor of acme's", page.NextCursor, a)
		}
		// A member sees each tenant's own, and nothing where they name no tenant.
		for tenant, holds := range map[string]string{acme: mark, globex: "globex thing", "": ""} {
			if plural == "expenses" {
				break // a user sees their own alone
			}
			a := w.bo.Want(t, http.StatusOK, &page, "GET", path+"?limit=200", "", "Writ-Tenant", tenant)
			for _, item := range page.Items {
				if item.Tenant != tenant {
					t.Errorf("%s of %q hold %+v", plural, tenant, item)
				}
			}
			if (len(page.Items) > 0) != (holds != "") || !strings.Contains(string(a.Body), holds) {
				t.Errorf("%s of %q: %s", plural, tenant, a.Body)
			}
		}
	}
}

// commands: even one's own command is not there when one asks in another tenant.
func commands(t *testing.T, w *world) {
	m, command := w.bo.create(t, acme, "contacts", fmt.Sprintf(bodies["contacts"], mark))
	w.bo.Want(t, http.StatusOK, nil, "GET", "/v1/commands/"+command, "", "Writ-Tenant", acme)
	for _, tenant := range []string{globex, "", "initech"} {
		a := w.bo.Do(t, "GET", "/v1/commands/"+command, "", "Writ-Tenant", tenant)
		b := w.bo.Do(t, "GET", "/v1/commands/"+m.ID, "", "Writ-Tenant", tenant)
		if x, y := plain(a, command), plain(b, m.ID); a.Status != http.StatusNotFound || x != y {
			t.Errorf("in %q: %s and %s", tenant, x, y)
		}
	}
	// Nor is it there before it is applied, when the api knows it from memory or from the ledger only.
	a := w.bo.Want(t, http.StatusAccepted, nil, "POST", "/v1/contacts", `{"first_name":"x"}`, "Writ-Tenant", acme)
	if b := w.bo.Do(t, "GET", a.Header.Get("Location"), "", "Writ-Tenant", globex); b.Status != http.StatusNotFound {
		t.Errorf("%d %s", b.Status, b.Body)
	}
}

// keys: one Idempotency-Key of one principal in two tenants is two commands, also for two bodies.
func keys(t *testing.T, w *world) {
	const key = "Idempotency-Key"
	body := fmt.Sprintf(bodies["contacts"], "the same")
	here, first := w.bo.create(t, acme, "contacts", body, key, `"k1"`)
	there, second := w.bo.create(t, globex, "contacts", body, key, `"k1"`)
	if first == second || here.ID == there.ID {
		t.Errorf("commands %s and %s, contacts %s and %s", first, second, here.ID, there.ID)
	}
	again, retried := w.bo.create(t, acme, "contacts", body, key, `"k1"`)
	if again.ID != here.ID || retried != first {
		t.Errorf("the retry made %s by %s", again.ID, retried)
	}
	// Another request under the key is refused where it was used, and is nothing special elsewhere.
	other := fmt.Sprintf(bodies["contacts"], "another")
	a := w.bo.Do(t, "POST", "/v1/contacts", other, key, `"k2"`, "Writ-Tenant", acme, "Prefer", wait)
	b := w.bo.Do(t, "POST", "/v1/contacts", body, key, `"k2"`, "Writ-Tenant", globex, "Prefer", wait)
	c := w.bo.Do(t, "POST", "/v1/contacts", body, key, `"k2"`, "Writ-Tenant", acme, "Prefer", wait)
	if a.Status != http.StatusCreated || b.Status != http.StatusCreated || c.Status != http.StatusUnprocessableEntity {
		t.Errorf("%d, %d, %d %s", a.Status, b.Status, c.Status, c.Body)
	}
}

// attributes: who is in acme is nobody in globex, and has none of acme's attributes there.
func attributes(t *testing.T, w *world) {
	for _, plural := range []string{"videos", "expenses"} {
		body := strings.TrimSuffix(fmt.Sprintf(bodies[plural], "thing"), "}") + fmt.Sprintf(`,"owner_id":%q}`, w.ada.id)
		a := w.gil.Do(t, "POST", "/v1/"+plural, body, "Writ-Tenant", globex, "Prefer", wait)
		if a.Status != http.StatusConflict || strings.Contains(string(a.Body), mark) { // she is no user of globex: nobody there is told that she is one of acme
			t.Errorf("%d %s, want 409", a.Status, a.Body)
		}
	}
	for tenant, want := range map[string]string{acme: "[user] map[department:" + mark + " region:eu-east-1]", globex: "[guest] map[]", "": "[guest] map[]"} {
		var me outside.Me
		w.ada.Want(t, http.StatusOK, &me, "GET", "/v1/me", "", "Writ-Tenant", tenant)
		if got := fmt.Sprint(me.Principal.Roles, me.Principal.Attr); got != want {
			t.Errorf("in %q ada is %s, want %s", tenant, got, want)
		}
	}
	// The body cannot name a tenant, whatever the header says.
	for plural, body := range bodies {
		body := strings.TrimSuffix(fmt.Sprintf(body, "x"), "}") + `,"tenant":"acme"}`
		a := w.gil.Do(t, "POST", "/v1/"+plural, body, "Writ-Tenant", globex)
		if a.Status != http.StatusUnprocessableEntity || !strings.Contains(string(a.Body), "body.tenant") {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	}
}

// scope: acme changes contacts, and changes and deletes videos, from the region eu-east-1 only; no other tenant minds.
func scope(t *testing.T, w *world) {
	const region = "eu-east-1"
	for _, c := range []struct {
		who            person
		name           string
		tenant         string
		plural, patch  string
		patched, ended int
	}{
		{w.ada, "a user from the region", acme, "contacts", `{"notes":"x"}`, 200, 204},
		{w.bo, "a user from elsewhere", acme, "contacts", `{"notes":"x"}`, 403, 204},
		{w.bo, "the same user", globex, "contacts", `{"notes":"x"}`, 200, 204},
		{w.amy, "an admin from the region", acme, "videos", `{"description":"x"}`, 200, 204},
		{w.bo, "a manager from elsewhere", acme, "videos", `{"description":"x"}`, 403, 403},
		{w.bo, "the same manager", globex, "videos", `{"description":"x"}`, 200, 204},
		{w.bo, "a user from elsewhere", acme, "expenses", `{"amount":3}`, 200, 204},
		{w.dan, "an admin of no region", "", "contacts", `{"notes":"x"}`, 200, 204},
	} {
		t.Run(c.name+" in "+c.tenant+" "+c.plural, func(t *testing.T) {
			header := []string{"Prefer", wait, "Writ-Tenant", c.tenant}
			var m struct {
				ID          string
				Permissions map[string]bool
			}
			c.who.Want(t, http.StatusCreated, &m, "POST", "/v1/"+c.plural, fmt.Sprintf(bodies[c.plural], "narrow"), header...)
			path := "/v1/" + c.plural + "/" + m.ID
			c.who.Want(t, http.StatusOK, &m, "GET", path+"?include=permissions", "", header...)
			if m.Permissions["update"] != (c.patched == 200) || m.Permissions["delete"] != (c.ended == 204) {
				t.Errorf("permissions %v", m.Permissions)
			}
			for _, a := range []struct {
				outside.Answer
				want int
			}{{c.who.Do(t, "PATCH", path, c.patch, header...), c.patched}, {c.who.Do(t, "DELETE", path, "", header...), c.ended}} {
				if a.Status != a.want || a.want == 403 && !strings.Contains(string(a.Body), "from region "+region+" only") {
					t.Errorf("%d %s, want %d", a.Status, a.Body, a.want)
				}
			}
		})
	}
	// It narrows and never widens: who may not without it may not with it.
	other := w.things["contacts"][1] // amy's
	if a := w.ada.Do(t, "PATCH", "/v1/contacts/"+other, `{"notes":"x"}`, "Writ-Tenant", acme); a.Status != http.StatusForbidden {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// malformed: a header that names no tenant is refused on every operation that asks who somebody is.
func malformed(t *testing.T, w *world) {
	for path, methods := range w.document.Paths {
		for method, op := range methods {
			if op.Security != nil && len(*op.Security) == 0 {
				continue // for everybody: there is no tenant
			}
			path := strings.ReplaceAll(path, "{id}", w.things["contacts"][0])
			for _, tenant := range []string{"ACME", "a b", "-acme", "acme.globex", "acme/globex", "../acme", "*", "acm\u00e9", "acme,globex", strings.Repeat("a", 64)} {
				body := ""
				if method == "post" || method == "patch" {
					body = "{}"
				}
				a := w.ada.Do(t, strings.ToUpper(method), path, body, "Writ-Tenant", tenant)
				var p outside.Problem
				if a.Status != http.StatusUnprocessableEntity {
					t.Errorf("%s %s in %q: %d %s", method, path, tenant, a.Status, a.Body)
					continue
				}
				if a.Decode(t, &p); len(p.Errors) != 1 || p.Errors[0].Location != "header.Writ-Tenant" {
					t.Errorf("%s %s in %q: %s", method, path, tenant, a.Body)
				}
			}
		}
	}
}
