package authz

import (
	"slices"
	"strings"

	runtimev1 "github.com/cerbos/cerbos/api/genpb/cerbos/runtime/v1"
	exprpb "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
)

// readSet is what policies see of a question. What they cannot see makes no
// difference to the answer, schemas aside: see attrSchemas.
//
// Roles, the kind, the actions and the scope are always seen. Ids mostly are
// only compared: with each other, with an attribute, with a constant. Then one
// id is like another of which the same comparisons hold.
type readSet struct {
	// clock: the answer depends on when the question is put.
	clock bool
	// request: the attribute P.attr.request is read, which is another each second,
	// and not only by conditions that are answered first: answered are their numbers.
	request  bool
	answered []int
	// principalID and resourceID: P.id and R.id are seen otherwise than compared.
	// resourceIDs: R.id is read at all.
	principalID, resourceID, resourceIDs bool
	principal, resource                  attrReads
	// compared are the attributes of the resource that are compared with P.id
	// (true) or only with constants (false).
	compared map[string]bool
}

// attrReads are the attributes that are read otherwise than by such comparisons.
type attrReads struct {
	all  bool
	some map[string]bool
}

func (a attrReads) has(name string) bool { return a.all || a.some[name] }

func (a *attrReads) add(name string) {
	if a.some == nil {
		a.some = map[string]bool{}
	}
	a.some[name] = true
}

func (a *attrReads) merge(o attrReads) {
	a.all = a.all || o.all
	for name := range o.some {
		a.add(name)
	}
}

func (r *readSet) merge(o *readSet) {
	r.clock = r.clock || o.clock
	r.request = r.request || o.request
	r.answered = slices.Compact(slices.Sorted(slices.Values(slices.Concat(r.answered, o.answered))))
	r.principalID = r.principalID || o.principalID
	r.resourceID = r.resourceID || o.resourceID
	r.resourceIDs = r.resourceIDs || o.resourceIDs
	r.principal.merge(o.principal)
	r.resource.merge(o.resource)
	for name, withID := range o.compared {
		r.compare(name, withID)
	}
}

func (r *readSet) compare(name string, withID bool) {
	if r.compared == nil {
		r.compared = map[string]bool{}
	}
	r.compared[name] = r.compared[name] || withID
}

// readIndex knows what each compiled rule reads.
type readIndex struct {
	rules      []ruleReads
	constants  map[string]bool // all strings in the rules
	principals map[string]bool // who has a policy by name, bare
	schemas    attrSchemas
	conditions conditions
}

type ruleReads struct {
	kind, action name
	reads        readSet
}

// indexReads looks at rules as Cerbos compiled them: rewritten ones have no syntax trees.
func indexReads(t *runtimev1.RuleTable) *readIndex {
	x := &readIndex{constants: map[string]bool{}, principals: map[string]bool{}, schemas: readSchemas(t)}
	for _, row := range t.GetRules() {
		r := reader{constants: x.constants, conditions: &x.conditions}
		readRule(&r, row)
		if id := row.GetPrincipal(); id != "" {
			x.principals[bare(id)] = true
		}
		x.rules = append(x.rules, ruleReads{kindOf(row.GetResource()), actionOf(row), r.readSet})
	}
	// An answer names the derived roles that apply, whichever rules are about the action.
	for policy, roles := range t.GetPolicyDerivedRoles() {
		r := reader{constants: x.constants}
		for _, d := range roles.GetDerivedRoles() {
			readCondition(&r, d.GetCondition())
			for _, v := range d.GetOrderedVariables() {
				readCompiled(&r, v.GetExpr())
			}
		}
		kind := "*"
		if rest, ok := strings.CutPrefix(t.GetMeta()[policy].GetFqn(), "cerbos.resource."); ok {
			if i := strings.Index(rest, ".v"); i > 0 {
				kind = rest[:i]
			}
		}
		x.rules = append(x.rules, ruleReads{kindOf(kind), nameOf("*"), r.readSet})
	}
	return x
}

// of gives what an answer about actions on a kind depends on. It errs on the side of more.
func (x *readIndex) of(kind string, actions ...string) *readSet {
	out := &readSet{}
	for i := range x.rules {
		r := &x.rules[i]
		if !r.kind.covers(kindOf(kind)) {
			continue
		}
		for _, action := range actions {
			if r.action.covers(nameOf(action)) {
				out.merge(&r.reads)
				break
			}
		}
	}
	return out
}

// ordinary reports whether an id equals no constant in the policies and no
// principal has a policy by that name.
func (x *readIndex) ordinary(id string) bool {
	return id != "" && !x.constants[id] && (len(x.principals) == 0 || !x.principals[bare(id)])
}

// bare is what is left of an id by all ways of writing it: Cerbos replaces some characters.
func bare(id string) string {
	b := make([]byte, 0, 64)
	for i := range len(id) {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			b = append(b, c)
		case 'A' <= c && c <= 'Z':
			b = append(b, c+'a'-'A')
		}
	}
	return string(b)
}

// reader collects what expressions read.
type reader struct {
	readSet
	constants  map[string]bool
	conditions *conditions // nil where none is to be answered first
}

// everything is for an expression that may do anything: there is no telling when its answer holds.
func (r *reader) everything() { r.clock = true }

func (r *reader) expr(e *exprpb.Expr) {
	switch k := e.GetExprKind().(type) {
	case *exprpb.Expr_ConstExpr:
		if s, ok := k.ConstExpr.GetConstantKind().(*exprpb.Constant_StringValue); ok {
			r.constants[s.StringValue] = true
		}
	case *exprpb.Expr_IdentExpr:
		r.whole(k.IdentExpr.GetName())
	case *exprpb.Expr_SelectExpr:
		r.selection(e, k.SelectExpr)
	case *exprpb.Expr_CallExpr:
		r.call(k.CallExpr)
	case *exprpb.Expr_ListExpr:
		for _, x := range k.ListExpr.GetElements() {
			r.expr(x)
		}
	case *exprpb.Expr_StructExpr:
		for _, x := range k.StructExpr.GetEntries() {
			r.expr(x.GetMapKey())
			r.expr(x.GetValue())
		}
	case *exprpb.Expr_ComprehensionExpr:
		c := k.ComprehensionExpr
		for _, v := range []string{c.GetIterVar(), c.GetIterVar2(), c.GetAccuVar()} {
			if v == "P" || v == "R" || v == "request" { // which would be taken for the other below
				r.everything()
			}
		}
		for _, x := range []*exprpb.Expr{c.GetIterRange(), c.GetAccuInit(), c.GetLoopCondition(), c.GetLoopStep(), c.GetResult()} {
			r.expr(x)
		}
	case nil: // an optional part that is absent
	default:
		r.everything()
	}
}

func (r *reader) call(c *exprpb.Expr_Call) {
	f, args := c.GetFunction(), c.GetArgs()
	if f == "now" || f == "timeSince" {
		r.clock = true
	}
	if (f == "_==_" || f == "_!=_") && len(args) == 2 && (r.compares(args[0], args[1]) || r.compares(args[1], args[0])) {
		return
	}
	r.expr(c.GetTarget())
	for _, a := range args {
		r.expr(a)
	}
}

// compares reports whether a is P.id or a constant string and b an id, an
// attribute of the resource or another such constant, and takes note of it.
func (r *reader) compares(a, b *exprpb.Expr) bool {
	principal := idOf(a, "P")
	if !principal && !constantText(a) {
		return false
	}
	switch root, path := selected(b); {
	case constantText(b) || idOf(b, "P"):
	case idOf(b, "R"):
		r.resourceIDs = true
	case root == "R.attr" && len(path) == 1 && !b.GetSelectExpr().GetTestOnly():
		r.compare(path[0], principal)
	default:
		return false
	}
	for _, x := range []*exprpb.Expr{a, b} {
		if x.GetConstExpr() != nil {
			r.expr(x)
		}
	}
	return true
}

// idOf reports whether an expression is P.id or R.id.
func idOf(e *exprpb.Expr, who string) bool {
	root, path := selected(e)
	return root == who && len(path) == 1 && path[0] == "id" && !e.GetSelectExpr().GetTestOnly()
}

func constantText(e *exprpb.Expr) bool {
	_, ok := e.GetConstExpr().GetConstantKind().(*exprpb.Constant_StringValue)
	return ok
}

// whole is for a name that stands alone: all below it is read.
func (r *reader) whole(name string) {
	switch name {
	case "R":
		r.resourceID, r.resourceIDs, r.resource.all = true, true, true
	case "P":
		r.principalID, r.principal.all, r.request = true, true, true
	case "request":
		r.whole("R")
		r.whole("P")
	} // runtime follows from what derived roles read, which always counts
}

func (r *reader) selection(e *exprpb.Expr, s *exprpb.Expr_Select) {
	switch root, path := selected(e); root {
	case "R.attr":
		if s.GetTestOnly() && len(path) == 1 {
			r.compare(path[0], false) // that it is there
			return
		}
		r.resource.add(path[0])
	case "P.attr":
		r.request = r.request || path[0] == "request"
		r.principal.add(path[0])
	case "R":
		switch path[0] {
		case "id":
			r.resourceID, r.resourceIDs = true, true
		case "attr":
			r.resource.all = true
		}
	case "P":
		switch path[0] {
		case "id":
			r.principalID = true
		case "attr":
			r.principal.all, r.request = true, true
		}
	case "request":
		switch path[0] {
		case "resource":
			r.whole("R")
		case "principal":
			r.whole("P")
		}
	default:
		r.expr(s.GetOperand())
	}
}
