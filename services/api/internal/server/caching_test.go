package server

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/kind/expense"
	"github.com/writ-project/writ/pkg/kind/user"
)

// rejected puts an expense of an owner into the database that somebody rejected, who is hidden from the owner.
func (r *rig) rejected(owner, by string) string {
	r.t.Helper()
	id := uuid.Must(uuid.NewV7()).String()
	row := need(expense.Kind.Create(id, user.DefaultTenant, owner, []byte(`{"vendor":"x","amount":5}`), time.Now()))(r.t)
	e := row.Value.(*expense.Expense)
	e.Status, e.ApprovedBy, e.Version = expense.Rejected, &by, 2
	r.put(expense.Kind, row)
	return id
}

// TestETagNamesOneRepresentation: RFC 9110, 8.8.1 and 8.8.3. Whoever sees something
// else has another tag, gets no 304 for anybody else's, and may write with either.
func TestETagNamesOneRepresentation(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	sam, token := r.person("sam", "user")
	alice, admin := r.person("alice", "admin")
	id := r.rejected(sam, alice)
	path := api + "/v1/expenses/" + id
	tags := map[string]string{}
	for _, c := range []struct{ name, token, query string }{
		{"the admin", admin, ""}, {"the owner", token, ""}, {"the admin, with permissions", admin, "?include=permissions"}, {"the owner, with permissions", token, "?include=permissions"},
	} {
		a := r.do("GET", path+c.query, c.token, "")
		tag := a.header.Get("ETag")
		if a.status != http.StatusOK || tag == "" {
			t.Fatalf("%s: %d %s", c.name, a.status, a.body)
		}
		if again := r.do("GET", path+c.query, c.token, "", "If-None-Match", `W/"x,y", W/`+tag); again.status != http.StatusNotModified || len(again.body) > 0 || again.header.Get("ETag") != tag || !strings.Contains(again.header.Get("Vary"), "Authorization") {
			t.Errorf("%s, once more: %d %v, want 304 with the tag and Vary", c.name, again.status, again.header)
		}
		for other, body := range tags {
			if tag == other {
				t.Errorf("%s has the tag %s of %s", c.name, tag, body)
			}
			if b := r.do("GET", path+c.query, c.token, "", "If-None-Match", other); b.status != http.StatusOK || string(b.body) != string(a.body) {
				t.Errorf("%s, with another's tag %s: %d %s, want 200 and their own answer", c.name, other, b.status, b.body)
			}
		}
		tags[tag] = c.name
	}
	if tags[`"2"`] != "the admin" {
		t.Errorf("who sees all of it has another tag than the version: %v", tags)
	}
	for tag := range tags {
		if a := r.do("DELETE", path, admin, "", "If-Match", tag); a.status != http.StatusAccepted {
			t.Errorf("a write with If-Match: %s: %d %s, want 202", tag, a.status, a.body)
		}
		if a := r.do("DELETE", path, admin, "", "If-None-Match", tag); a.status != http.StatusPreconditionFailed {
			t.Errorf("a write with If-None-Match: %s: %d %s, want 412", tag, a.status, a.body)
		}
		if a := r.do("DELETE", path, admin, "", "If-Match", "W/"+tag); a.status != http.StatusPreconditionFailed {
			t.Errorf("a write with If-Match: W/%s: %d %s, want 412", tag, a.status, a.body)
		}
	}
	// A role that is taken away changes what they may do, and so the answer.
	before := r.do("GET", path+"?include=permissions", admin, "").header.Get("ETag")
	row := need(r.store.Get(t.Context(), user.Kind, alice))(t)
	u := row.Value.(*user.User)
	u.Tenants, u.Version = tenants{"default": roles("finance")}, u.Version+1
	r.put(user.Kind, row)
	if a := r.do("GET", path+"?include=permissions", admin, "", "If-None-Match", before); a.status == http.StatusNotModified {
		t.Errorf("permissions of a role that is gone are still good: %s", a.header.Get("ETag"))
	}
}

// TestEveryAnswerThatDependsOnTheCallerSaysSo walks every route with two who may see
// different things, and nobody.
func TestEveryAnswerThatDependsOnTheCallerSaysSo(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	sam, token := s.person("sam", "user")
	_, admin := s.person("alice", "admin")
	contact := s.contact(sam)
	var document struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
			Security    *[]any
		}
	}
	must(t, json.Unmarshal(s.do("GET", s.api+"/openapi.json", "", "").body, &document))
	fill := strings.NewReplacer("{id}", contact, "{key}", user.DefaultTenant, "{user}", sam, "{name}", "probe")
	seen := 0
	for path, methods := range document.Paths {
		for method, op := range methods {
			if op.Security != nil && len(*op.Security) == 0 || strings.HasSuffix(path, "/events") {
				continue
			}
			for who, token := range map[string]string{"the owner": token, "an admin": admin, "nobody": ""} {
				a := s.do(strings.ToUpper(method), s.api+fill.Replace(path), token, `{}`)
				cache, vary := a.header.Get("Cache-Control"), strings.Join(a.header.Values("Vary"), ", ")
				if cache != "private, no-cache" && cache != "no-store" {
					t.Errorf("%s, %s: Cache-Control: %s (%d), want private, no-cache or no-store", op.OperationID, who, cache, a.status)
				}
				for _, name := range []string{"Authorization", "Cookie", gate.TenantHeader} {
					if !strings.Contains(vary, name) {
						t.Errorf("%s, %s: Vary: %s (%d) lacks %s", op.OperationID, who, vary, a.status, name)
					}
				}
				seen++
			}
		}
	}
	if seen < 100 {
		t.Errorf("%d answers were looked at, want those of all routes", seen)
	}
	if a := s.do("GET", s.api+"/v1/contacts", "", "", "Cookie", cookieName+"="+token); a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("an answer to a cookie: Cache-Control: %s, want no-store", a.header.Get("Cache-Control"))
	}
}

// TestWritesHoldToAllPreconditions: RFC 9110, 13.1.2 and 13.1.4, as well as If-Match.
func TestWritesHoldToAllPreconditions(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	api := r.api()
	sam, token := r.person("sam", "user")
	long, later := time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat), time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)
	for name, c := range map[string]struct {
		headers []string
		want    int
	}{
		"any":                 {[]string{"If-None-Match", "*"}, 412},
		"this one":            {[]string{"If-None-Match", `"1"`}, 412},
		"this one, weakly":    {[]string{"If-None-Match", `W/"1"`}, 412},
		"another":             {[]string{"If-None-Match", `"01", "7"`}, 202},
		"changed since":       {[]string{"If-Unmodified-Since", long}, 412},
		"not changed since":   {[]string{"If-Unmodified-Since", later}, 202},
		"a date that is none": {[]string{"If-Unmodified-Since", "noon"}, 202},
		"the first counts":    {[]string{"If-Match", `"1"`, "If-Unmodified-Since", long}, 202},
		"a comma in a tag":    {[]string{"If-Match", `"a,b", "1"`}, 202},
		"no digit too many":   {[]string{"If-Match", `"01"`}, 412},
		"both":                {[]string{"If-Match", `"1"`, "If-None-Match", `"1"`}, 412},
	} {
		path := api + "/v1/contacts/" + r.contact(sam)
		for method, body := range map[string]string{"PATCH": `{"notes":"x"}`, "DELETE": ""} {
			if a := r.do(method, path, token, body, c.headers...); a.status != c.want {
				t.Errorf("%s: %s %v: %d %s, want %d", name, method, c.headers, a.status, a.body, c.want)
			}
		}
	}
	// What was judged is what it is applied to.
	last := r.events()
	pinned := slices.ContainsFunc(r.pinnedTo(), func(v []int64) bool { return slices.Equal(v, []int64{1}) })
	if !pinned || len(last) == 0 {
		t.Error("no command is held to the version that its preconditions were judged by")
	}
}

// pinnedTo are the versions that the commands on the ledger may be applied to.
func (r *rig) pinnedTo() (out [][]int64) {
	for _, e := range r.events() {
		out = append(out, e.Command.IfMatch)
	}
	return out
}

// TestIDsAreFoundInEitherCase: RFC 9562, section 4.
func TestIDsAreFoundInEitherCase(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	sam, token := s.person("sam", "user")
	id := s.contact(sam)
	film, _ := s.film(sam)
	for path, want := range map[string]int{
		"/v1/contacts/" + strings.ToUpper(id): 200, "/v1/contacts/%7B" + id + "%7D": 422, "/v1/contacts/urn:uuid:" + id: 422, "/v1/contacts/" + strings.ReplaceAll(id, "-", ""): 422,
		"/v1/videos/" + strings.ToUpper(film) + "/content": 404, "/v1/videos/%7B" + film + "%7D/content": 422,
	} {
		a := s.do("GET", s.api+path, token, "")
		if p := a.body; a.status != want || want == 422 && !strings.Contains(string(p), "path.id") || want == 404 && !strings.Contains(string(p), "no-content") {
			t.Errorf("%s: %d %s, want %d", path, a.status, p, want)
		}
	}
	body := `{"subject":{"type":"user","id":"` + sam + `"},"action":{"name":"delete"},"resource":{"type":"contact","id":"` + strings.ToUpper(id) + `"}}`
	if a := s.do("POST", s.api+authzenEvaluation, token, body); a.status != 200 || !strings.Contains(string(a.body), `"decision":true`) {
		t.Errorf("AuthZEN, in upper case: %d %s, want the owner's permission", a.status, a.body)
	}
}
