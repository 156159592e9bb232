package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind/tenant"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/store"
)

// in makes somebody who is this in each tenant, with a session.
func (r *rig) in(name string, tenants map[string]user.Membership) (id, token string) {
	r.t.Helper()
	ctx := r.t.Context()
	u := need(r.id.CreateUser(ctx, identity.User{Email: name + "@example.com", FirstName: strings.ToUpper(name), Tenants: tenants}))(r.t)
	magic := need(r.id.CreateToken(ctx, u.ID))(r.t)
	in := need(r.id.AuthenticateMagicLink(ctx, magic, "", ""))(r.t)
	r.put(user.Kind, *user.Sync{Email: u.Email, FirstName: u.FirstName, Tenants: tenants}.Apply(nil, u.ID, time.Now()))
	return u.ID, in.JWT
}

func roles(names ...string) user.Membership { return user.Membership{Roles: names} }

type tenants = map[string]user.Membership

// tenantRow puts a tenant into the database.
func (r *rig) tenantRow(key string) {
	r.t.Helper()
	body := need(tenant.Create(key, strings.ToUpper(key), ""))(r.t)
	row := need(tenant.Kind.Create(key, key, "writ", body, time.Now()))(r.t)
	r.put(tenant.Kind, row)
}

// town is a rig with people in two tenants and in the default one.
type town struct {
	*rig
	url                                                       string
	alice, zoe, amy, ada, gil, gus, lou, free                 string // tokens
	aliceID, zoeID, amyID, adaID, gilID, gusID, louID, freeID string
}

func newTown(t *testing.T) *town {
	r := newRig(t)
	w := &town{rig: r, url: r.api()}
	w.aliceID, w.alice = r.in("alice", tenants{"default": roles("admin")})
	w.zoeID, w.zoe = r.in("zoe", tenants{"default": roles("user")})
	w.amyID, w.amy = r.in("amy", tenants{"acme": roles("admin")})
	w.adaID, w.ada = r.in("ada", tenants{"acme": roles("user")})
	w.gilID, w.gil = r.in("gil", tenants{"globex": roles("admin")})
	w.gusID, w.gus = r.in("gus", tenants{"globex": roles("user")})
	w.louID, w.lou = r.in("lou", tenants{"acme": roles("user"), "globex": roles("manager")})
	w.freeID, w.free = r.in("free", nil)
	r.tenantRow("acme")
	r.tenantRow("globex")
	return w
}

// commands are the writs on the ledger, "action resource tenant".
func (w *town) commands() (out []string) {
	w.t.Helper()
	for _, e := range w.events() {
		if e.Type == events.TypeWrit {
			out = append(out, fmt.Sprintf("%s %s %s", e.Command.Action, e.Command.ResourceID, e.Command.Body))
		}
	}
	return out
}

func TestATenantSeesItsMembersOnly(t *testing.T) {
	w := newTown(t)
	for _, c := range []struct {
		token, tenant string
		want          []string // first names
	}{
		{w.alice, "", []string{"ALICE", "FREE", "ZOE"}},
		{w.amy, "acme", []string{"ADA", "AMY", "LOU"}},
		{w.gil, "globex", []string{"GIL", "GUS", "LOU"}},
		{w.amy, "globex", nil}, {w.alice, "acme", nil}, {w.amy, "", nil}, {w.ada, "acme", nil}, {w.zoe, "", nil},
	} {
		var page struct {
			Items []struct {
				FirstName string `json:"first_name"`
				Tenants   map[string]any
			}
		}
		a := w.do("GET", w.url+"/v1/users?sort=first_name&limit=2", c.token, "", "Writ-Tenant", c.tenant)
		must(t, json.Unmarshal(a.body, &page))
		var got []string
		for _, u := range page.Items {
			got = append(got, u.FirstName)
			for k := range u.Tenants {
				if own := u.FirstName == "ALICE" || u.FirstName == "AMY" || u.FirstName == "GIL"; k != c.tenant && !own {
					t.Errorf("%s shows %s of %s", c.tenant, k, u.FirstName)
				}
			}
		}
		if a.status != http.StatusOK || !slices.Equal(got, c.want[:min(2, len(c.want))]) {
			t.Errorf("in %q: %d %v, want %v: %s", c.tenant, a.status, got, c.want, a.body)
		}
	}
	for _, c := range []struct {
		what, token, tenant, id string
		want                    int
	}{
		{"an admin their member", w.amy, "acme", w.adaID, 200}, {"an admin another tenant's", w.amy, "acme", w.gusID, 404},
		{"an admin in another tenant", w.amy, "globex", w.gusID, 404}, {"the default tenant's admin acme's", w.alice, "", w.adaID, 404},
		{"in acme", w.alice, "acme", w.adaID, 404}, {"who is in no tenant", w.alice, "", w.freeID, 200},
		{"oneself", w.ada, "acme", w.adaID, 200}, {"a colleague", w.ada, "acme", w.amyID, 404}, {"nobody", w.amy, "acme", "user-test-00000000-0000-4000-8000-000000000000", 404},
	} {
		if a := w.do("GET", w.url+"/v1/users/"+c.id, c.token, "", "Writ-Tenant", c.tenant); a.status != c.want {
			t.Errorf("%s: %d %s", c.what, a.status, a.body)
		}
	}
	// Nothing of globex in what acme is shown of somebody who is in both.
	a := w.do("GET", w.url+"/v1/users/"+w.louID+"?include=permissions", w.amy, "", "Writ-Tenant", "acme")
	if strings.Contains(string(a.body), "globex") || !strings.Contains(string(a.body), `"permissions":{"delete":false,"read":true,"roles":true}`) {
		t.Errorf("%s", a.body)
	}
	if a := w.do("GET", w.url+"/v1/users/"+w.louID, w.lou, "", "Writ-Tenant", "acme"); !strings.Contains(string(a.body), "globex") {
		t.Errorf("oneself sees %s", a.body)
	}
}

// TestNobodyGivesThemselvesARole: not directly, not for another tenant, not as a member, not by a sync or by a patch
// of anything, whoever they are.
func TestNobodyGivesThemselvesARole(t *testing.T) {
	w := newTown(t)
	for _, c := range []struct {
		what, method, path, token, tenant, body string
		want                                    int
	}{
		{"a user", "PUT", "/v1/users/" + w.zoeID + "/roles", w.zoe, "", `{"roles":["admin"]}`, 403},
		{"an admin", "PUT", "/v1/users/" + w.aliceID + "/roles", w.alice, "", `{"roles":["admin","auditor"]}`, 403},
		{"an admin, in another tenant", "PUT", "/v1/users/" + w.aliceID + "/roles", w.alice, "", `{"tenant":"acme","roles":["admin"]}`, 403},
		{"an admin of acme, in default", "PUT", "/v1/users/" + w.amyID + "/roles", w.amy, "acme", `{"tenant":"default","roles":["admin"]}`, 403},
		{"an admin of acme, asking in default", "PUT", "/v1/users/" + w.amyID + "/roles", w.amy, "", `{"roles":["admin"]}`, 404},
		{"a member of acme", "PUT", "/v1/tenants/acme/members/" + w.adaID, w.ada, "acme", `{"roles":["admin"]}`, 403},
		{"an admin of acme as its member", "PUT", "/v1/tenants/acme/members/" + w.amyID, w.amy, "acme", `{"roles":["admin","manager"]}`, 403},
		{"an admin as a member of acme", "PUT", "/v1/tenants/acme/members/" + w.aliceID, w.alice, "", `{"roles":["admin"]}`, 403},
		{"an admin as a member of default", "PUT", "/v1/tenants/default/members/" + w.aliceID, w.alice, "", `{"roles":["admin","user"]}`, 403},
		{"leaving", "DELETE", "/v1/tenants/acme/members/" + w.amyID, w.amy, "acme", "", 403},
		{"a sync with roles", "POST", "/v1/users", w.zoe, "", `{"email":"zoe@example.com","roles":["admin"]}`, 422},
		{"a sync", "POST", "/v1/users", w.zoe, "", `{"email":"zoe@example.com"}`, 403},
		{"a guest of acme", "POST", "/v1/users", w.zoe, "acme", `{"email":"zoe@example.com"}`, 403},
		{"a patch", "PATCH", "/v1/users/" + w.zoeID, w.zoe, "", `{"tenants":{"default":{"roles":["admin"]}}}`, 405},
		{"a patch of me", "PATCH", "/v1/me", w.zoe, "", `{"roles":["admin"]}`, 405},
		{"a patch of the tenant", "PATCH", "/v1/tenants/acme", w.amy, "acme", `{"owner_id":"` + w.amyID + `"}`, 422},
		{"roles in the body of a contact", "POST", "/v1/contacts", w.zoe, "", `{"first_name":"x","roles":["admin"]}`, 422},
	} {
		if a := w.do(c.method, w.url+c.path, c.token, c.body, "Writ-Tenant", c.tenant); a.status != c.want {
			t.Errorf("%s: %d %s", c.what, a.status, a.body)
		}
	}
	if got := w.commands(); len(got) > 0 {
		t.Errorf("commands %v", got)
	}
	// Each of the two decisions about a member is recorded.
	var of []string
	for _, e := range w.events() {
		if d := e.Decision; d.Principal.ID == w.aliceID && d.Request.Route == "/v1/tenants/{key}/members/{user}" {
			of = append(of, d.Resource.Kind+" "+d.Action+" "+string(d.Effect))
		}
	}
	if want := []string{"tenant members allow", "user roles deny", "tenant members allow", "user roles deny"}; !slices.Equal(of, want) {
		t.Errorf("%v", of)
	}
}

func TestAnAdminManagesTheirOwnTenantOnly(t *testing.T) {
	w := newTown(t)
	for _, c := range []struct {
		what, method, path, token, tenant, body string
		want                                    int
	}{
		{"another tenant's user", "PUT", "/v1/users/" + w.gusID + "/roles", w.amy, "acme", `{"roles":["user"]}`, 404},
		{"another tenant's user there", "PUT", "/v1/users/" + w.gusID + "/roles", w.amy, "globex", `{"roles":["user"]}`, 404},
		{"a member, in another tenant", "PUT", "/v1/users/" + w.adaID + "/roles", w.amy, "acme", `{"tenant":"globex","roles":["admin"]}`, 403},
		{"a member of both, in the other", "PUT", "/v1/users/" + w.louID + "/roles", w.amy, "acme", `{"tenant":"globex","roles":["admin"]}`, 403},
		{"a member of both, in default", "PUT", "/v1/users/" + w.louID + "/roles", w.amy, "acme", `{"tenant":"default","roles":["admin"]}`, 403},
		{"another tenant's user as a member", "PUT", "/v1/tenants/acme/members/" + w.gusID, w.amy, "acme", `{"roles":["user"]}`, 404},
		{"a member of another tenant", "PUT", "/v1/tenants/globex/members/" + w.gusID, w.amy, "acme", `{"roles":["user"]}`, 404},
		{"taking out of another tenant", "DELETE", "/v1/tenants/globex/members/" + w.louID, w.amy, "acme", "", 404},
		{"deleting another tenant's user", "DELETE", "/v1/users/" + w.gusID, w.amy, "acme", "", 404},
		{"deleting a user of both", "DELETE", "/v1/users/" + w.louID, w.amy, "acme", "", 403},
		{"another tenant", "PATCH", "/v1/tenants/globex", w.amy, "acme", `{"name":"x"}`, 404},
		{"the default tenant", "PATCH", "/v1/tenants/default", w.amy, "acme", `{"name":"x"}`, 404},
		{"a new tenant", "POST", "/v1/tenants", w.amy, "acme", `{"key":"new","name":"New"}`, 403},
		{"a member as a user", "DELETE", "/v1/users/" + w.amyID, w.ada, "acme", "", 404},
		{"an unknown tenant", "PUT", "/v1/tenants/nowhere/members/" + w.zoeID, w.alice, "", `{"roles":["user"]}`, 404},
		{"roles in an unknown tenant", "PUT", "/v1/users/" + w.zoeID + "/roles", w.alice, "", `{"tenant":"nowhere","roles":["user"]}`, 422},
	} {
		if a := w.do(c.method, w.url+c.path, c.token, c.body, "Writ-Tenant", c.tenant); a.status != c.want {
			t.Errorf("%s: %d %s", c.what, a.status, a.body)
		}
	}
	if got := w.commands(); len(got) > 0 {
		t.Errorf("commands %v", got)
	}
	for _, c := range []struct{ what, method, path, token, tenant, body, command string }{
		{"a member", "PUT", "/v1/users/" + w.adaID + "/roles", w.amy, "acme", `{"roles":["manager"],"attr":{"region":"eu-east-1"}}`,
			"roles " + w.adaID + ` {"tenant":"acme","roles":["manager"],"attr":{"region":"eu-east-1"}}`},
		{"a member of both", "PUT", "/v1/tenants/acme/members/" + w.louID, w.amy, "acme", `{"roles":["auditor"]}`, "roles " + w.louID + ` {"tenant":"acme","roles":["auditor"]}`},
		{"out of the tenant", "DELETE", "/v1/tenants/acme/members/" + w.louID, w.amy, "acme", "", "roles " + w.louID + ` {"tenant":"acme","roles":[]}`},
		{"the default tenant's admin, elsewhere", "PUT", "/v1/tenants/globex/members/" + w.gusID, w.alice, "", `{"roles":["admin"]}`, "roles " + w.gusID + ` {"tenant":"globex","roles":["admin"]}`},
		{"a user of default, elsewhere", "PUT", "/v1/users/" + w.zoeID + "/roles", w.alice, "", `{"tenant":"acme","roles":["admin"]}`, "roles " + w.zoeID + ` {"tenant":"acme","roles":["admin"]}`},
		{"deleting a member", "DELETE", "/v1/users/" + w.adaID, w.amy, "acme", "", "delete " + w.adaID + " "},
		{"a new user", "POST", "/v1/users", w.amy, "acme", `{"email":"New@example.com","first_name":"N"}`, "create " + user.NewID("new@example.com") + ` {"email":"New@example.com","first_name":"N"}`},
		{"the own tenant", "PATCH", "/v1/tenants/acme", w.amy, "acme", `{"name":"Acme!"}`, `update acme {"name":"Acme!"}`},
		{"a new tenant", "POST", "/v1/tenants", w.alice, "", `{"key":"new","name":"New"}`, `create new {"description":"","key":"new","name":"New"}`},
	} {
		a := w.do(c.method, w.url+c.path, c.token, c.body, "Writ-Tenant", c.tenant)
		all := w.commands()
		if a.status != http.StatusAccepted || all[len(all)-1] != c.command {
			t.Errorf("%s: %d %s, command %q", c.what, a.status, a.body, all)
		}
	}
}

func TestRolesThatNoPolicyKnows(t *testing.T) {
	w := newTown(t)
	for body, field := range map[string]string{
		`{"roles":["user","root"]}`:                                          "body.roles[1]",
		`{"roles":["Admin"]}`:                                                "body.roles[0]",
		`{"roles":["*"]}`:                                                    "body.roles[0]",
		`{"roles":[""]}`:                                                     "body.roles[0]",
		`{"roles":["user"],"attr":{"tenant":"acme"}}`:                        "body.attr.tenant",
		`{"roles":["user"],"attr":{"request":"x"}}`:                          "body.attr.request",
		`{"roles":["user"],"attr":{"region":1}}`:                             "body.attr.region",
		`{"roles":["user"],"attr":{"x":{"y":1}}}`:                            "body.attr",
		`{"roles":["user"],"attr":{"x":null}}`:                               "body.attr",
		`{"roles":["user"],"attr":{"x":"\u0000"}}`:                           "body.attr",
		`{"roles":["user"],"attr":{"x":"` + strings.Repeat("x", 201) + `"}}`: "body.attr",
		`{"roles":["user"],"tenant":"A b"}`:                                  "body.tenant",
		`{"tenant":"default"}`:                                               "body.roles",
	} {
		for _, path := range []string{"/v1/users/" + w.zoeID + "/roles", "/v1/tenants/default/members/" + w.zoeID} {
			a := w.do("PUT", w.url+path, w.alice, body)
			if a.status != http.StatusUnprocessableEntity || len(a.problem(t).Errors) == 0 || strings.Contains(path, "roles") && a.problem(t).Errors[0].Location != field {
				t.Errorf("%s: %d %s", body, a.status, a.body)
			}
		}
	}
	if got := w.commands(); len(got) > 0 {
		t.Errorf("commands %v", got)
	}
	f, _ := reflect.TypeFor[NewMembership]().FieldByName("Roles")
	if told := f.Tag.Get("enum"); told != strings.Join(user.Roles, ",") {
		t.Errorf("the document tells of the roles %s", told)
	}
	// Headers that cannot be read are refused before anything else is done.
	for _, path := range []string{"/v1/users/" + w.zoeID, "/v1/tenants/default/members/" + w.zoeID} {
		for _, h := range [][2]string{{"Idempotency-Key", `"x`}, {"If-Match", "1"}} {
			if a := w.do("DELETE", w.url+path, w.alice, "", h[0], h[1]); a.status != http.StatusUnprocessableEntity {
				t.Errorf("%s %s: %d %s", path, h, a.status, a.body)
			}
		}
	}
}

func TestTheLastAdminStays(t *testing.T) {
	w := newTown(t)
	bobID, bob := w.in("bob", tenants{"default": roles("admin"), "acme": roles("user")})
	// One of two can go, whoever it is: the worker sees to it that not both do.
	for _, c := range []struct{ method, path, token, body string }{
		{"PUT", "/v1/users/" + bobID + "/roles", w.alice, `{"roles":["user"]}`},
		{"DELETE", "/v1/tenants/default/members/" + bobID, w.alice, ""},
		{"DELETE", "/v1/users/" + w.aliceID, bob, ""},
		{"DELETE", "/v1/users/" + w.aliceID, w.alice, ""},
	} {
		if a := w.do(c.method, w.url+c.path, c.token, c.body); a.status != http.StatusAccepted {
			t.Errorf("%s %s, one of two: %d %s", c.method, c.path, a.status, a.body)
		}
	}
	must(t, w.store.Update(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		return tx.DeleteRows(ctx, user.Kind, []string{bobID})
	}))
	// An admin of another tenant is none of this one.
	a := w.do("DELETE", w.url+"/v1/users/"+w.aliceID, w.alice, "")
	if a.status != http.StatusConflict || a.problem(t).Code != "last-admin" {
		t.Errorf("%d %s", a.status, a.body)
	}
	all := w.events()
	if e := all[len(all)-1]; e.Type == events.TypeWrit || e.Decision.Action != user.ActionDelete || e.Decision.Effect != events.Allow {
		t.Errorf("recorded is %+v", e.Decision)
	}
}

func TestARepeatedRoleChangeIsOneCommand(t *testing.T) {
	w := newTown(t)
	path := w.url + "/v1/users/" + w.zoeID + "/roles"
	first := w.do("PUT", path, w.alice, `{"roles":["manager"]}`, "Idempotency-Key", "k")
	again := w.do("PUT", path, w.alice, `{"roles":["manager"]}`, "Idempotency-Key", "k")
	other := w.do("PUT", path, w.alice, `{"roles":["admin"]}`, "Idempotency-Key", "k")
	if id := first.header.Get("Writ-Command"); first.status != 202 || again.status != 202 || id == "" || again.header.Get("Writ-Command") != id || other.status != 422 {
		t.Errorf("%d %d %d", first.status, again.status, other.status)
	}
	for tag, want := range map[string]int{`W/"1"`: 412, `"1"`: 202, `"7"`: 202, `*`: 202} { // 7 may be on the way
		if a := w.do("PUT", path, w.alice, `{"roles":["manager"]}`, "If-Match", tag); a.status != want {
			t.Errorf("%s: %d %s", tag, a.status, a.body)
		}
	}
	if n := len(w.commands()); n != 4 || !bytes.Contains(again.body, []byte(`"accepted"`)) {
		t.Errorf("%d commands, %s", n, again.body)
	}
}

// TestStytchIsNotAskedAsOftenAsSomebodyLikes: what it takes is the whole project's, and one user is not to use it up.
func TestStytchIsNotAskedAsOftenAsSomebodyLikes(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	_, sam := r.person("sam", "user")
	_, bob := r.person("bob", "user")
	if a := r.do("GET", api+"/v1/contacts", sam, ""); a.status != http.StatusOK { // the keys are there from now on
		t.Fatalf("%d %s", a.status, a.body)
	}
	r.stopStytch() // whoever asks it now hears 503
	for i := range syncsPerMinute {
		if a := r.do("POST", api+"/v1/me/sync", sam, ""); a.status != http.StatusServiceUnavailable {
			t.Fatalf("%d: %d %s", i, a.status, a.body)
		}
	}
	if a := r.do("POST", api+"/v1/me/sync", sam, ""); a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") == "" {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	if a := r.do("POST", api+"/v1/me/sync", bob, ""); a.status != http.StatusServiceUnavailable {
		t.Errorf("somebody else: %d %s", a.status, a.body)
	}
}
