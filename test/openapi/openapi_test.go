// Package openapi holds a running stack to its OpenAPI document: every operation is called with generated valid and
// invalid input, and what comes back must be what the document says.
package openapi

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// TestDocumentHolds is one test so that one stack serves it all.
func TestDocumentHolds(t *testing.T) {
	dev := outside.StartDev(t, t.TempDir(), []string{"--seed=false", "--webhooks-allow-private", "--rate-limit=0"}, []string{"STYTCH_WEBHOOK_SECRET=whsec_" + base64.StdEncoding.EncodeToString(stytchSecret)})
	anonymous := outside.NewClient(t, dev.API, "")
	text := anonymous.Want(t, http.StatusOK, nil, "GET", "/openapi.json", "").Body
	s := &suite{
		dev: dev, seals: outside.Seals(t, dev), document: readDocument(t, text), anonymous: anonymous, ids: map[string][]string{},
		admin: anonymous.With(dev.SignIn(t, "admin@openapi.example", "admin")),
		user:  anonymous.With(dev.SignIn(t, "user@openapi.example", "user")),
		guest: anonymous.With(dev.SignIn(t, "guest@openapi.example", "guest")),
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	s.generator = &generator{Rand: rand.New(rand.NewPCG(seed, 0)), d: s.document}

	s.userID = s.user.Me(t).Principal.ID
	t.Run("document", s.wellFormed)
	s.fill(t)
	for _, op := range s.operations {
		t.Run("valid "+op.String(), func(t *testing.T) {
			if op.path == pathEvents {
				s.opens(t, op, dev.API)
				return
			}
			s.valid(t, op)
		})
	}
	for _, op := range s.operations {
		t.Run("invalid "+op.String(), func(t *testing.T) { s.invalid(t, op) })
	}
	t.Run("conditions", s.conditions)
	t.Run("files", s.files)
	t.Run("jobs", s.jobs)
	t.Run("dead letters", s.letters)
	t.Run("members", s.membership)
	t.Run("users again", s.usersAgain)
	t.Run("disabled webhooks", s.disabled)
	t.Run("messages of Stytch", s.stytch)
	t.Run("sign-in", func(t *testing.T) { s.signIn(t, dev) })
	t.Run("outside the document", s.outside)
	t.Run("every success was seen", s.seenAll)
}

type suite struct {
	dev    *outside.Dev
	seals  *events.Keyring
	userID string
	*document
	*generator
	anonymous, admin, user, guest *outside.Client
	// ids are of things that exist, by the first part of their paths: contacts, commands.
	ids map[string][]string
}

// wellFormed checks what a reader of the document needs beside its schemas, and that those compile.
func (s *suite) wellFormed(t *testing.T) {
	names := map[string]string{}
	for _, op := range s.operations {
		if other := names[op.OperationID]; op.OperationID == "" || other != "" {
			t.Errorf("%s and %s are both called %q", op, other, op.OperationID)
		}
		names[op.OperationID] = op.String()
		for _, name := range pathParameter.FindAllStringSubmatch(op.path, -1) {
			if !slices.ContainsFunc(op.Parameters, func(p parameter) bool { return p.In == "path" && p.Name == name[1] && p.Required }) {
				t.Errorf("%s: %s", op, name[1])
			}
		}
		for status, r := range op.Responses {
			for kind := range r.Content {
				if err := s.document.valid(op.pointer+"/responses/"+status+"/content/"+escape(kind)+"/schema", nil); err != nil && strings.Contains(err.Error(), "compile") {
					t.Errorf("%s: %s: %v", op, status, err)
				}
			}
			if problem := status >= "400"; problem && r.Content["application/problem+json"].Schema == nil {
				t.Errorf("%s: %s is no problem", op, status)
			}
			if _, ok := r.Headers["X-Request-ID"]; !ok {
				t.Errorf("%s: %s does not tell of X-Request-ID", op, status)
			}
		}
		if op.open() {
			continue
		}
		for _, status := range []string{"401", "500", "503"} {
			if _, ok := op.Responses[status]; !ok {
				t.Errorf("%s: %s is not documented", op, status)
			}
		}
	}
}

// fill makes one of everything that has ids.
func (s *suite) fill(t *testing.T) {
	for _, op := range s.operations {
		if plural, ok := strings.CutPrefix(op.path, "/v1/"); ok && op.method == "POST" && op.RequestBody != nil && !strings.Contains(plural, "/") {
			for _, who := range []*outside.Client{s.admin, s.owner(plural), s.owner(plural)} {
				s.make(t, who, op, plural)
			}
		}
	}
	s.ids["dead"], s.ids["queues"] = []string{s.letter(t), s.letter(t)}, []string{"probe"}
	s.ids["jobs"] = []string{s.job(t)}
}

// make makes a resource with as few members as may be, which the user may, too.
func (s *suite) make(t *testing.T, who *outside.Client, op *operation, plural string) string {
	t.Helper()
	if plural == "webhooks" && len(s.ids[plural]) >= 10 { // a tenant has at most 20
		for _, id := range s.ids[plural] {
			who.Do(t, "DELETE", op.path+"/"+id, "", "Prefer", "wait=20")
		}
		s.ids[plural] = nil
	}
	schema := s.resolve(op.RequestBody.Content["application/json"].Schema)
	body := map[string]any{}
	for _, name := range schema["required"].([]any) {
		p := schema["properties"].(map[string]any)[name.(string)].(map[string]any)
		if body[name.(string)] = s.value(p); patterned[name.(string)] != nil {
			body[name.(string)] = s.known(name.(string))
		}
	}
	a := s.send(t, who, call{op: op, path: op.path, body: encode(body), headers: []string{"Prefer", "wait=20"}})
	var made struct{ ID, Key string }
	if a.Status != http.StatusCreated {
		t.Fatalf("%s: %d %s", op, a.Status, a.Body)
	}
	a.Decode(t, &made)
	if made.ID == "" {
		made.ID = made.Key
	}
	s.ids[plural] = append(s.ids[plural], made.ID)
	s.ids["commands"] = append(s.ids["commands"], a.CommandID())
	return made.ID
}

func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// creator is the operation that makes what an operation's path has the id of; nil if there is none.
func (s *suite) creator(op *operation) (*operation, string) {
	plural := op.plural()
	i := slices.IndexFunc(s.operations, func(o *operation) bool { return o.path == "/v1/"+plural && o.method == "POST" && o.RequestBody != nil })
	if i < 0 {
		return nil, plural
	}
	return s.operations[i], plural
}

// id gives the id of something that exists. What changes things is given a new one.
func (s *suite) id(t *testing.T, op *operation) string {
	t.Helper()
	create, plural := s.creator(op)
	if op.method != "GET" && create != nil {
		return s.make(t, s.owner(plural), create, plural)
	}
	if op.method != "GET" && plural == "dead" {
		return s.letter(t)
	}
	if len(s.ids[plural]) == 0 {
		t.Fatalf("%s: there is none of %s", op, plural)
	}
	return s.ids[plural][s.IntN(len(s.ids[plural]))]
}

// validCall makes a request as the document wants it.
func (s *suite) validCall(t *testing.T, op *operation, id string) call {
	t.Helper()
	c := call{op: op, path: s.at(op, id)}
	query := url.Values{}
	for _, p := range op.Parameters {
		if p.In == "path" || p.Name == "Content-Range" || !p.Required && (opaque[p.Name] || s.IntN(2) == 0) {
			continue
		}
		v := s.parameter(p)
		switch p.In {
		case "query":
			query.Set(p.Name, v)
		case "header":
			c.headers = append(c.headers, p.Name, v)
		}
	}
	if len(query) > 0 {
		c.path += "?" + query.Encode()
	}
	if op.RequestBody != nil {
		kinds := slices.Sorted(maps.Keys(op.RequestBody.Content))
		kind := kinds[s.IntN(len(kinds))]
		if c.body = fileText; op.path != pathContent {
			c.body = encode(s.value(op.RequestBody.Content[kind].Schema))
		}
		c.headers = append(c.headers, "Content-Type", strings.ReplaceAll(kind, "*", "mp4"))
	}
	return c
}

// parameter makes a value of a parameter. What has a form that JSON Schema cannot tell is one of its known values.
func (s *suite) parameter(p parameter) string {
	known := map[string][]string{
		"Prefer":          {"wait=20", "respond-async", "wait=0, handling=strict", "return=minimal;x=y"},
		"Idempotency-Key": {uuid.NewString(), `"` + uuid.NewString() + `"`},
		"If-Match":        {`"1"`, `*`, `"1", "2"`, `W/"1"`},
		"If-None-Match":   {`"1"`, `*`, `"99"`, `W/"7"`},
		"Writ-Tenant":     {"default"},
		"X-Request-ID":    {"request-1"},
		"Range":           {"bytes=0-1", "bytes=-2", "bytes=1-"},
		"If-Range":        {`"1"`},
		"Repr-Digest":     {digest(fileText)},
		"Content-Digest":  {digest(fileText)},
		"Svix-Id":         {"msg_1"},
		"Svix-Timestamp":  {"1"},
		"Svix-Signature":  {"v1,x"},
		"queue":           {"", "probe"},
		"sort":            {"created_at", "-updated_at", "id"},
	}
	if values := known[p.Name]; values != nil {
		return values[s.IntN(len(values))]
	}
	return fmt.Sprint(s.value(p.Schema))
}

// rounds is how many valid requests each operation is sent by each principal.
const rounds = 6

// valid sends input that the document allows: it may be refused for who asks or for what is there, never for its form.
func (s *suite) valid(t *testing.T, op *operation) {
	for range rounds {
		for _, who := range []*outside.Client{s.admin, s.user, s.guest} {
			ids := []string{""}
			if op.names() {
				ids = []string{s.id(t, op), absent(op)}
			}
			for _, id := range ids {
				c := s.validCall(t, op, id)
				if op.path == signOut {
					who = s.anonymous // or who asks next would be nobody
				}
				switch a := s.send(t, who, c); a.Status {
				case 400, 413, 415, 422:
					t.Errorf("%s: valid input was refused: %d %s", c, a.Status, a.Body)
				}
			}
		}
	}
}

// conditions reach the answers that only a certain state gives.
func (s *suite) conditions(t *testing.T) {
	for _, op := range s.operations {
		create, plural := s.creator(op)
		if create == nil || !op.names() || op.path == pathContent || strings.HasSuffix(op.path, "/enable") || !op.takes("If-Match") && !op.takes("If-None-Match") {
			continue
		}
		id := s.make(t, s.owner(plural), create, plural)
		c := call{op: op, path: s.at(op, id)}
		if op.method == "GET" {
			for tag, want := range map[string]int{`"1"`: 304, `*`: 304, `"2"`: 200} {
				c.headers = []string{"If-None-Match", tag}
				if a := s.send(t, s.owner(plural), c); a.Status != want {
					t.Errorf("%s: %d", c, a.Status)
				}
			}
			continue
		}
		if op.RequestBody != nil {
			if c.body = "{}"; op.method == "PUT" {
				c.body = `{"roles":["user"]}`
			}
		}
		// Not changed yet, so a version that will never be is refused at once or when it is applied.
		for _, tag := range []string{`"0"`, `"77"`} {
			c.headers = []string{"If-Match", tag, "Prefer", "wait=20"}
			if a := s.send(t, s.admin, c); a.Status != http.StatusPreconditionFailed {
				t.Errorf("%s: %d %s", c, a.Status, a.Body)
			}
		}
		key := uuid.NewString()
		c.headers = []string{"Idempotency-Key", key}
		first := s.send(t, s.admin, c)
		c.headers = append(c.headers, "Prefer", "wait=20")
		second := s.send(t, s.admin, c)
		if first.Status != http.StatusAccepted || second.Status/100 != 2 || second.Status == http.StatusAccepted || first.CommandID() != second.CommandID() {
			t.Errorf("%s: %d %s and %d %s", c, first.Status, first.CommandID(), second.Status, second.CommandID())
		}
		c.headers = append(c.headers, "If-Match", "*")
		if third := s.send(t, s.admin, c); third.Status != http.StatusUnprocessableEntity {
			t.Errorf("%s: %d", c, third.Status)
		}
	}
}

// outside checks the routes that are no operations, and what is not there at all.
func (s *suite) outside(t *testing.T) {
	for path, kind := range map[string]string{
		"/livez": "", "/readyz": "", "/readyz?verbose": "", "/metrics": "text/plain", "/docs": "text/html", "/openapi.json": "application/", "/openapi.yaml": "application/",
	} {
		a := s.anonymous.Do(t, "GET", path, "")
		if a.Status != http.StatusOK || !strings.HasPrefix(a.Header.Get("Content-Type"), kind) || a.Header.Get("X-Request-ID") == "" {
			t.Errorf("%s: %d %v", path, a.Status, a.Header)
		}
	}
	page := string(s.anonymous.Do(t, "GET", "/docs", "").Body)
	for _, op := range s.operations {
		if !strings.Contains(page, op.path) {
			t.Errorf("/docs does not show %s", op)
		}
	}
	problem := func(method, path string, status int) {
		t.Helper()
		a := s.admin.Do(t, method, path, "")
		var p outside.Problem
		if a.Status != status || a.Header.Get("Content-Type") != "application/problem+json" || json.Unmarshal(a.Body, &p) != nil || p.Status != status {
			t.Errorf("%s %s: %d %s %s", method, path, a.Status, a.Header, a.Body)
		}
		if allow := a.Header.Get("Allow"); status == http.StatusMethodNotAllowed && allow == "" {
			t.Errorf("%s %s does not say what is allowed (RFC 9110, 15.5.6)", method, path)
		}
	}
	for _, path := range []string{"/", "/v1", "/v1/", "/v1/nothing", "/v1/contacts/", "/v2/contacts", "/v1/contacts/x/approve", "/metrics/x"} {
		problem("GET", path, http.StatusNotFound)
	}
	methods := map[string][]string{}
	for _, op := range s.operations {
		methods[op.path] = append(methods[op.path], op.method)
	}
	delete(methods, pathStytch) // where the other methods find a webhook of that id
	for path, has := range methods {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			if !slices.Contains(has, method) {
				problem(method, pathParameter.ReplaceAllString(path, uuid.NewString()), http.StatusMethodNotAllowed)
			}
		}
	}
}

// seenAll fails for an operation whose successes did not all come up: nothing was checked about them.
func (s *suite) seenAll(t *testing.T) {
	for _, op := range s.operations {
		var missed []string
		for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
			n, err := strconv.Atoi(status)
			if err != nil || s.seen[op.String()][n] > 0 {
				continue
			}
			if missed = append(missed, status); n < 400 || n == 401 && !op.open() {
				t.Errorf("%s was never answered %d", op, n)
			}
		}
		t.Logf("%-34s seen %v, not seen %v", op, s.seen[op.String()], missed)
	}
}
