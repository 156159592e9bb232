package authz

import (
	"fmt"

	runtimev1 "github.com/cerbos/cerbos/api/genpb/cerbos/runtime/v1"
	"github.com/google/cel-go/common"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/parser"
	exprpb "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
	"google.golang.org/protobuf/proto"
)

// Cerbos' planner takes `x in list` for false where the list is empty. A check
// fails on it if the resource has no x, which is another thing under a negation.
//
// keepOperands rewrites each such `x in list` to `(x in list || x != x)`: where
// x is there this says nothing new, and where it is not both sides fail. In a
// plan `x != x` is what remains of an empty list; elsewhere simplify takes it out.
func keepOperands(t *runtimev1.RuleTable) error {
	done := map[*runtimev1.Expr]bool{} // rules share what they were compiled from
	rewrite := func(where string, e *runtimev1.Expr) error {
		if e == nil || done[e] {
			return nil
		}
		done[e] = true
		source, err := keepOperandsIn(e.GetOriginal())
		if err != nil {
			return fmt.Errorf("%s: %s: %w", where, e.GetOriginal(), err)
		}
		e.Original = source
		return nil
	}
	all := func(where string, c *runtimev1.Condition, variables []*runtimev1.Variable) error {
		for _, v := range variables {
			if err := rewrite(where, v.GetExpr()); err != nil {
				return err
			}
		}
		return eachExpr(c, func(e *runtimev1.Expr) error { return rewrite(where, e) })
	}
	for _, row := range t.GetRules() {
		if err := all(row.GetOriginFqn(), row.GetCondition(), row.GetParams().GetOrderedVariables()); err != nil {
			return err
		}
		if err := all(row.GetOriginFqn(), row.GetDerivedRoleCondition(), row.GetDerivedRoleParams().GetOrderedVariables()); err != nil {
			return err
		}
	}
	for _, policy := range t.GetPolicyDerivedRoles() {
		for name, role := range policy.GetDerivedRoles() {
			if err := all(name, role.GetCondition(), role.GetOrderedVariables()); err != nil {
				return err
			}
		}
	}
	return nil
}

// eachExpr visits the expressions of a condition.
func eachExpr(c *runtimev1.Condition, visit func(*runtimev1.Expr) error) error {
	if e := c.GetExpr(); e != nil {
		return visit(e)
	}
	for _, list := range []*runtimev1.Condition_ExprList{c.GetAll(), c.GetAny(), c.GetNone()} {
		for _, sub := range list.GetExpr() {
			if err := eachExpr(sub, visit); err != nil {
				return err
			}
		}
	}
	return nil
}

// celParser leaves macros as they are written, so that what it reads can be written again.
var celParser = func() *parser.Parser {
	p, err := parser.NewParser(parser.EnableOptionalSyntax(true))
	if err != nil {
		panic(err) // options that are constant
	}
	return p
}()

func parseCEL(source string) (*ast.AST, error) {
	tree, errs := celParser.Parse(common.NewTextSource(source))
	if len(errs.GetErrors()) > 0 {
		return nil, fmt.Errorf("read again: %s", errs.ToDisplayString())
	}
	return tree, nil
}

func keepOperandsIn(source string) (string, error) {
	tree, err := parseCEL(source)
	if err != nil {
		return "", err
	}
	fact, changed := ast.NewExprFactory(), false
	ast.PostOrderVisit(tree.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if twice(e) { // is written !!x, which is read as x
			inner := e.AsCall().Args()[0]
			inner.SetKindCase(fact.NewCall(0, operators.LogicalOr, fact.CopyExpr(inner), fact.NewLiteral(0, types.False)))
			return
		}
		if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != operators.In {
			return
		}
		x := e.AsCall().Args()[0]
		if !mayLack(x) {
			return
		}
		ne := fact.NewCall(0, operators.NotEquals, fact.CopyExpr(x), fact.CopyExpr(x))
		e.SetKindCase(fact.NewCall(0, operators.LogicalOr, fact.CopyExpr(e), ne))
		changed = true
	}))
	if !changed {
		return source, nil
	}
	out, err := parser.Unparse(tree.Expr(), tree.SourceInfo())
	if err != nil {
		return "", err
	}
	again, err := parseCEL(out)
	if err != nil {
		return "", err
	}
	if same, err := sameTree(tree.Expr(), again.Expr()); err != nil || !same {
		return "", fmt.Errorf("cannot be written again (as %s): %v", out, err)
	}
	return out, nil
}

// twice reports whether e is a negation of a negation.
func twice(e ast.Expr) bool {
	return e.Kind() == ast.CallKind && e.AsCall().FunctionName() == operators.LogicalNot && e.AsCall().Args()[0].Kind() == ast.CallKind &&
		e.AsCall().Args()[0].AsCall().FunctionName() == operators.LogicalNot
}

// mayLack reports whether an expression reads more than literals and the
// principal: the planner leaves it in the plan, where a resource may lack it.
func mayLack(e ast.Expr) bool {
	found := false
	ast.PostOrderVisit(e, ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() == ast.IdentKind && e.AsIdent() != "P" {
			found = true
		}
	}))
	return found
}

// sameTree compares what two expressions say, wherever their parentheses are.
func sameTree(a, b ast.Expr) (bool, error) {
	left, err := flat(a)
	if err != nil {
		return false, err
	}
	right, err := flat(b)
	return err == nil && proto.Equal(left, right), err
}

// flat is an expression without its nodes' numbers, with (a || b) || c and
// a || (b || c) made one.
func flat(e ast.Expr) (*exprpb.Expr, error) {
	e = ast.NewExprFactory().CopyExpr(e)
	e.RenumberIDs(func(int64) int64 { return 0 })
	p, err := ast.ExprToProto(e)
	if err == nil {
		flatten(p)
	}
	return p, err
}

func flatten(e *exprpb.Expr) {
	switch k := e.GetExprKind().(type) {
	case *exprpb.Expr_SelectExpr:
		flatten(k.SelectExpr.GetOperand())
	case *exprpb.Expr_CallExpr:
		if k.CallExpr.GetTarget() != nil {
			flatten(k.CallExpr.GetTarget())
		}
		name := k.CallExpr.GetFunction()
		var args []*exprpb.Expr
		for _, arg := range k.CallExpr.GetArgs() {
			flatten(arg)
			if (name == operators.LogicalOr || name == operators.LogicalAnd) && arg.GetCallExpr().GetFunction() == name {
				args = append(args, arg.GetCallExpr().GetArgs()...)
				continue
			}
			args = append(args, arg)
		}
		k.CallExpr.Args = args
	case *exprpb.Expr_ListExpr:
		for _, x := range k.ListExpr.GetElements() {
			flatten(x)
		}
	case *exprpb.Expr_StructExpr:
		for _, x := range k.StructExpr.GetEntries() {
			flatten(x.GetMapKey())
			flatten(x.GetValue())
		}
	}
}
