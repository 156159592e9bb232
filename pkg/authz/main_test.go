package authz

import (
	"log/slog"
	"testing"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const policies = "../../policies"

// open opens a setting for one test, quietly.
func open(t testing.TB, setting string, opts ...Option) Authorizer {
	t.Helper()
	a, err := Open(t.Context(), setting, append([]Option{WithLogger(slog.New(slog.DiscardHandler))}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// policyDir makes a folder with one policy for kind doc that has these rules.
func policyDir(t testing.TB, rules string) string {
	t.Helper()
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"doc.yaml": docPolicy(rules)})
	return dir
}

func docPolicy(rules string) string {
	return "apiVersion: api.cerbos.dev/v1\nresourcePolicy:\n  resource: doc\n  version: default\n  rules:\n" + rules
}

func principal(id string, roles ...string) events.Principal {
	return events.Principal{ID: id, Roles: roles, Attr: map[string]any{"tenant": "default"}}
}

func docWith(attr map[string]any) events.Resource {
	return events.Resource{Kind: "doc", ID: "d1", Attr: attr}
}
