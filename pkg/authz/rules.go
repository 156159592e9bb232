package authz

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	effectv1 "github.com/cerbos/cerbos/api/genpb/cerbos/effect/v1"
	enginev1 "github.com/cerbos/cerbos/api/genpb/cerbos/engine/v1"
	policyv1 "github.com/cerbos/cerbos/api/genpb/cerbos/policy/v1"
	runtimev1 "github.com/cerbos/cerbos/api/genpb/cerbos/runtime/v1"
	exprpb "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/writ-project/writ/pkg/fault"
)

// A ruleIndex knows of each compiled rule what Cerbos' query plans leave out,
// without which a plan may be wider or narrower than the checks that it stands
// for:
//
//   - which resource attributes a rule tests with has(). The planner puts true
//     in its place, whatever the row holds.
//   - which lists stand on the right of "in". The planner takes
//     `R.attr.x in P.attr.y` for equality where y is no list, while a check
//     fails on it.
//   - which roles a deny rule is for: see oneByOne.
type ruleIndex []ruleFacts

type ruleFacts struct {
	resource, action name
	bearing
	facts
}

// name is a resource's or an action's name, or a pattern of names.
type name struct {
	text    string
	pattern bool
}

// plain is a name that Cerbos neither rewrites nor takes for a pattern.
var plain = regexp.MustCompile(`^[A-Za-z0-9_:]+$`)

func nameOf(text string) name { return name{text, !plain.MatchString(text)} }

// plainKind is the same of a kind, in which Cerbos rewrites more.
var plainKind = regexp.MustCompile(`^[A-Za-z0-9_]+$`)

func kindOf(text string) name { return name{text, !plainKind.MatchString(text)} }

// covers errs on the side of true: a pattern covers everything.
func (n name) covers(want name) bool { return n.pattern || want.pattern || n.text == want.text }

// bearing is what a rule does, and for whom.
type bearing struct {
	role, scope string
	deny, allow bool
	final       bool   // an allow in its scope is not undone by a parent scope
	principal   string // whom a principal policy is for: it knows no roles
	rolePolicy  bool
}

func bearingOf(row *runtimev1.RuleTable_RuleRow) bearing {
	return bearing{
		role: row.GetRole(), scope: row.GetScope(),
		deny:       row.GetEffect() == effectv1.Effect_EFFECT_DENY,
		allow:      row.GetEffect() == effectv1.Effect_EFFECT_ALLOW,
		final:      row.GetScopePermissions() != policyv1.ScopePermissions_SCOPE_PERMISSIONS_REQUIRE_PARENTAL_CONSENT_FOR_ALLOWS,
		principal:  row.GetPrincipal(),
		rolePolicy: row.GetAllowActions() != nil || row.GetFromRolePolicy(),
	}
}

// facts are collected from a rule's conditions and the variables that they may use.
type facts struct {
	has    []string   // R.attr.x in has(); "" is a has() on something else
	lists  [][]string // P.attr.path that are used as lists
	opaque bool       // an "in" whose right side cannot be told to be a list
}

func indexRules(t *runtimev1.RuleTable) ruleIndex {
	index := make(ruleIndex, 0, len(t.GetRules()))
	for _, row := range t.GetRules() {
		r := ruleFacts{resource: kindOf(row.GetResource()), action: nameOf(row.GetAction()), bearing: bearingOf(row)}
		if row.GetAllowActions() != nil {
			r.action = nameOf("*") // a role policy's list of actions
		}
		w := walker{facts: &r.facts}
		w.condition(row.GetCondition(), row.GetParams())
		w.condition(row.GetDerivedRoleCondition(), row.GetDerivedRoleParams())
		if w.runtime { // reads effectiveDerivedRoles: the conditions of all of them count
			for _, p := range t.GetPolicyDerivedRoles() {
				for _, d := range p.GetDerivedRoles() {
					w.condition(d.GetCondition(), &runtimev1.RuleTable_RuleRow_Params{
						OrderedVariables: d.GetOrderedVariables(), Constants: d.GetConstants()})
				}
			}
		}
		index = append(index, r)
	}
	return index
}

func (x ruleIndex) about(kind, action string) func(yield func(ruleFacts) bool) {
	ofKind, ofAction := kindOf(kind), nameOf(action)
	return func(yield func(ruleFacts) bool) {
		for _, r := range x {
			if r.resource.covers(ofKind) && r.action.covers(ofAction) && !yield(r) {
				return
			}
		}
	}
}

// guards tells what a plan for the action must respect: attributes that has()
// tests, and whether the plan can be trusted at all.
func (x ruleIndex) guards(kind, action string, principal *enginev1.Principal) (has []string, err error) {
	for r := range x.about(kind, action) {
		has = append(has, r.has...)
		if r.opaque {
			return nil, noPlan(kind, action, "an `in` whose right side may be no list, which Cerbos' planner takes for equality")
		}
		for _, path := range r.lists {
			if v := lookup(principal.GetAttr(), path); v != nil && v.GetListValue() == nil {
				return nil, noPlan(kind, action, "principal attribute "+strings.Join(path, ".")+" is used as a list and is none")
			}
		}
	}
	slices.Sort(has)
	return slices.Compact(has), nil
}

// noPlan is the error of a plan that would not say what checks say.
func noPlan(kind, action, why string) error {
	return &fault.Error{Kind: fault.Misconfigured, Code: PolicyNotSQL, Err: fmt.Errorf("authz: no plan for %s %s: %s", kind, action, why),
		Message: fmt.Sprintf("there is no query plan for %s of %s: an operator has to change the policy (writ policy lint says why)", action, kind)}
}

func lookup(attr map[string]*structpb.Value, path []string) *structpb.Value {
	v := attr[path[0]]
	for _, name := range path[1:] {
		v = v.GetStructValue().GetFields()[name]
	}
	return v
}

// walker collects facts from compiled CEL.
type walker struct {
	*facts
	params  *runtimev1.RuleTable_RuleRow_Params
	runtime bool
}

func (w *walker) condition(c *runtimev1.Condition, params *runtimev1.RuleTable_RuleRow_Params) {
	if c == nil {
		return
	}
	w.params = params
	for _, v := range params.GetOrderedVariables() {
		w.expr(v.GetExpr().GetChecked().GetExpr())
	}
	w.match(c)
}

func (w *walker) match(c *runtimev1.Condition) {
	if e := c.GetExpr(); e != nil {
		w.expr(e.GetChecked().GetExpr())
	}
	for _, list := range []*runtimev1.Condition_ExprList{c.GetAll(), c.GetAny(), c.GetNone()} {
		for _, sub := range list.GetExpr() {
			w.match(sub)
		}
	}
}

func (w *walker) expr(e *exprpb.Expr) {
	switch k := e.GetExprKind().(type) {
	case *exprpb.Expr_IdentExpr:
		w.runtime = w.runtime || k.IdentExpr.GetName() == "runtime"
	case *exprpb.Expr_SelectExpr:
		root, path := selected(e)
		switch {
		case root == "R.attr" && len(path) == 1 && k.SelectExpr.GetTestOnly():
			w.has = append(w.has, path[0])
		case k.SelectExpr.GetTestOnly() && root != "P" && root != "P.attr":
			w.has = append(w.has, "")
		}
		w.expr(k.SelectExpr.GetOperand())
	case *exprpb.Expr_CallExpr:
		if args := k.CallExpr.GetArgs(); k.CallExpr.GetFunction() == "@in" && len(args) == 2 {
			w.list(args[1])
		}
		w.expr(k.CallExpr.GetTarget())
		for _, a := range k.CallExpr.GetArgs() {
			w.expr(a)
		}
	case *exprpb.Expr_ListExpr:
		for _, x := range k.ListExpr.GetElements() {
			w.expr(x)
		}
	case *exprpb.Expr_StructExpr:
		for _, x := range k.StructExpr.GetEntries() {
			w.expr(x.GetMapKey())
			w.expr(x.GetValue())
		}
	case *exprpb.Expr_ComprehensionExpr:
		c := k.ComprehensionExpr
		for _, x := range []*exprpb.Expr{c.GetIterRange(), c.GetAccuInit(), c.GetLoopCondition(), c.GetLoopStep(), c.GetResult()} {
			w.expr(x)
		}
	}
}

// list looks at the right side of "in".
func (w *walker) list(e *exprpb.Expr) {
	switch k := e.GetExprKind().(type) {
	case *exprpb.Expr_ListExpr, *exprpb.Expr_ComprehensionExpr:
		return
	case *exprpb.Expr_CallExpr:
		// What functions give is checked by CEL, but for these, which hand through what they are given.
		if f := k.CallExpr.GetFunction(); f != "_[_]" && f != "_?_:_" {
			return
		}
	case *exprpb.Expr_SelectExpr:
		root, path := selected(e)
		switch {
		case root == "R.attr", root == "R": // stays in the plan, where Filter looks at it
			return
		case root == "P" && len(path) == 1 && path[0] == "roles":
			return
		case root == "P.attr":
			w.lists = append(w.lists, path)
			return
		case (root == "C" || root == "constants") && len(path) == 1 && w.params.GetConstants()[path[0]].GetListValue() != nil:
			return
		case (root == "V" || root == "variables") && len(path) == 1:
			for _, v := range w.params.GetOrderedVariables() {
				if v.GetName() == path[0] {
					w.list(v.GetExpr().GetChecked().GetExpr())
					return
				}
			}
		}
	}
	w.opaque = true
}

// selected reads a chain of selections: request.resource.attr.a.b is R.attr, [a b].
func selected(e *exprpb.Expr) (root string, path []string) {
	for {
		if s := e.GetSelectExpr(); s != nil {
			path = append(path, s.GetField())
			e = s.GetOperand()
			continue
		}
		break
	}
	slices.Reverse(path)
	root = e.GetIdentExpr().GetName()
	if root == "request" && len(path) > 1 {
		switch path[0] {
		case "resource":
			root, path = "R", path[1:]
		case "principal":
			root, path = "P", path[1:]
		}
	}
	if (root == "R" || root == "P") && len(path) > 1 && path[0] == "attr" {
		root, path = root+".attr", path[1:]
	}
	return root, path
}
