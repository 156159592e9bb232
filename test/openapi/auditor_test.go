package openapi

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

// TestAuditorsDocumentHolds holds the auditor to its own document.
func TestAuditorsDocumentHolds(t *testing.T) {
	dev := outside.StartDev(t, t.TempDir(), []string{"--seed=false"}, nil)
	anonymous := outside.NewClient(t, dev.Auditor, "")
	api := outside.NewClient(t, dev.API, "")
	s := &suite{
		document: readDocument(t, anonymous.Want(t, http.StatusOK, nil, "GET", "/openapi.json", "").Body), anonymous: anonymous, ids: map[string][]string{},
		admin: anonymous.With(dev.SignIn(t, "admin@openapi.example", "admin")),
		user:  anonymous.With(dev.SignIn(t, "user@openapi.example", "user")),
		guest: anonymous.With(dev.SignIn(t, "guest@openapi.example", "guest")),
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	s.generator = &generator{Rand: rand.New(rand.NewPCG(seed, 0)), d: s.document}
	t.Run("document", s.wellFormed)

	api.With(dev.SignIn(t, "admin@openapi.example")).Want(t, http.StatusCreated, nil, "POST", "/v1/contacts", `{"first_name":"x"}`, "Prefer", "wait=20")
	var list struct {
		Items []struct{ Decision struct{ ID string } }
	}
	s.admin.Want(t, http.StatusOK, &list, "GET", "/v1/decisions", "")
	for _, item := range list.Items {
		s.ids["decisions"] = append(s.ids["decisions"], item.Decision.ID)
	}
	known := strings.NewReplacer("{tile}", "0/000.p/1", "{bundle}", "000.p/1")
	for _, op := range s.operations {
		op.path = known.Replace(op.path)
		s.seen[op.String()] = map[int]int{}
	}
	proven := func() error { // everything above, and one outcome
		for _, path := range []string{"/v1/decisions/" + s.ids["decisions"][0] + "/proof", "/outcomes/tile/0/000.p/1"} {
			if a := s.admin.Do(t, "GET", path, ""); a.Status != http.StatusOK {
				return fmt.Errorf("%s: %d %s", path, a.Status, a.Body)
			}
		}
		return nil
	}
	testkit.Eventually(t, 20*time.Second, proven)

	for _, op := range s.operations {
		t.Run("valid "+op.String(), func(t *testing.T) {
			if strings.HasSuffix(op.path, "/stream") {
				s.opens(t, op, dev.Auditor)
				return
			}
			s.validQueries(t, op)
		})
		t.Run("invalid "+op.String(), func(t *testing.T) { s.invalid(t, op) })
	}
	t.Run("every success was seen", s.seenAll)
	page := string(anonymous.Do(t, "GET", "/docs", "").Body)
	if !strings.Contains(page, "/v1/decisions/stream") || !strings.Contains(page, "/tile/{tile}") {
		t.Error("/docs does not show all operations")
	}
}

// validQueries is valid for operations that only read.
func (s *suite) validQueries(t *testing.T, op *operation) {
	for range rounds {
		for _, who := range []*outside.Client{s.admin, s.user, s.guest} {
			ids := []string{""}
			if strings.Contains(op.path, "{id}") {
				ids = []string{s.id(t, op), uuid.NewString()}
			}
			for _, id := range ids {
				c := s.validCall(t, op, id)
				switch a := s.send(t, who, c); {
				case a.Status == http.StatusUnprocessableEntity && strings.HasPrefix(op.path, "/v1/consistency"):
					// there is no tree of that size yet
				case a.Status/100 == 5, a.Status == 400, a.Status == 413, a.Status == 415, a.Status == 422:
					t.Errorf("%s: valid input was refused: %d %s", c, a.Status, a.Body)
				}
			}
		}
	}
	base := strings.ReplaceAll(op.path, "{id}", strings.Join(append(s.ids["decisions"], "")[:1], ""))
	for _, p := range op.Parameters { // at least one of each succeeds
		if p.In == "query" && p.Required {
			base += "?" + p.Name + "=" + map[string]string{"from": "1", "bundle": "0&width=1"}[p.Name]
		}
	}
	if tag := s.send(t, s.admin, call{op: op, path: base}).Header.Get("ETag"); tag != "" {
		s.send(t, s.admin, call{op: op, path: base, headers: []string{"If-None-Match", tag}})
	}
}

// opens looks at how an answer begins that does not end.
func (s *suite) opens(t *testing.T, op *operation, base string) {
	path := op.path
	if op.names() {
		path = s.at(op, s.id(t, op))
	}
	for _, who := range []*outside.Client{s.admin, s.user, s.guest} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		req, err := http.NewRequestWithContext(ctx, op.method, base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+who.Token)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		a := outside.Answer{Status: res.StatusCode, Header: res.Header}
		if res.StatusCode == http.StatusOK {
			if err := s.check(op, a); err != nil {
				t.Errorf("%s: %v", op, err)
			}
		} else if who == s.admin {
			t.Errorf("%s: %d", op, res.StatusCode)
		}
		_ = res.Body.Close()
		cancel()
	}
	http.DefaultClient.CloseIdleConnections()
}
