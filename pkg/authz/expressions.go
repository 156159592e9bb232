package authz

import (
	runtimev1 "github.com/cerbos/cerbos/api/genpb/cerbos/runtime/v1"
	exprpb "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
)

// expressions is who looks at what policies' expressions do.
type expressions interface {
	condition(e *runtimev1.Expr)
	expr(e *exprpb.Expr)
	everything() // an expression may do anything
}

// readRule shows all expressions of a rule.
func readRule(r expressions, row *runtimev1.RuleTable_RuleRow) {
	readCondition(r, row.GetCondition())
	readCondition(r, row.GetDerivedRoleCondition())
	for _, params := range []*runtimev1.RuleTable_RuleRow_Params{row.GetParams(), row.GetDerivedRoleParams()} {
		for _, v := range params.GetOrderedVariables() {
			readCompiled(r, v.GetExpr())
		}
	}
	if when := row.GetEmitOutput().GetWhen(); when != nil {
		readCompiled(r, when.GetRuleActivated())
		readCompiled(r, when.GetConditionNotMet())
	}
}

// actionOf is the name of a rule's action.
func actionOf(row *runtimev1.RuleTable_RuleRow) name {
	if row.GetAllowActions() != nil {
		return nameOf("*") // a role policy's list of actions
	}
	return nameOf(row.GetAction())
}

// readCondition shows a condition's expressions.
func readCondition(r expressions, c *runtimev1.Condition) {
	switch {
	case c == nil:
	case c.GetExpr() != nil:
		r.condition(c.GetExpr())
	default:
		for _, list := range []*runtimev1.Condition_ExprList{c.GetAll(), c.GetAny(), c.GetNone()} {
			for _, sub := range list.GetExpr() {
				readCondition(r, sub)
			}
		}
	}
}

// readCompiled shows an expression, or that it has no syntax tree.
func readCompiled(r expressions, e *runtimev1.Expr) {
	switch {
	case e == nil:
	case e.GetChecked().GetExpr() == nil:
		r.everything()
	default:
		r.expr(e.GetChecked().GetExpr())
	}
}
