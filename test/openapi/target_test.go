package openapi

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

// pathParameter finds what an operation's path leaves open.
var pathParameter = regexp.MustCompile(`\{([a-z]+)\}`)

// names reports whether an operation is about a thing that its path names.
func (op *operation) names() bool { return strings.Contains(op.path, "{") }

// takes reports whether an operation has a parameter.
func (op *operation) takes(name string) bool {
	return slices.ContainsFunc(op.Parameters, func(p parameter) bool { return p.Name == name })
}

// plural is the first part of an operation's path: contacts, commands.
func (op *operation) plural() string {
	return strings.Split(strings.TrimPrefix(op.path, "/v1/"), "/")[0]
}

// at fills an operation's path with the id of what it is about. A member of a tenant is somebody who is there.
func (s *suite) at(op *operation, id string) string {
	first := true
	return pathParameter.ReplaceAllStringFunc(op.path, func(name string) string {
		if first {
			first = false
			return id
		}
		return s.ids["users"][0]
	})
}

// absent is an id of the right form of what is not there.
func absent(op *operation) string {
	switch op.plural() {
	case "users":
		return "user-test-" + uuid.NewString()
	case "tenants":
		return "t-" + uuid.NewString()
	case "dead":
		return "worker.LEDGER.999999999"
	case "queues":
		return "nobody"
	}
	return uuid.NewString()
}

// misshapen are ids of no form.
func misshapen(op *operation, id string) []string {
	out := []string{"%00", "%27%3B--", "..%2F" + id, "%C3%A9", strings.Repeat("a", 200) + "_"}
	switch op.plural() {
	case "tenants", "queues":
		return append(out, "UPPER", "-x", "a_b", "a.b")
	case "dead":
		return append(out, "1", "x", "worker.LEDGER.x", "worker..1")
	}
	return append(out, "1", "x", id+"0", strings.ToUpper(id)[1:])
}

// owner makes things of a kind: some only an admin may.
func (s *suite) owner(plural string) *outside.Client {
	if slices.Contains([]string{"users", "tenants", "webhooks"}, plural) {
		return s.admin
	}
	return s.user
}

// letter makes a dead letter.
func (s *suite) letter(t *testing.T) string {
	t.Helper()
	id, _ := outside.Lapse(t, s.dev, s.seals, "default", s.userID, "lapsed")
	testkit.Eventually(t, 30*time.Second, func() error {
		if a := s.admin.Do(t, "GET", "/v1/dead/"+id, ""); a.Status != http.StatusOK {
			return fmt.Errorf("%d %s", a.Status, a.Body)
		}
		return nil
	})
	return id
}

// job makes a job, a video's probe, and gives its id. It waits, for the queue is paused.
func (s *suite) job(t *testing.T) string {
	t.Helper()
	video := s.id(t, s.operation("PUT", pathContent))
	s.admin.Want(t, http.StatusOK, nil, "PUT", "/v1/videos/"+video+"/content", fileText, "Prefer", "wait=20", "Content-Type", "video/mp4")
	id := ""
	testkit.Eventually(t, 30*time.Second, func() error {
		var list struct {
			Items []struct {
				ID      string
				Payload map[string]any
			}
		}
		a := s.admin.Want(t, http.StatusOK, &list, "GET", "/v1/jobs?queue=probe&limit=100", "")
		for _, j := range list.Items {
			if strings.Contains(fmt.Sprint(j.Payload), video) {
				id = j.ID
				return nil
			}
		}
		return fmt.Errorf("no job of %s: %s", video, a.Body)
	})
	return id
}

func (s *suite) operation(method, path string) *operation {
	return s.operations[slices.IndexFunc(s.operations, func(op *operation) bool { return op.method == method && op.path == path })]
}
