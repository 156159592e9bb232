package authz

import (
	"fmt"

	effectv1 "github.com/cerbos/cerbos/api/genpb/cerbos/effect/v1"
	runtimev1 "github.com/cerbos/cerbos/api/genpb/cerbos/runtime/v1"
	exprpb "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
)

// Cerbos takes an expression that cannot be evaluated (an attribute is missing,
// a type is wrong) for false. In an allow rule that is safe. In a deny rule it
// is not: the rule is skipped, and what it should have denied may be allowed.
// Nor under `none`, where false counts for the rule. Cerbos' own remedy,
// engine.strictEvaluation, denies the action whenever any rule about it fails,
// which a query plan cannot follow.
//
// failClosed rewrites the compiled conditions so that an allow rule applies
// only if its condition is certainly true, and a deny rule unless its condition
// is certainly false. Where everything can be evaluated nothing changes. Checks
// and query plans are made from the rewritten rules alike.
func failClosed(t *runtimev1.RuleTable) error {
	for _, row := range t.GetRules() {
		rewrite := certainlyTrue
		if row.GetEffect() == effectv1.Effect_EFFECT_DENY {
			rewrite = notCertainlyFalse
		}
		var err error
		if row.Condition, err = rewrite(row.GetCondition()); err != nil {
			return fmt.Errorf("%s: rule %s: %w", row.GetOriginFqn(), row.GetName(), err)
		}
		if row.DerivedRoleCondition, err = rewrite(row.GetDerivedRoleCondition()); err != nil {
			return fmt.Errorf("%s: derived role %s: %w", row.GetOriginFqn(), row.GetOriginDerivedRole(), err)
		}
	}
	for _, policy := range t.GetPolicyDerivedRoles() { // these are only reported
		for name, role := range policy.GetDerivedRoles() {
			var err error
			if role.Condition, err = certainlyTrue(role.GetCondition()); err != nil {
				return fmt.Errorf("derived role %s: %w", name, err)
			}
		}
	}
	return nil
}

// certainlyTrue is true where the condition is true, and false where it is false or fails.
func certainlyTrue(c *runtimev1.Condition) (*runtimev1.Condition, error) {
	switch {
	case c == nil || c.GetExpr() != nil:
		return c, nil
	case c.GetAll() != nil:
		list, err := each(c.GetAll(), certainlyTrue)
		return &runtimev1.Condition{Op: &runtimev1.Condition_All{All: list}}, err
	case c.GetAny() != nil:
		list, err := each(c.GetAny(), certainlyTrue)
		return &runtimev1.Condition{Op: &runtimev1.Condition_Any{Any: list}}, err
	case c.GetNone() != nil:
		list, err := each(c.GetNone(), certainlyFalse)
		return &runtimev1.Condition{Op: &runtimev1.Condition_All{All: list}}, err
	}
	return nil, fmt.Errorf("a condition of kind %T", c.GetOp())
}

// certainlyFalse is true where the condition is false, and false where it is true or fails.
func certainlyFalse(c *runtimev1.Condition) (*runtimev1.Condition, error) {
	switch {
	case c.GetExpr() != nil:
		return negated(c.GetExpr())
	case c.GetAll() != nil:
		list, err := each(c.GetAll(), certainlyFalse)
		return &runtimev1.Condition{Op: &runtimev1.Condition_Any{Any: list}}, err
	case c.GetAny() != nil:
		list, err := each(c.GetAny(), certainlyFalse)
		return &runtimev1.Condition{Op: &runtimev1.Condition_All{All: list}}, err
	case c.GetNone() != nil:
		list, err := each(c.GetNone(), certainlyTrue)
		return &runtimev1.Condition{Op: &runtimev1.Condition_Any{Any: list}}, err
	}
	return nil, fmt.Errorf("a condition of kind %T", c.GetOp())
}

func notCertainlyFalse(c *runtimev1.Condition) (*runtimev1.Condition, error) {
	if c == nil {
		return nil, nil
	}
	no, err := certainlyFalse(c)
	return &runtimev1.Condition{Op: &runtimev1.Condition_None{None: &runtimev1.Condition_ExprList{Expr: []*runtimev1.Condition{no}}}}, err
}

func each(list *runtimev1.Condition_ExprList, f func(*runtimev1.Condition) (*runtimev1.Condition, error)) (*runtimev1.Condition_ExprList, error) {
	out := &runtimev1.Condition_ExprList{Expr: make([]*runtimev1.Condition, len(list.GetExpr()))}
	for i, c := range list.GetExpr() {
		var err error
		if out.Expr[i], err = f(c); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// negated is the negation of an expression, which fails where the expression
// fails. Cerbos compiles conditions from their source, when they are first used.
func negated(e *runtimev1.Expr) (*runtimev1.Condition, error) {
	switch t := e.GetChecked().GetTypeMap()[e.GetChecked().GetExpr().GetId()]; {
	case t.GetDyn() != nil, t.GetPrimitive() == exprpb.Type_BOOL, t.GetWrapper() == exprpb.Type_BOOL:
	default:
		return nil, fmt.Errorf("the condition %s is not a boolean", e.GetOriginal())
	}
	// The line break ends a comment.
	return &runtimev1.Condition{Op: &runtimev1.Condition_Expr{Expr: &runtimev1.Expr{Original: "!(" + e.GetOriginal() + "\n)"}}}, nil
}
