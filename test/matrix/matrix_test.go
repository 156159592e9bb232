// Package matrix holds the rules about who may do what with contacts, videos and expenses against a running stack, over
// HTTP. The tables are written by hand from the rules, one letter for each thing that is allowed; nothing here asks a
// policy what to expect.
package matrix

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// TestRulesHoldOverHTTP is one test so that one stack serves it all.
func TestRulesHoldOverHTTP(t *testing.T) {
	policies := t.TempDir()
	if err := os.CopyFS(policies, os.DirFS(outside.Policies(t))); err != nil {
		t.Fatal(err)
	}
	m := &matrix{dev: outside.StartDev(t, t.TempDir(), []string{"--seed=false", "--cerbos", "embed:" + policies}, nil)}
	m.anonymous = outside.NewClient(t, m.dev.API, "")
	m.admin = m.principal(t, "root", "admin")
	t.Run("contacts", func(t *testing.T) { contacts(t, m) })
	t.Run("videos", func(t *testing.T) { videos(t, m, policies) })
	t.Run("expenses", func(t *testing.T) { expenses(t, m) })
}

// matrix is the stack under test.
type matrix struct {
	dev       *outside.Dev
	anonymous *outside.Client
	admin     principal
	serial    atomic.Int64 // makes names that occur once
}

// wait asks for the outcome of a mutation.
const wait = "wait=20"

// principal is somebody who is signed in.
type principal struct {
	*outside.Client
	name, id string
}

// principal makes a user. what is roles and attributes (region=eu).
func (m *matrix) principal(t *testing.T, name string, what ...string) principal {
	t.Helper()
	args := []string{"token", strings.ReplaceAll(name, " ", ".") + "@matrix.example"}
	for _, w := range what {
		if strings.Contains(w, "=") {
			args = append(args, "--attr", w)
		} else {
			args = append(args, "--role", w)
		}
	}
	out, problem, err := m.dev.Writ(t, args...)
	if err != nil {
		t.Fatalf("writ %v: %v: %s", args, err, problem)
	}
	c := m.anonymous.With(strings.TrimSpace(out))
	return principal{c, name, c.Me(t).Principal.ID}
}

// item is a resource as the API shows it, whatever its kind.
type item struct {
	ID, Region, Department, Status string
	OwnerID                        string          `json:"owner_id"`
	ApprovedBy                     *string         `json:"approved_by"`
	Permissions                    map[string]bool `json:"permissions"`
	Version                        int64
}

// kind is what the matrix must know of a kind of resources.
type kind struct {
	plural string
	name   string // the field that is given a unique text
	body   string // the other members that a create needs: `,"amount":1`, or ""
	patch  string // a change that the owner would make
	// actions are the kind's own: their letters in the tables by their names.
	actions map[string]byte
}

func (k kind) path(id string) string { return "/v1/" + k.plural + "/" + id }

// unique makes a text that nothing else in the stack holds.
func (m *matrix) unique() string { return fmt.Sprintf("matrix-%d-", m.serial.Add(1)) }

// make has the admin create a resource for an owner. more is members of its body: `,"amount":5`.
func (m *matrix) make(t *testing.T, k kind, owner principal, more string) (it item, name string) {
	t.Helper()
	name = m.unique()
	if more == "" {
		more = k.body
	}
	body := fmt.Sprintf(`{%q:%q,"owner_id":%q%s}`, k.name, name, owner.id, more)
	m.admin.Want(t, http.StatusCreated, &it, "POST", "/v1/"+k.plural, body, "Prefer", wait)
	return it, name
}

// The letters of the tables.
const (
	reads   = 'r' // reads it, and finds it in lists
	updates = 'u'
	deletes = 'd'
)

// cell checks what p may do with resources that fresh makes: exactly what the letters say. settled are letters that are
// allowed but answered with 409, because of the state that the resource is in.
func (m *matrix) cell(t *testing.T, p principal, k kind, may, settled string, fresh func(t *testing.T) (item, string)) {
	t.Helper()
	it, name := fresh(t)
	readable := strings.ContainsRune(may, reads)
	listed := m.find(t, p, k, name, it.ID)
	if (listed != nil) != readable {
		t.Errorf("%s lists it: %v, want %v", p.name, listed != nil, readable)
	}
	got := p.Do(t, "GET", k.path(it.ID)+"?include=permissions", "")
	if !readable {
		missing(t, "read", got)
	} else {
		var shown item
		if got.Status != http.StatusOK {
			t.Fatalf("%s reads: %d %s", p.name, got.Status, got.Body)
		}
		got.Decode(t, &shown)
		want := map[string]bool{"read": true, "update": strings.ContainsRune(may, updates), "delete": strings.ContainsRune(may, deletes)}
		for action, letter := range k.actions {
			want[action] = strings.IndexByte(may, letter) >= 0
		}
		if listed != nil {
			same(t, p.name+"'s permissions in the list", want, listed.Permissions)
		}
		same(t, p.name+"'s permissions", want, shown.Permissions)
	}
	// What then really happens: to another one each time, since the one before may have changed it.
	m.happens(t, p, it, readable, strings.ContainsRune(may, updates), http.StatusOK, "PATCH", k.path(it.ID), k.patch)
	for action, letter := range k.actions {
		status := http.StatusOK
		if strings.IndexByte(settled, letter) >= 0 {
			status = http.StatusConflict
		}
		other, _ := fresh(t)
		method, path, body := "POST", k.path(other.ID)+"/"+action, ""
		if action == "upload" {
			method, path, body = "PUT", k.path(other.ID)+"/content", "bytes"
		}
		m.happens(t, p, other, readable, strings.IndexByte(may, letter) >= 0, status, method, path, body)
	}
	it, _ = fresh(t)
	m.happens(t, p, it, readable, strings.ContainsRune(may, deletes), http.StatusNoContent, "DELETE", k.path(it.ID), "")
	if strings.ContainsRune(may, deletes) {
		missing(t, "read of what was deleted", m.admin.Do(t, "GET", k.path(it.ID), ""))
	}
}

// happens sends a mutation and checks that it is answered as it must be, and that a denied one changed nothing.
func (m *matrix) happens(t *testing.T, p principal, it item, readable, allowed bool, status int, method, path, body string) {
	t.Helper()
	a := p.Do(t, method, path, body, "Prefer", wait)
	switch {
	case allowed:
		if a.Status != status {
			t.Errorf("%s: %s: %d %s, want %d", p.name, method+" "+path, a.Status, a.Body, status)
		}
		return
	case readable:
		refused(t, p.name+": "+method+" "+path, a)
	default:
		missing(t, p.name+": "+method+" "+path, a)
	}
	var after item
	m.admin.Want(t, http.StatusOK, &after, "GET", "/v1/"+strings.Join(strings.Split(path, "/")[2:4], "/"), "")
	if after.Version != it.Version {
		t.Errorf("%s: %s was refused and left version %d, want %d", p.name, method+" "+path, after.Version, it.Version)
	}
}

// find gives the resource as the principal's list shows it, nil if it does not.
func (m *matrix) find(t *testing.T, p principal, k kind, name, id string) *item {
	t.Helper()
	var page struct{ Items []item }
	p.Want(t, http.StatusOK, &page, "GET", "/v1/"+k.plural+"?include=permissions&q="+url.QueryEscape(name), "")
	switch {
	case len(page.Items) == 0:
		return nil
	case len(page.Items) > 1 || page.Items[0].ID != id:
		t.Fatalf("the list of %q holds %+v", name, page.Items)
	}
	return &page.Items[0]
}

// refused checks a denial: 403 with the decision and a reason that a rule gave.
func refused(t *testing.T, what string, a outside.Answer) {
	t.Helper()
	var p outside.Problem
	if a.Status == http.StatusForbidden && json.Unmarshal(a.Body, &p) == nil && p.Code == "denied" && len(p.DecisionID) == 36 &&
		p.Detail != "" && !strings.HasPrefix(p.Detail, "You may not ") && a.Header.Get("Content-Type") == "application/problem+json" {
		return
	}
	t.Errorf("%s: %d %s, want 403 with a decision and a reason", what, a.Status, a.Body)
}

// missing checks that a resource is not even to be known of.
func missing(t *testing.T, what string, a outside.Answer) {
	t.Helper()
	var p outside.Problem
	if a.Status == http.StatusNotFound && json.Unmarshal(a.Body, &p) == nil && p.Code == "not-found" && p.DecisionID == "" {
		return
	}
	t.Errorf("%s: %d %s, want 404", what, a.Status, a.Body)
}

func same(t *testing.T, what string, want, got map[string]bool) {
	t.Helper()
	if fmt.Sprint(want) != fmt.Sprint(got) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// creates checks one create: allowed, refused by the policy, or invalid whoever asks.
func creates(t *testing.T, p principal, k kind, status int, body string) item {
	t.Helper()
	a := p.Do(t, "POST", "/v1/"+k.plural, body, "Prefer", wait)
	var it item
	switch {
	case status == http.StatusForbidden:
		refused(t, p.name+" creates "+body, a)
	case a.Status != status:
		t.Errorf("%s creates %s: %d %s, want %d", p.name, body, a.Status, a.Body, status)
	case status == http.StatusCreated:
		a.Decode(t, &it)
	}
	return it
}

// notSettable checks that no client, the admin included, sets what is not theirs to set.
func (m *matrix) notSettable(t *testing.T, k kind, owner principal, members ...string) {
	t.Helper()
	for _, member := range members {
		name, _, _ := strings.Cut(member, ":")
		location := "body." + strings.Trim(name, `"`)
		for _, p := range []principal{m.admin, owner} {
			it, _ := m.make(t, k, owner, "")
			for _, a := range []outside.Answer{
				p.Do(t, "POST", "/v1/"+k.plural, fmt.Sprintf(`{%q:"x"%s,%s}`, k.name, k.body, member)),
				p.Do(t, "PATCH", k.path(it.ID), "{"+member+"}"),
			} {
				if a.Status != http.StatusUnprocessableEntity || !strings.Contains(string(a.Body), `"`+location+`"`) {
					t.Errorf("%s sets %s: %d %s", p.name, member, a.Status, a.Body)
				}
			}
		}
	}
}

// breakGlass gives the account of the example principal policy the id of somebody real and waits until that counts.
func (m *matrix) breakGlass(t *testing.T, policies string, p principal, sees string) {
	t.Helper()
	file := filepath.Join(policies, "principals", "break_glass.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	edited := strings.Replace(string(text), "principal: break-glass\n", "principal: "+p.id+"\n", 1)
	if edited == string(text) {
		t.Fatalf("%s names no account", file)
	}
	if err := os.WriteFile(file, []byte(edited), 0o600); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 10*time.Second, func() error {
		if a := p.Do(t, "GET", sees, ""); a.Status != http.StatusOK {
			return fmt.Errorf("%d %s", a.Status, a.Body)
		}
		return nil
	})
}
