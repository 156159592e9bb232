package authz

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	effectv1 "github.com/cerbos/cerbos/api/genpb/cerbos/effect/v1"
	enginev1 "github.com/cerbos/cerbos/api/genpb/cerbos/engine/v1"
	policyv1 "github.com/cerbos/cerbos/api/genpb/cerbos/policy/v1"
	runtimev1 "github.com/cerbos/cerbos/api/genpb/cerbos/runtime/v1"
	"github.com/cerbos/cerbos/private/ruletable"
	"google.golang.org/protobuf/proto"
)

// A check judges each role of a principal by the rules for that role alone, and
// one role that is allowed is enough. Cerbos' planner gathers the allows of all
// roles and the conditional denies of all roles, and takes one from the other:
// what one role is denied, no role is allowed.
//
// oneByOne tells whether that makes a difference, so that a plan has to be made
// for each role. It does not where every deny rule is for every role, which is
// how policies/ are written.
func (x ruleIndex) oneByOne(kind, action string, roles []string) (bool, error) {
	if len(roles) < 2 {
		return false, nil
	}
	var denies, allows []bearing
	for r := range x.about(kind, action) {
		switch {
		case r.principal != "" || r.rolePolicy: // the planner handles these as a check does
		case r.deny:
			denies = append(denies, r.bearing)
		case r.allow:
			allows = append(allows, r.bearing)
		}
	}
	apart := slices.ContainsFunc(denies, func(d bearing) bool {
		// Also a deny for all is one for some where a scope's own rules come before it.
		return d.role != anyRole || slices.ContainsFunc(allows, func(a bearing) bool { return a.final && a.scope != d.scope })
	})
	if !apart {
		return false, nil
	}
	for _, r := range x {
		if r.rolePolicy {
			return true, noPlan(kind, action, "a deny rule for some of several roles beside role policies")
		}
		if r.principal == "" && r.role != anyRole && strings.Contains(r.role, "*") {
			return true, noPlan(kind, action, "a deny rule for some of several roles beside a rule for roles by the pattern "+r.role)
		}
	}
	return true, nil
}

// anyRole is how a rule says that it is for every role.
const anyRole = "*"

// byPrincipal reports whether a principal policy says something about the action.
//
// It comes before the resource's policy, and Cerbos' planner joins the two
// wrongly: a deny that needs no look at the resource is lost, and where the
// resource's policy has no allow for a role but a deny with a condition, what
// that does not hit counts as allowed. So they are asked about one by one.
func (x ruleIndex) byPrincipal(kind, action, id string) bool {
	for r := range x.about(kind, action) {
		if r.principal == id && id != "" {
			return true
		}
	}
	return false
}

// part is a part of the rules: what resources' policies say to one role or to
// all; or what the policy of one principal allows, or denies. Conditions still
// see all roles that a principal has.
type part struct {
	role      string // everyRole for the rules of all
	principal string // without a role
	effect    effectv1.Effect
}

// everyRole is no role's name.
const everyRole = ""

// parts are tables of a part of the rules each, made when first asked for:
// there are at most as many as roles in the policies, one for the roles that no
// rule names, one for all, and two for each principal that has a policy.
type parts struct {
	rules *runtimev1.RuleTable
	named map[string]bool

	mu   sync.Mutex
	made map[part]ruletable.Evaluator
}

func newParts(t *runtimev1.RuleTable) *parts {
	p := &parts{rules: proto.CloneOf(t), named: map[string]bool{everyRole: true}, made: map[part]ruletable.Evaluator{}}
	for _, row := range t.GetRules() {
		if row.GetPolicyKind() == policyv1.Kind_KIND_RESOURCE {
			p.named[row.GetRole()] = true
		}
	}
	return p
}

func (p *parts) table(of part) (table ruletable.Evaluator, err error) {
	defer func() {
		if r := recover(); r != nil {
			table, err = nil, fmt.Errorf("authz: a part of the policies: Cerbos panicked: %v", r)
		}
	}()
	if of.principal == "" && !p.named[of.role] {
		of.role = anyRole
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e, ok := p.made[of]; ok {
		return e, nil
	}
	t := proto.CloneOf(p.rules)
	of.leave(t)
	e, err := newEvaluator(t)
	if err != nil {
		return nil, fmt.Errorf("authz: a part of the policies: %w", err)
	}
	p.made[of] = e
	return e, nil
}

// leave takes the other rules away: they are for nobody, but still say that
// there is a policy. A rule for every role becomes the one role's, so that it
// counts once and not for each role of a principal. What a principal's policy
// denies is looked for as what it allows is.
func (of part) leave(t *runtimev1.RuleTable) {
	for _, row := range t.GetRules() {
		about := bearingOf(row)
		switch {
		case of.principal != "":
			if about.principal != of.principal || row.GetEffect() != of.effect || about.scope != "" || about.allow && !about.final {
				row.Role = ""
				continue
			}
			row.Role, row.Principal, row.PolicyKind, row.Effect = anyRole, "", policyv1.Kind_KIND_RESOURCE, effectv1.Effect_EFFECT_ALLOW
			row.ScopePermissions = policyv1.ScopePermissions_SCOPE_PERMISSIONS_OVERRIDE_PARENT
		case about.principal != "":
			row.Role = ""
		case of.role == everyRole || row.GetRole() == of.role:
		case row.GetRole() == anyRole:
			row.Role = of.role
		default:
			row.Role = ""
		}
	}
}

// condition gives what a filter selects as an operand: a constant where it is all or nothing.
func condition(f *enginev1.PlanResourcesFilter) (*operand, error) {
	switch kind := f.GetKind(); {
	case kind == enginev1.PlanResourcesFilter_KIND_ALWAYS_ALLOWED:
		return constant(true), nil
	case kind == enginev1.PlanResourcesFilter_KIND_ALWAYS_DENIED:
		return constant(false), nil
	case kind == enginev1.PlanResourcesFilter_KIND_CONDITIONAL && f.GetCondition() != nil:
		return f.GetCondition(), nil
	}
	return nil, fmt.Errorf("authz: a query plan of kind %v", f.GetKind())
}

// filterOf is the filter that a condition makes.
func filterOf(op *operand) *enginev1.PlanResourcesFilter {
	op = simplify(op, nil, true, 0)
	all, ok := truthOf(op)
	switch {
	case ok && all:
		return &enginev1.PlanResourcesFilter{Kind: enginev1.PlanResourcesFilter_KIND_ALWAYS_ALLOWED}
	case ok:
		return &enginev1.PlanResourcesFilter{Kind: enginev1.PlanResourcesFilter_KIND_ALWAYS_DENIED}
	}
	return &enginev1.PlanResourcesFilter{Kind: enginev1.PlanResourcesFilter_KIND_CONDITIONAL, Condition: op}
}
