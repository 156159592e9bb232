package openapi

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// invalid sends input that the document does not allow, each time for one reason.
func (s *suite) invalid(t *testing.T, op *operation) {
	id := ""
	if op.names() {
		id = s.id(t, op)
	}
	refused := func(what string, c call, statuses ...int) {
		t.Helper()
		if a := s.send(t, s.admin, c); !slices.Contains(statuses, a.Status) && exempt[op.String()] == "" {
			t.Errorf("%s: %s: %d %.300s, want %v", what, c, a.Status, a.Body, statuses)
		}
	}
	base := func() call { // with nothing optional
		c := call{op: op, path: s.at(op, id)}
		if op.path == pathContent && op.RequestBody != nil {
			c.body = fileText
		} else if op.RequestBody != nil {
			c.body = encode(s.value(op.RequestBody.Content["application/json"].Schema))
		}
		return c
	}
	s.invalidParameters(op, base, refused)
	s.malformed(t, op, s.at(op, id))
	if op.RequestBody != nil && op.path != pathContent {
		s.invalidBodies(t, op, base, refused)
	}
	if id != "" {
		for _, bad := range misshapen(op, id) {
			c := base()
			c.path = s.at(op, bad)
			refused("a bad id", c, 422)
		}
	}
	if op.open() {
		return
	}
	for _, token := range []string{"", "x", "a.b.c", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0."} {
		if a := s.send(t, s.anonymous.With(token), base()); a.Status != http.StatusUnauthorized {
			t.Errorf("the token %q: %d %s", token, a.Status, a.Body)
		}
	}
	c := base()
	c.headers = []string{"Authorization", "Basic dTpw"}
	if a := s.send(t, s.anonymous, c); a.Status != http.StatusUnauthorized {
		t.Errorf("basic authentication: %d %s", a.Status, a.Body)
	}
}

// malformed sends to every parameter, and to one that nobody knows, what cannot be
// read as one thing: 400 that names it, whatever the operation makes of the value.
func (s *suite) malformed(t *testing.T, op *operation, path string) {
	t.Helper()
	names := []string{"unknown"}
	for _, p := range op.Parameters {
		if p.In == "query" {
			names = append(names, p.Name)
		}
	}
	for _, name := range names {
		for _, query := range []string{name + "=a;b", name + "=%zz", name + "=%f", name + "=%ff", name + "=a%00", name + "=1&" + name + "=1", name + "=1&%" + fmt.Sprintf("%02x", name[0]) + name[1:] + "=1"} {
			a := s.admin.Do(t, op.method, path+"?"+query, "")
			if a.Status != http.StatusBadRequest || !strings.Contains(string(a.Body), `"query.`+name+`"`) {
				t.Errorf("%s ?%s: %d %.300s, want 400 that names query.%s", op, query, a.Status, a.Body, name)
			}
		}
		if name == "unknown" {
			continue
		}
		if a := s.admin.Do(t, op.method, path+"?"+strings.ToUpper(name)+"=1", ""); a.Status/100 != 4 {
			t.Errorf("%s: %s in upper case: %d %.300s, want 4xx", op, name, a.Status, a.Body)
		}
	}
	for _, name := range []string{"Authorization", "Writ-Tenant", "Idempotency-Key", "Content-Type", "X-Request-ID", "Range", "If-Range", "Last-Event-ID"} {
		r, err := http.NewRequestWithContext(t.Context(), op.method, s.admin.Base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+s.admin.Token)
		r.Header[name] = []string{"x", "y"}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
		_ = res.Body.Close()
		if res.StatusCode != http.StatusBadRequest || op.method != http.MethodHead && !strings.Contains(string(body), `"header.`+name+`"`) {
			t.Errorf("%s with two %s lines: %d %.300s, want 400 that names it", op, name, res.StatusCode, body)
		}
	}
}

type refuse = func(what string, c call, statuses ...int)

func (s *suite) invalidParameters(op *operation, base func() call, refused refuse) {
	for _, p := range op.Parameters {
		for _, w := range s.wrongs(p.Schema) {
			text, isText := w.value.(string)
			if !isText {
				text = encode(w.value)
			}
			if p.In == "path" || typeOf(p.Schema) == "string" && !isText || p.In == "header" && text == "" {
				continue // every parameter is a text, and an empty header is none
			}
			c := base()
			if p.In == "query" {
				c.path += "?" + url.Values{p.Name: {text}}.Encode()
			} else {
				c.headers = []string{p.Name, text}
			}
			refused(p.Name+": "+w.what, c, 400, 422)
		}
	}
	for name, bad := range map[string][]string{
		"Idempotency-Key": {`"`, `"x`, strings.Repeat("k", 300)},
		"If-Match":        {"1", `"1`, strings.Repeat(`"1",`, 20) + `"1"`}, "If-None-Match": {"1"},
	} {
		if !slices.ContainsFunc(op.Parameters, func(p parameter) bool { return p.Name == name }) || op.path == pathContent {
			continue // of a file: tags of any form, and bad ones are no match (RFC 9110)
		}
		for _, v := range bad {
			c := base()
			c.headers = []string{name, v}
			refused(name, c, 400, 422)
		}
	}
	if !strings.HasPrefix(op.path, "/v1/") {
		return
	}
	for _, query := range []string{"unknown=1", "Limit=1", "id=1", "%27=1"} {
		c := base()
		c.path += "?" + query
		refused("an unknown query parameter", c, 422)
	}
	if slices.ContainsFunc(op.Parameters, func(p parameter) bool { return p.Name == "limit" }) {
		for _, query := range []string{"limit=1&limit=2", "sort=no_such_field", "sort=%27", "cursor=x", "cursor=" + strings.Repeat("A", 400)} {
			c := base()
			c.path += "?" + query
			refused("a bad query", c, 400, 422)
		}
	}
}

func (s *suite) invalidBodies(t *testing.T, op *operation, base func() call, refused refuse) {
	for kind, media := range op.RequestBody.Content {
		for _, w := range s.wrongObjects(media.Schema) {
			c := base()
			c.body, c.headers = encode(w.value), []string{"Content-Type", kind}
			if w.ignored {
				s.send(t, s.admin, c)
			} else {
				refused(w.what, c, 400, 422)
			}
		}
	}
	for what, body := range map[string]string{
		"no JSON": "{", "rubbish behind": base().body + "}", "a list": "[]", "a text": `"x"`, "null": "null", "a number": "1",
		"no UTF-8": `{"a":"` + "\xff\xfe" + `"}`, "half a surrogate": `{"` + "\xed\xa0\x80" + `":1}`, "deep": strings.Repeat("[", 20000), "deeper": strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000),
	} {
		c := base()
		c.body = body
		refused(what, c, 400, 422)
	}
	c := base()
	c.body = ""
	refused("no body", c, 400, 422)
	c = base()
	c.body = `{"a":"` + strings.Repeat("x", 1<<20) + `"}`
	refused("more than 1 MiB", c, 413)
	for _, kind := range []string{"text/plain", "application/xml", "application/x-www-form-urlencoded", "rubbish"} {
		if op.path == sendLink && strings.HasSuffix(kind, "form-urlencoded") {
			continue // the sign-in page's form
		}
		c := base()
		c.headers = []string{"Content-Type", kind}
		refused("the content type "+kind, c, 415)
	}
}
