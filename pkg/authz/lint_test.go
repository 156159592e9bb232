package authz

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/kinds"
)

// edited copies the policies with one file changed.
func edited(t *testing.T, file, from, to string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(policies)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil || !strings.Contains(string(b), from) {
		t.Fatalf("%s does not hold %q: %v", file, from, err)
	}
	content := strings.Replace(string(b), from, to, 1)
	if strings.Contains(to, "  rules:\n") {
		content = strings.Replace(content, "  rules: []\n", "", 1)
	}
	writeFiles(t, dir, map[string]string{file: content})
	return dir
}

func lint(t *testing.T, dir string) []Finding {
	t.Helper()
	found, err := Lint(t.Context(), dir, kinds.All)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestLintFindsNothingInThePolicies(t *testing.T) {
	for _, f := range lint(t, policies) {
		t.Errorf("%s %s: %s", f.Rule, f.Where, f.Message)
	}
}

const readsAll = "    - name: user-reads\n      actions: [read, list]\n      effect: EFFECT_ALLOW\n      roles: [user]\n"

func withCondition(expr string) string {
	return readsAll + fmt.Sprintf("      condition: {match: {expr: %q}}\n", expr)
}

// Shapes that compile and cannot be a list's condition are named, by lint and when they go into force, and a list says so.
func TestPoliciesThatCannotFilterListsAreNamed(t *testing.T) {
	for _, expr := range []string{`R.attr["region"] == "x"`, `R.attr.is_active ? true : R.attr.owner_id == P.id`, `R.attr.owner_id == null`, `R.attr.owner_id.lowerAscii() == P.id`,
		`size(R.attr.owner_id) > 1`, `R.attr.owner_id + "x" == P.id`, `["a", "b"].exists_one(x, x == R.attr.owner_id)`, `R.attr.unknown == "x"`} {
		dir := edited(t, "contact.yaml", readsAll, withCondition(expr))
		for _, other := range []string{"acme", "expense.yaml", "video.yaml"} { // contacts are enough
			if err := os.RemoveAll(filepath.Join(dir, other)); err != nil {
				t.Fatal(err)
			}
		}
		found := lint(t, dir)
		if !slices.ContainsFunc(found, func(f Finding) bool { return f.Rule == LintNotSQL && f.Where == "contact" }) {
			t.Errorf("%s: %+v, want %s about contact", expr, found, LintNotSQL)
		}
		var log lockedBuffer
		e := open(t, "embed:"+dir, WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		if said := log.String(); !strings.Contains(said, "kind=contact") || !strings.Contains(said, "level=WARN") {
			t.Errorf("%s: the log says %q, want a warning about contact", expr, said)
		}
		plan, err := e.Plan(t.Context(), PlanRequest{Principal: principal("sam", "user"), Kind: "contact", Action: "list", Attr: map[string]any{"tenant": "default"}, Tenant: "default"})
		if err == nil {
			_, err = plan.Filter(contact.Kind, SQLite)
		}
		if f, ok := errors.AsType[*fault.Error](err); !ok || f.Code != PolicyNotSQL || !strings.Contains(f.Message, "contact") || strings.Contains(f.Message, expr) {
			t.Errorf("%s: the list's error is %v, want one that says what is wrong", expr, err)
		}
	}
}

func TestLintFindsWhatNoRequestSendsOrReaches(t *testing.T) {
	for name, c := range map[string]struct{ file, from, to, rule, where string }{
		"an attribute": {"contact.yaml", `'!("owner_id" in R.attr.changes)'`, `'!("owner_id" in R.attr.chnages)'`, LintUnknownAttr, "resource.contact.vdefault#only-an-admin-gives-away"},
		"an action":    {"contact.yaml", "actions: [read, list]", "actions: [raed, list]", LintUnreachable, "resource.contact.vdefault#user-reads"},
		// The first policy of a scope that Cerbos loads is the one whose permissions it does not compare.
		"a scope": {"acme/audit.yaml", "  scopePermissions: SCOPE_PERMISSIONS_REQUIRE_PARENTAL_CONSENT_FOR_ALLOWS\n  schemas:",
			"  rules:\n    - {actions: [list], effect: EFFECT_ALLOW, roles: [admin]}\n  schemas:", LintMixedScope, "scope acme"},
	} {
		found := lint(t, edited(t, c.file, c.from, c.to))
		if !slices.ContainsFunc(found, func(f Finding) bool { return f.Rule == c.rule && f.Where == c.where }) {
			t.Errorf("%s: %+v, want %s about %s", name, found, c.rule, c.where)
		}
	}
}

// Cerbos refuses two that are said; the error names the scope.
func TestConflictingScopePermissionsDoNotCompile(t *testing.T) {
	dir := edited(t, "acme/video.yaml", "SCOPE_PERMISSIONS_REQUIRE_PARENTAL_CONSENT_FOR_ALLOWS", "SCOPE_PERMISSIONS_OVERRIDE_PARENT")
	if _, err := Lint(t.Context(), dir, kinds.All); err == nil || !strings.Contains(err.Error(), "scope acme: its policies do not agree on scopePermissions") {
		t.Errorf("%v, want an error that names the scope", err)
	}
}

// Whatever a kind's schema lets policies read is sent.
func TestEveryAttributeOfASchemaIsSent(t *testing.T) {
	for _, def := range kinds.All {
		b, err := os.ReadFile(filepath.Join(policies, "_schemas", def.Name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		s := attrSchemas{required: map[string]bool{}, properties: map[string][]valueSchema{}}
		s.read(b)
		sent := append(def.AttrNames(), "changes")
		for name := range s.properties {
			if !slices.Contains(sent, name) {
				t.Errorf("%s: a policy may read %s, which no request sends: %q", def.Name, name, sent)
			}
		}
		for _, name := range sent {
			if s.properties[name] == nil {
				t.Errorf("%s: %s is sent, and its schema does not have it", def.Name, name)
			}
		}
	}
}
