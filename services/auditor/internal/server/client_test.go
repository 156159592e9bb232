package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/problem"
)

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) problem(t testing.TB) problem.Problem {
	t.Helper()
	var p problem.Problem
	must(t, json.Unmarshal(a.body, &p))
	return p
}

func (a answer) problemOf() error { return fmt.Errorf("%d %s", a.status, a.body) }

func (r *rig) get(path, token string, headers ...string) answer {
	r.t.Helper()
	res := need(http.DefaultClient.Do(r.request(r.t.Context(), path, token, headers...)))(r.t)
	defer res.Body.Close()
	return answer{res.StatusCode, res.Header, need(io.ReadAll(res.Body))(r.t)}
}

func (r *rig) request(ctx context.Context, path, token string, headers ...string) *http.Request {
	r.t.Helper()
	req := need(http.NewRequestWithContext(ctx, http.MethodGet, r.url+path, nil))(r.t)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return req
}

// page is a list's answer as its client reads it.
type page struct {
	Items []item `json:"items"`
	Searched
}

type item struct {
	ID       string
	Index    int64
	Sequence uint64
	LeafHash string `json:"leaf_hash"`
	Masked   bool
	Decision json.RawMessage
	Outcome  json.RawMessage
}

func (i item) decision(t testing.TB) events.Decision {
	t.Helper()
	var d events.Decision
	must(t, json.Unmarshal(i.Decision, &d))
	return d
}

func (r *rig) list(token, query string, headers ...string) page {
	r.t.Helper()
	a := r.get("/v1/decisions?"+query, token, headers...)
	if a.status != http.StatusOK {
		r.t.Fatalf("%s: %d %s", query, a.status, a.body)
	}
	var p page
	must(r.t, json.Unmarshal(a.body, &p))
	return p
}

// pages reads all pages of a list.
func (r *rig) pages(token, query string, headers ...string) (all []item, n int) {
	r.t.Helper()
	for cursor := ""; ; n++ {
		p := r.list(token, query+cursor, headers...)
		all = append(all, p.Items...)
		if p.NextCursor == "" {
			return all, n + 1
		}
		cursor = "&cursor=" + p.NextCursor
	}
}

func ids(t testing.TB, items []item) []string {
	t.Helper()
	out := make([]string, len(items))
	for i, it := range items {
		out[i] = it.decision(t).ID
	}
	return out
}

// sse is a client of a stream.
type sse struct {
	body  io.ReadCloser
	lines *bufio.Reader
}

type event struct {
	id, name string
	data     []byte
	comment  bool
}

// next reads one event, or what has only a comment or an id.
func (s *sse) next() (event, error) {
	var e event
	for {
		line, err := s.lines.ReadString('\n')
		if err != nil {
			return e, err
		}
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			return e, nil
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			e.id = value
		case "event":
			e.name = value
		case "data":
			e.data = append(e.data, value...)
		case "":
			e.comment = true
		}
	}
}

func (r *rig) follow(ctx context.Context, query, token string, headers ...string) *sse {
	r.t.Helper()
	res := need(http.DefaultClient.Do(r.request(ctx, "/v1/decisions/stream?"+query, token, headers...)))(r.t)
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		r.t.Fatalf("%d %s", res.StatusCode, b)
	}
	r.t.Cleanup(func() { _ = res.Body.Close() })
	return &sse{res.Body, bufio.NewReader(res.Body)}
}

// event reads until the next event of this name.
func (s *sse) event(t testing.TB, name string) event {
	t.Helper()
	for {
		e, err := s.next()
		must(t, err)
		if e.name == name {
			return e
		}
		if e.name != "" {
			t.Fatalf("%s %s instead of %s", e.name, e.data, name)
		}
	}
}
