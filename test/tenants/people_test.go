package tenants

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/writ-project/writ/test/e2e/outside"
)

// existence: whoever is no member of acme is told the same of it as of a tenant that nobody made.
func existence(t *testing.T, w *world) {
	const none = "nowhere"
	for _, o := range w.outsiders() {
		if o.id == w.dan.id && o.tenant == "" {
			continue // whoever makes the tenants sees them
		}
		for _, r := range []struct{ method, path, body string }{
			{"GET", "/v1/tenants/KEY", ""}, {"PATCH", "/v1/tenants/KEY", `{"name":"x"}`},
			{"PUT", "/v1/tenants/KEY/members/" + o.id, `{"roles":["admin"]}`}, {"DELETE", "/v1/tenants/KEY/members/" + o.id, ""},
			{"PUT", "/v1/tenants/KEY/members/" + w.bo.id, `{"roles":["admin"]}`},
			{"PUT", "/v1/users/" + o.id + "/roles", `{"tenant":"KEY","roles":["admin"]}`},
		} {
			send := func(key string) outside.Answer {
				fill := strings.NewReplacer("KEY", key).Replace
				return o.Do(t, r.method, fill(r.path), fill(r.body), "Writ-Tenant", o.tenant, "Prefer", wait)
			}
			a, b := send(acme), send(none)
			if x, y := plain(a, acme), plain(b, none); x != y || a.Status != http.StatusNotFound && a.Status != http.StatusForbidden {
				t.Errorf("%s: %s %s\n%s\n%s", o.name, r.method, r.path, x, y)
			}
		}
	}
}

// members is the life of a tenant's people: made, given a role, which counts on the next request, and taken out, which does, too.
func members(t *testing.T, w *world) {
	const umbrella = "umbrella"
	type user struct {
		ID, Email string
		FirstName string `json:"first_name"`
		Tenants   map[string]struct{ Roles []string }
	}
	in := []string{"Prefer", wait, "Writ-Tenant", umbrella}
	var uma, again, vic user
	w.dan.Want(t, http.StatusCreated, nil, "POST", "/v1/tenants", `{"key":"umbrella","name":"Umbrella"}`, "Prefer", wait)
	a := w.dan.Want(t, http.StatusCreated, &uma, "POST", "/v1/users", `{"email":"uma@tenants.example","first_name":"Uma"}`, "Prefer", wait)
	if at := a.Header.Get("Location"); at != "/v1/users/"+uma.ID {
		t.Errorf("she is at %s", at)
	}
	w.dan.Want(t, http.StatusOK, &again, "POST", "/v1/users", `{"email":"UMA@tenants.example","first_name":"Uma Thurman"}`, "Prefer", wait)
	if again.ID != uma.ID || again.FirstName != "Uma Thurman" {
		t.Errorf("%+v", again)
	}
	// She is nobody in umbrella until its maker says who she is there.
	umaIs := w.signIn(t, "uma@tenants.example")
	umaIs.Want(t, http.StatusForbidden, nil, "POST", "/v1/users", `{"email":"vic@tenants.example"}`, in...)
	w.dan.Want(t, http.StatusOK, &again, "PUT", "/v1/tenants/umbrella/members/"+uma.ID, `{"roles":["admin"],"attr":{"region":"eu-east-1"}}`, "Prefer", wait)
	if fmt.Sprint(again.Tenants[umbrella].Roles) != "[admin]" {
		t.Errorf("%+v", again)
	}
	umaIs.Want(t, http.StatusCreated, &vic, "POST", "/v1/users", `{"email":"vic@tenants.example","first_name":"Vic"}`, in...)
	if fmt.Sprint(vic.Tenants) != "map[umbrella:{[guest]}]" {
		t.Errorf("%+v", vic)
	}
	w.dan.Want(t, http.StatusNotFound, nil, "GET", "/v1/users/"+vic.ID, "")
	var page struct{ Items []user }
	umaIs.Want(t, http.StatusOK, &page, "GET", "/v1/users?sort=first_name", "", in...)
	if len(page.Items) != 2 || page.Items[0].ID != uma.ID || page.Items[1].ID != vic.ID {
		t.Errorf("%+v", page)
	}
	// What she does not see she cannot take: bo is in acme and globex.
	umaIs.Want(t, http.StatusNotFound, nil, "PUT", "/v1/tenants/umbrella/members/"+w.bo.id, `{"roles":["user"]}`, in...)
	umaIs.Want(t, http.StatusForbidden, nil, "PUT", "/v1/users/"+uma.ID+"/roles", `{"roles":["admin","auditor"]}`, in...)

	vicIs := w.signIn(t, "vic@tenants.example")
	vicIs.Want(t, http.StatusForbidden, nil, "POST", "/v1/contacts", `{"first_name":"x"}`, in...)
	umaIs.Want(t, http.StatusOK, &again, "PUT", "/v1/users/"+vic.ID+"/roles", `{"roles":["user"]}`, in...)
	vicIs.Want(t, http.StatusCreated, nil, "POST", "/v1/contacts", `{"first_name":"x"}`, in...)
	umaIs.Want(t, http.StatusNoContent, nil, "DELETE", "/v1/tenants/umbrella/members/"+vic.ID, "", in...)
	vicIs.Want(t, http.StatusForbidden, nil, "POST", "/v1/contacts", `{"first_name":"x"}`, in...)
	umaIs.Want(t, http.StatusNotFound, nil, "GET", "/v1/users/"+vic.ID, "", in...)
	// Who is in no tenant is in the default one. Uma is in two: umbrella cannot delete her, and she is no guest of anybody's.
	w.dan.Want(t, http.StatusNoContent, nil, "DELETE", "/v1/users/"+vic.ID, "", "Prefer", wait)
	w.dan.Want(t, http.StatusNoContent, nil, "DELETE", "/v1/users/"+uma.ID, "", "Prefer", wait)
	umaIs.Want(t, http.StatusUnauthorized, nil, "GET", "/v1/me", "", in...)
}

// signIn signs somebody in who is there already.
func (w *world) signIn(t *testing.T, email string) *outside.Client {
	t.Helper()
	out, problem, err := w.dev.Writ(t, "token", email)
	if err != nil {
		t.Fatalf("writ token %s: %v: %s", email, err, problem)
	}
	return w.client.With(strings.TrimSpace(out))
}
