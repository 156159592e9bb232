package authz

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync/atomic"

	runtimev1 "github.com/cerbos/cerbos/api/genpb/cerbos/runtime/v1"
	policycompile "github.com/cerbos/cerbos/private/compile"
	"github.com/cerbos/cerbos/private/ruletable"
	"github.com/cerbos/cerbos/private/ruletable/compile"
	epdpv2 "github.com/cerbos/cloud-api/genpb/cerbos/cloud/epdp/v2"
)

// snapshot is a compiled policy set. It never changes, and what is remembered of
// its answers goes with it.
type snapshot struct {
	revision string
	table    ruletable.Evaluator
	rules    ruleIndex
	parts    *parts

	reads     *readIndex
	views     views
	checks    *memo[[]Result]
	plans     *memo[*planned]
	standIn   string       // stands in remembered plans for the id of who asks
	evaluated atomic.Int64 // questions that Cerbos was asked
}

// Revision is the digest of the policy files in a folder: the first 16 hex
// digits of a SHA-256 over the relative paths and contents of all files that
// Cerbos reads as policies or schemas. Tests and other files do not count.
func Revision(dir string) (string, error) {
	sum, n := sha256.New(), 0
	fsys := os.DirFS(dir)
	// WalkDir goes in lexical order, so the digest does not depend on the file system.
	err := fs.WalkDir(fsys, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if skipDir(name) {
				return fs.SkipDir
			}
			return nil
		}
		if !policyFile(name) {
			return nil
		}
		content, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		n++
		// Lengths keep a path and a content from running into each other.
		_, _ = fmt.Fprintf(sum, "%d %s %d ", len(name), name, len(content))
		_, err = sum.Write(content)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read policies in %s: %w", dir, err)
	}
	if n == 0 {
		return "", fmt.Errorf("read policies in %s: there are none", dir)
	}
	return hex.EncodeToString(sum.Sum(nil))[:16], nil
}

// skipDir names the folders in which Cerbos sees no policies. Where in doubt a
// file counts: a revision that moves without need costs a second check.
func skipDir(name string) bool {
	base := path.Base(name)
	return name != "." && (strings.HasPrefix(base, ".") || base == "testdata") && !inSchemas(name)
}

func inSchemas(name string) bool { return strings.HasPrefix(name, "_schemas/") }

func policyFile(name string) bool {
	ext := path.Ext(name)
	if strings.HasPrefix(path.Base(name), ".") || (ext != ".yaml" && ext != ".yml" && ext != ".json") {
		return false
	}
	return inSchemas(name) || !strings.HasSuffix(strings.TrimSuffix(name, ext), "_test")
}

// compileDir compiles the policies in a folder. A folder that changes
// meanwhile is compiled again, so that the revision is that of what was compiled.
func compileDir(ctx context.Context, dir string) (*snapshot, error) {
	const attempts = 5
	for range attempts {
		before, err := Revision(dir)
		if err != nil {
			return nil, err
		}
		s, err := compileOnce(ctx, dir)
		after, errAfter := Revision(dir)
		if errAfter != nil {
			return nil, errAfter
		}
		if before != after {
			continue
		}
		if err != nil {
			return nil, err
		}
		s.revision = after
		return s, nil
	}
	return nil, fmt.Errorf("the policies in %s change all the time", dir)
}

func compileOnce(ctx context.Context, dir string) (s *snapshot, err error) {
	defer func() {
		if r := recover(); r != nil {
			s, err = nil, fmt.Errorf("compile policies in %s: Cerbos panicked: %v", dir, r)
		}
	}()
	table, err := compile.Compile(ctx, os.DirFS(dir))
	if err != nil {
		return nil, fmt.Errorf("compile policies in %s: %w", dir, explain(err))
	}
	rules, reads := indexRules(table), indexReads(table) // first: the rewritten conditions and the evaluator have no syntax trees
	if err := reads.conditions.compile(ctx); err != nil {
		return nil, fmt.Errorf("compile policies in %s: %w", dir, err)
	}
	if err := failClosed(table); err != nil {
		return nil, fmt.Errorf("compile policies in %s: %w", dir, err)
	}
	if err := keepOperands(table); err != nil {
		return nil, fmt.Errorf("compile policies in %s: %w", dir, err)
	}
	parts := newParts(table) // before the evaluator, too, which takes the table apart
	evaluator, err := newEvaluator(table)
	if err != nil {
		return nil, fmt.Errorf("compile policies in %s: %w", dir, err)
	}
	return &snapshot{table: evaluator, rules: rules, parts: parts, reads: reads, standIn: newStandIn(),
		checks: newMemo[[]Result](memoChecks, memoCheckBytes), plans: newMemo[*planned](memoPlans, memoPlanBytes)}, nil
}

func newEvaluator(t *runtimev1.RuleTable) (ruletable.Evaluator, error) {
	return ruletable.NewRuleTableFromProto(t, &epdpv2.Config{
		Schema: &epdpv2.Config_Schema{Enforcement: epdpv2.Config_Schema_ENFORCEMENT_REJECT},
		// A tenant's scope without policies of its own falls back to the root's.
		Evaluator: &epdpv2.Config_Evaluator{LenientScopeSearch: true},
	})
}

// explain makes one line of what Cerbos found; its own errors say only that
// there was something.
func explain(err error) error {
	var lines []string
	if e, ok := errors.AsType[*policycompile.Errors](err); ok {
		lines = explainCompile(e.Errors)
	}
	if len(lines) == 0 {
		lines = []string{strings.Join(strings.Fields(err.Error()), " ")}
	}
	return errors.New(strings.Join(lines, "; "))
}

func explainCompile(e *runtimev1.Errors) []string {
	var lines []string
	add := func(file, format string, args ...any) {
		text := strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " ")
		lines = append(lines, file+": "+text)
	}
	for _, x := range e.GetCompileErrors().GetErrors() {
		add(x.GetFile(), "%s: %s", x.GetDescription(), x.GetError())
	}
	build := e.GetIndexBuildErrors()
	for _, x := range build.GetLoadFailures() {
		add(x.GetFile(), "%s", x.GetErrorDetails().GetMessage())
	}
	for _, x := range build.GetDuplicateDefs() {
		add(x.GetFile(), "defines %s, as %s does", x.GetPolicy(), x.GetOtherFile())
	}
	for _, x := range build.GetMissingImports() {
		add(x.GetImportingFile(), "%s", x.GetDesc())
	}
	for _, x := range build.GetMissingScopeDetails() {
		add(x.GetMissingPolicy(), "is missing for %s", strings.Join(x.GetDescendants(), ", "))
	}
	for _, x := range build.GetScopePermissionsConflicts() {
		add("scope "+x.GetScope(), "its policies do not agree on scopePermissions")
	}
	return lines
}
