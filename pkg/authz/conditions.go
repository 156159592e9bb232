package authz

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	effectv1 "github.com/cerbos/cerbos/api/genpb/cerbos/effect/v1"
	enginev1 "github.com/cerbos/cerbos/api/genpb/cerbos/engine/v1"
	runtimev1 "github.com/cerbos/cerbos/api/genpb/cerbos/runtime/v1"
	"github.com/cerbos/cerbos/private/ruletable"
	"github.com/cerbos/cerbos/private/ruletable/compile"
	exprpb "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
)

// A condition on a request's address and time of day is another question each
// second, but mostly has one answer all day. One that looks at nothing but the
// principal is answered first, by itself, and a key holds what it says instead of
// what it reads: true, false, or neither where it cannot be evaluated.

// conditions are such conditions, as a policy set of their own.
type conditions struct {
	numbers map[string]int // by their source
	table   ruletable.Evaluator
}

// conditionKind is the kind that the conditions' policy is about.
const conditionKind = "condition"

// ofPrincipal reports whether an expression reads the principal, literals and nothing else.
func ofPrincipal(e *exprpb.Expr, own []string) bool {
	all := func(own []string, list ...*exprpb.Expr) bool {
		return !slices.ContainsFunc(list, func(e *exprpb.Expr) bool { return e != nil && !ofPrincipal(e, own) })
	}
	switch k := e.GetExprKind().(type) {
	case *exprpb.Expr_ConstExpr:
		return true
	case *exprpb.Expr_IdentExpr:
		return k.IdentExpr.GetName() == "P" || slices.Contains(own, k.IdentExpr.GetName())
	case *exprpb.Expr_SelectExpr:
		return all(own, k.SelectExpr.GetOperand())
	case *exprpb.Expr_CallExpr:
		return all(own, append(slices.Clone(k.CallExpr.GetArgs()), k.CallExpr.GetTarget())...)
	case *exprpb.Expr_ListExpr:
		return all(own, k.ListExpr.GetElements()...)
	case *exprpb.Expr_ComprehensionExpr:
		c := k.ComprehensionExpr
		inner := append(slices.Clone(own), c.GetIterVar(), c.GetIterVar2(), c.GetAccuVar())
		return all(own, c.GetIterRange(), c.GetAccuInit()) && all(inner, c.GetLoopCondition(), c.GetLoopStep(), c.GetResult())
	}
	return false
}

// number gives a condition its number.
func (c *conditions) number(source string) int {
	if c.numbers == nil {
		c.numbers = map[string]int{}
	}
	if _, ok := c.numbers[source]; !ok {
		c.numbers[source] = len(c.numbers)
	}
	return c.numbers[source]
}

// compile makes the policy: an action for each condition, and one for its negation.
func (c *conditions) compile(ctx context.Context) error {
	if len(c.numbers) == 0 {
		return nil
	}
	var rules []map[string]any
	for source, n := range c.numbers {
		for i, expr := range []string{source, "!(" + source + "\n)"} { // the line break ends a comment
			rules = append(rules, map[string]any{"actions": []string{conditionActions(n)[i]}, "effect": "EFFECT_ALLOW", "roles": []string{anyRole},
				"condition": map[string]any{"match": map[string]any{"expr": expr}}})
		}
	}
	policy, err := json.Marshal(map[string]any{"apiVersion": "api.cerbos.dev/v1",
		"resourcePolicy": map[string]any{"resource": conditionKind, "version": "default", "rules": rules}})
	if err != nil {
		return err
	}
	var archive bytes.Buffer // a file system in memory
	z := zip.NewWriter(&archive)
	f, err := z.Create("conditions.json")
	if err != nil {
		return err
	}
	if _, err = f.Write(policy); err != nil {
		return err
	}
	if err = z.Close(); err != nil {
		return err
	}
	files, err := zip.NewReader(bytes.NewReader(archive.Bytes()), int64(archive.Len()))
	if err != nil {
		return err
	}
	t, err := compile.Compile(ctx, files)
	if err != nil {
		return fmt.Errorf("conditions of their own: %w", explain(err))
	}
	c.table, err = newEvaluator(t)
	return err
}

func conditionActions(n int) []string {
	i := strconv.Itoa(n)
	return []string{"yes" + i, "no" + i}
}

// append writes what conditions say of a principal.
func (c *conditions) append(ctx context.Context, b []byte, numbers []int, who *enginev1.Principal) ([]byte, error) {
	for _, n := range numbers {
		word := byte(keyNull)
		for i, action := range conditionActions(n) {
			out, err := (&snapshot{table: c.table}).check(ctx, []*enginev1.CheckInput{{Principal: who, Resource: conditionResource, Actions: []string{action}}})
			if err != nil {
				return nil, err
			}
			if out[0].GetActions()[action].GetEffect() == effectv1.Effect_EFFECT_ALLOW {
				word = [...]byte{keyTrue, keyFalse}[i]
				break
			}
		}
		b = append(b, word)
	}
	return b, nil
}

var conditionResource = &enginev1.Resource{Kind: conditionKind, Id: "any"}

// condition is what readCondition shows of each expression that it holds.
func (r *reader) condition(e *runtimev1.Expr) {
	tree := e.GetChecked().GetExpr()
	alone := reader{constants: r.constants}
	readCompiled(&alone, e)
	_, err := negated(e)
	if err != nil || !alone.request || alone.clock || alone.principal.all || r.conditions == nil || !ofPrincipal(tree, nil) {
		r.merge(&alone.readSet)
		return
	}
	alone.request = false
	delete(alone.principal.some, "request")
	alone.answered = []int{r.conditions.number(e.GetOriginal())}
	r.merge(&alone.readSet)
}
