package authz

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	runtimev1 "github.com/cerbos/cerbos/api/genpb/cerbos/runtime/v1"
	"github.com/cerbos/cerbos/private/ruletable/compile"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
)

// Finding is something about policies that compile and will not do what is meant.
type Finding struct {
	// Rule is one of the Lint constants.
	Rule string `json:"rule"`
	// Where is a kind, a scope or a rule as Cerbos names it.
	Where   string `json:"where"`
	Message string `json:"message"`
}

// What Lint looks for.
const (
	LintNotSQL      = "not-sql"                 // lists of a kind cannot be filtered: they are answered with an error
	LintMixedScope  = "mixed-scope-permissions" // policies of one scope that Cerbos then evaluates by either (cerbos/cerbos#3382)
	LintUnknownAttr = "unknown-attribute"       // an attribute of a kind that no request sends
	LintUnreachable = "unreachable-rule"        // a rule about an action that no request asks about
)

// Lint looks at the policies in a folder, for the kinds that are served. An error
// says that they do not compile.
func Lint(ctx context.Context, dir string, defs []*kind.Definition) ([]Finding, error) {
	s, err := compileDir(ctx, dir)
	if err != nil {
		return nil, err
	}
	table, err := compile.Compile(ctx, os.DirFS(dir))
	if err != nil {
		return nil, fmt.Errorf("compile policies in %s: %w", dir, explain(err))
	}
	out := slices.Concat(mixedScopes(table), s.unlistable(ctx, defs), unknownAttributes(table, defs), unreachable(table, defs))
	slices.SortFunc(out, func(a, b Finding) int {
		return strings.Compare(a.Rule+"\x00"+a.Where+"\x00"+a.Message, b.Rule+"\x00"+b.Where+"\x00"+b.Message)
	})
	return slices.Compact(out), nil
}

// mixedScopes finds scopes whose policies do not agree on scopePermissions.
func mixedScopes(t *runtimev1.RuleTable) (out []Finding) {
	first := map[string]*runtimev1.RuleTable_RuleRow{}
	for _, row := range t.GetRules() {
		have, ok := first[row.GetScope()]
		if !ok {
			first[row.GetScope()] = row
		} else if have.GetScopePermissions() != row.GetScopePermissions() {
			out = append(out, Finding{LintMixedScope, "scope " + row.GetScope(), fmt.Sprintf("%s says %s and %s says %s: Cerbos takes either for both",
				have.GetOriginFqn(), have.GetScopePermissions(), row.GetOriginFqn(), row.GetScopePermissions())})
		}
	}
	return out
}

// unlistable finds kinds whose lists cannot be filtered. Each is planned for a
// principal of every role that the policies name, in every scope with rules about it.
func (s *snapshot) unlistable(ctx context.Context, defs []*kind.Definition) (out []Finding) {
	roles := []string{user.Guest}
	for _, r := range s.rules {
		if r.role != anyRole && r.role != "" && !slices.Contains(roles, r.role) && len(roles) < maxLintRoles {
			roles = append(roles, r.role)
		}
	}
	said := map[string]bool{}
	for _, def := range defs {
		for _, scope := range s.rules.scopes(def.Name) {
			for _, role := range roles {
				err := s.lists(ctx, role, scope, def)
				if f, ok := errors.AsType[*fault.Error](err); ok && f.Err != nil {
					err = f.Err
				}
				if err == nil || said[def.Name+err.Error()] {
					continue
				}
				said[def.Name+err.Error()] = true
				out = append(out, Finding{LintNotSQL, def.Name, strings.TrimPrefix(err.Error(), "authz: ")})
			}
		}
	}
	return out
}

// scopes are those with rules about lists of a kind.
func (x ruleIndex) scopes(of string) []string {
	var scopes []string
	for r := range x.about(of, kind.ActionList) {
		if !slices.Contains(scopes, r.scope) && len(scopes) < maxLintScopes {
			scopes = append(scopes, r.scope)
		}
	}
	return scopes
}

// Bounds on how many principals lists are planned for.
const (
	maxLintRoles  = 32
	maxLintScopes = 16
)

// lists makes the plan and the filter of a list for somebody with a role.
func (s *snapshot) lists(ctx context.Context, role, scope string, def *kind.Definition) error {
	tenant := cmp.Or(scope, user.DefaultTenant)
	req := PlanRequest{Kind: def.Name, Action: kind.ActionList, Attr: map[string]any{"tenant": tenant}, Tenant: tenant, Scope: scope,
		Principal: events.Principal{ID: s.standIn, Roles: []string{role}, Attr: map[string]any{user.AttrTenant: tenant, "region": "lint", "department": "lint"}}}
	p, err := s.makePlan(ctx, req)
	if err != nil {
		return err
	}
	p.known = req.Attr
	for _, dialect := range []string{SQLite, Postgres} {
		if _, err := p.Filter(def, dialect); err != nil {
			return err
		}
	}
	return nil
}

// unknownAttributes finds attributes that rules about a kind read and no request sends.
func unknownAttributes(t *runtimev1.RuleTable, defs []*kind.Definition) (out []Finding) {
	for _, def := range defs {
		sent := append(def.AttrNames(), "tenant", "owner_id", "changes")
		for _, row := range t.GetRules() {
			if row.GetResource() != def.Name {
				continue
			}
			r := reader{constants: map[string]bool{}}
			readRule(&r, row)
			names := r.resource.some
			for name := range r.compared {
				r.resource.add(name)
				names = r.resource.some
			}
			for _, name := range slices.Sorted(maps.Keys(names)) {
				if !slices.Contains(sent, name) {
					out = append(out, Finding{LintUnknownAttr, ruleName(row), fmt.Sprintf("R.attr.%s is never sent about a %s, whose attributes are %s", name, def.Name, strings.Join(sent, ", "))})
				}
			}
		}
	}
	return out
}

// unreachable finds rules about actions that a kind does not have.
func unreachable(t *runtimev1.RuleTable, defs []*kind.Definition) (out []Finding) {
	for _, def := range defs {
		actions := append([]string{kind.ActionCreate, kind.ActionRead, kind.ActionList, kind.ActionUpdate, kind.ActionDelete}, def.Actions()...)
		for _, h := range def.Hidden {
			actions = append(actions, h.Action)
		}
		actions = append(actions, def.SystemActions()...)
		for _, row := range t.GetRules() {
			if row.GetResource() != def.Name || row.GetAllowActions() != nil || nameOf(row.GetAction()).pattern || slices.Contains(actions, row.GetAction()) {
				continue
			}
			out = append(out, Finding{LintUnreachable, ruleName(row), fmt.Sprintf("no request asks about %s of a %s, whose actions are %s", row.GetAction(), def.Name, strings.Join(actions, ", "))})
		}
	}
	return out
}

func ruleName(row *runtimev1.RuleTable_RuleRow) string {
	return strings.TrimPrefix(row.GetOriginFqn(), "cerbos.") + "#" + row.GetName()
}
