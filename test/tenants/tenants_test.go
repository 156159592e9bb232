// Package tenants checks that nothing of one tenant is visible in another, on a running stack, over HTTP: it walks every
// operation of the OpenAPI document with ids that belong to somebody else.
package tenants

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// TestTenants is one test so that one stack serves it all.
func TestTenants(t *testing.T) {
	w := newWorld(t)
	t.Run("nothing of another tenant is visible", func(t *testing.T) { walk(t, w) })
	t.Run("lists hold one tenant", func(t *testing.T) { lists(t, w) })
	t.Run("own commands stay in their tenant", func(t *testing.T) { commands(t, w) })
	t.Run("a key stands for one command in each tenant", func(t *testing.T) { keys(t, w) })
	t.Run("attributes stay in their tenant", func(t *testing.T) { attributes(t, w) })
	t.Run("a tenant's policy is its own", func(t *testing.T) { scope(t, w) })
	t.Run("a tenant tells nobody else whether it exists", func(t *testing.T) { existence(t, w) })
	t.Run("members come and go", func(t *testing.T) { members(t, w) })
	t.Run("malformed tenant", func(t *testing.T) { malformed(t, w) })
}

// The emulator's project; its secret is the data folder's.
const project = "project-test-00000000-0000-4000-8000-000000000000"

const (
	acme   = "acme"
	globex = "globex"
	wait   = "wait=20"
)

// world is the stack and what is in it: two tenants beside default, with one of everything in acme.
type world struct {
	dev      *outside.Dev
	identity *identity.Client
	client   *outside.Client
	// ada is a user and amy an admin of acme, gus a user and gil an admin of globex, bo a user of both, and dan an admin
	// of default.
	ada, amy, gus, gil, bo, dan person
	// things are the ids of what acme has, by kind. Everything that can be said of them holds mark.
	things   map[string][]string
	document document
}

// mark is in every text that belongs to acme.
const mark = "acme-secret"

// person is somebody who is signed in.
type person struct {
	*outside.Client
	id, email string
}

func newWorld(t *testing.T) *world {
	w := &world{dev: outside.StartDev(t, t.TempDir(), []string{"--seed=false"}, nil), things: map[string][]string{}}
	w.client = outside.NewClient(t, w.dev.API, "")
	w.client.Want(t, http.StatusOK, &w.document, "GET", "/openapi.json", "")
	var secrets struct {
		StytchSecret string `json:"stytch_secret"`
	}
	b, err := os.ReadFile(filepath.Join(w.dev.Dir, "keys", "secrets.json"))
	if err == nil {
		err = json.Unmarshal(b, &secrets)
	}
	if err == nil {
		w.identity, err = identity.New(t.Context(), identity.Config{ProjectID: project, Secret: secrets.StytchSecret, BaseURL: w.dev.Mailbox})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.identity.Close)

	eu := map[string]any{"region": "eu-east-1", "department": mark}
	w.ada = w.person(t, mark+".ada", map[string]user.Membership{acme: {Roles: []string{"user"}, Attr: eu}})
	w.amy = w.person(t, mark+".amy", map[string]user.Membership{acme: {Roles: []string{"admin"}, Attr: eu}})
	w.gus = w.person(t, "gus", map[string]user.Membership{globex: {Roles: []string{"user"}}})
	w.gil = w.person(t, "gil", map[string]user.Membership{globex: {Roles: []string{"admin"}}})
	w.dan = w.person(t, "dan", map[string]user.Membership{user.DefaultTenant: {Roles: []string{"admin"}}})
	both := user.Membership{Roles: []string{"user", "manager"}, Attr: map[string]any{"region": "us-east-1"}}
	w.bo = w.person(t, "bo", map[string]user.Membership{acme: both, globex: both})

	w.fill(t)
	return w
}

// person makes a user who is a member of these tenants, which only Stytch's metadata can say.
func (w *world) person(t *testing.T, name string, tenants map[string]user.Membership) person {
	t.Helper()
	email := name + "@tenants.example"
	made, err := w.identity.CreateUser(t.Context(), identity.User{Email: email})
	if err != nil {
		t.Fatal(err)
	}
	// Later than the first sign-in would have it: the directory must take the change.
	if _, err := w.identity.UpdateUser(t.Context(), made.ID, identity.Update{Tenants: tenants}); err != nil {
		t.Fatal(err)
	}
	out, problem, err := w.dev.Writ(t, "token", email)
	if err != nil {
		t.Fatalf("writ token %s: %v: %s", email, err, problem)
	}
	p := person{w.client.With(strings.TrimSpace(out)), made.ID, email}
	p.Want(t, http.StatusOK, nil, "POST", "/v1/me/sync", "")
	return p
}

// made is what the walk must know of a resource.
type made struct {
	ID, Tenant, Region string
	OwnerID            string `json:"owner_id"`
}

// create makes a resource and gives it and the command that made it.
func (p person) create(t *testing.T, tenant, plural, body string, headers ...string) (made, string) {
	t.Helper()
	var m made
	a := p.Want(t, http.StatusCreated, &m, "POST", "/v1/"+plural, body, append(headers, "Prefer", wait, "Writ-Tenant", tenant)...)
	if m.Tenant != tenant {
		t.Fatalf("it was made in %s: %s", m.Tenant, a.Body)
	}
	return m, a.CommandID()
}

// bodies are creates by kind; %s is a text.
var bodies = map[string]string{
	"contacts": `{"first_name":"%s","notes":"%[1]s"}`,
	"videos":   `{"title":"%s","description":"%[1]s"}`,
	"expenses": `{"vendor":"%s","amount":12}`,
}

// fill gives acme one of everything, by a user and by an admin, and globex something of its own.
func (w *world) fill(t *testing.T) {
	t.Helper()
	for plural, body := range bodies {
		for _, p := range []person{w.ada, w.amy} {
			m, command := p.create(t, acme, plural, fmt.Sprintf(body, mark))
			w.things[plural] = append(w.things[plural], m.ID)
			w.things["commands"] = append(w.things["commands"], command)
		}
		w.gus.create(t, globex, plural, fmt.Sprintf(body, "globex thing"))
		w.dan.create(t, user.DefaultTenant, plural, fmt.Sprintf(body, "default thing"))
	}
	settled := w.things["expenses"][0]
	w.amy.Want(t, http.StatusOK, nil, "POST", "/v1/expenses/"+settled+"/approve", "", "Prefer", wait, "Writ-Tenant", acme)
	open, command := w.ada.create(t, acme, "expenses", fmt.Sprintf(bodies["expenses"], mark))
	w.things["expenses"], w.things["commands"] = append(w.things["expenses"], open.ID), append(w.things["commands"], command)
	// Nobody is there: it is sent nothing.
	hook, command := w.amy.create(t, acme, "webhooks", `{"url":"https://acme.example/","kinds":["tenant"],"results":["failed"],"description":"`+mark+`"}`)
	w.things["webhooks"], w.things["commands"] = []string{hook.ID}, append(w.things["commands"], command)
	w.gil.create(t, globex, "webhooks", `{"url":"https://globex.example/","kinds":["tenant"],"results":["failed"]}`)
	w.things["films"] = slices.Clone(w.things["videos"][:1])
	w.things["videos"] = w.things["videos"][1:] // without a file
	film := "/v1/videos/" + w.things["films"][0]
	a := w.amy.Want(t, http.StatusOK, nil, "PUT", film+"/content", mark, "Prefer", wait, "Writ-Tenant", acme, "Content-Type", "video/mp4")
	w.things["commands"] = append(w.things["commands"], a.CommandID())
	var jobs struct{ Items []struct{ ID, Status string } }
	testkit.Eventually(t, 30*time.Second, func() error { // the file is probed, and found to be no video
		a := w.amy.Want(t, http.StatusOK, &jobs, "GET", "/v1/jobs?queue=probe", "", "Writ-Tenant", acme)
		if len(jobs.Items) == 0 || jobs.Items[0].Status != "done" {
			return fmt.Errorf("%s", a.Body)
		}
		return nil
	})
	for _, j := range jobs.Items {
		w.things["jobs"] = append(w.things["jobs"], j.ID)
	}
	letter, _ := outside.Lapse(t, w.dev, outside.Seals(t, w.dev), acme, w.ada.id, mark)
	w.things["dead"] = []string{letter}
	testkit.Eventually(t, 30*time.Second, func() error {
		if a := w.amy.Do(t, "GET", "/v1/dead/"+letter, "", "Writ-Tenant", acme); a.Status != http.StatusOK {
			return fmt.Errorf("%d %s", a.Status, a.Body)
		}
		return nil
	})
	w.things["users"] = []string{w.ada.id, w.amy.id, w.ada.email}
	w.things["people"] = []string{w.ada.id, w.amy.id}
	w.dan.Want(t, http.StatusCreated, nil, "POST", "/v1/tenants", `{"key":"acme","name":"Acme","description":"`+mark+`"}`, "Prefer", wait)
	w.dan.Want(t, http.StatusCreated, nil, "POST", "/v1/tenants", `{"key":"globex","name":"Globex"}`, "Prefer", wait)
}

// theirs are the words that must not be in an answer to anybody outside acme: all ids of acme and its mark. sent is
// what the request itself named.
func (w *world) theirs(sent string) []string {
	words := []string{mark}
	for _, ids := range w.things {
		words = append(words, ids...)
	}
	var out []string
	for _, word := range words {
		if !strings.Contains(sent, word) {
			out = append(out, word)
		}
	}
	return out
}

// shows fails the test if an answer holds anything of acme's.
func (w *world) shows(t *testing.T, what, sent string, a outside.Answer) {
	t.Helper()
	for _, word := range w.theirs(sent) {
		if strings.Contains(string(a.Body), word) || strings.Contains(fmt.Sprint(a.Header), word) {
			t.Errorf("%s shows %s of another tenant: %d %s %.400s", what, word, a.Status, a.Header, a.Body)
			return
		}
	}
}
