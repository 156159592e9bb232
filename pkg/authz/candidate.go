package authz

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	effectv1 "github.com/cerbos/cerbos/api/genpb/cerbos/effect/v1"
	enginev1 "github.com/cerbos/cerbos/api/genpb/cerbos/engine/v1"
	runtimev1 "github.com/cerbos/cerbos/api/genpb/cerbos/runtime/v1"
	"github.com/cerbos/cerbos/private/ruletable"
	"github.com/cerbos/cerbos/private/ruletable/compile"
	epdpv2 "github.com/cerbos/cloud-api/genpb/cerbos/cloud/epdp/v2"
)

// Candidate is a folder of policies that is tried and not in force. It answers
// as an Engine on that folder does, says which rules decided, and is not
// watched: what was compiled when it was opened is what answers.
type Candidate struct {
	engine    *Engine
	explainer ruletable.Evaluator
	explained *memo[[]string]
}

// OpenCandidate compiles the policies in dir.
func OpenCandidate(ctx context.Context, dir string) (*Candidate, error) {
	s, err := compileDir(ctx, dir)
	if err != nil {
		return nil, err
	}
	c := &Candidate{engine: &Engine{dir: dir, stop: func() {}}, explained: newMemo[[]string](memoChecks, memoCheckBytes)}
	c.engine.current.Store(s)
	if err := c.explaining(ctx, dir); err != nil {
		return nil, err
	}
	if after, err := Revision(dir); err != nil || after != s.revision {
		return nil, fmt.Errorf("the policies in %s changed while they were compiled", dir)
	}
	return c, nil
}

// Revision identifies the candidate's files.
func (c *Candidate) Revision() string { return c.engine.Revision() }

// Check is Authorizer.Check.
func (c *Candidate) Check(ctx context.Context, req Request) (Answer, error) {
	return c.engine.Check(ctx, req)
}

// Plan is Authorizer.Plan.
func (c *Candidate) Plan(ctx context.Context, req PlanRequest) (Plan, error) {
	return c.engine.Plan(ctx, req)
}

// explaining compiles the folder once more, with rules that say when they apply.
func (c *Candidate) explaining(ctx context.Context, dir string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("compile policies in %s: Cerbos panicked: %v", dir, r)
		}
	}()
	table, err := compile.Compile(ctx, os.DirFS(dir))
	if err != nil {
		return fmt.Errorf("compile policies in %s: %w", dir, explain(err))
	}
	if err := failClosed(table); err != nil {
		return fmt.Errorf("compile policies in %s: %w", dir, err)
	}
	for _, row := range table.GetRules() {
		word := ruleAllows
		if row.GetEffect() == effectv1.Effect_EFFECT_DENY {
			word = ruleDenies
		}
		row.EmitOutput = &runtimev1.Output{When: &runtimev1.Output_When{RuleActivated: &runtimev1.Expr{Original: `"` + word + `"`}}}
	}
	c.explainer, err = ruletable.NewRuleTableFromProto(table, &epdpv2.Config{
		Schema:    &epdpv2.Config_Schema{Enforcement: epdpv2.Config_Schema_ENFORCEMENT_REJECT},
		Evaluator: &epdpv2.Config_Evaluator{LenientScopeSearch: true},
	})
	return err
}

// What a rule of the explaining table puts out when it applies.
const (
	ruleAllows = "allow"
	ruleDenies = "deny"
)

// Explain names the rules that decide about an action, sorted: those that deny
// it if any does, else those that allow it, of the first of the principal's
// roles that is enough; none when no rule allows it. A name is the policy's, #,
// and the rule's: resource.contact.vdefault#owner-changes.
func (c *Candidate) Explain(ctx context.Context, req Request, action string) ([]string, error) {
	asked, err := c.engine.begin(ctx, req.Principal, req.Tenant, req.Scope)
	if err != nil {
		return nil, err
	}
	defer asked.end()
	item := Item{Resource: req.Resource, Actions: []string{action}}
	if _, err := item.valid(req.Tenant); err != nil {
		return nil, err
	}
	known, err := asked.keyOf(ctx, &item.Resource, item.Actions)
	if err != nil {
		return nil, err
	}
	if known {
		if rules, ok := c.explained.get(asked.key); ok {
			return slices.Clone(rules), nil
		}
	}
	rules, err := c.explain(ctx, req, action)
	if err == nil && known {
		n := 0
		for _, name := range rules {
			n += 16 + len(name)
		}
		c.explained.put(asked.key, slices.Clone(rules), n)
	}
	return rules, err
}

func (c *Candidate) explain(ctx context.Context, req Request, action string) (rules []string, err error) {
	q, err := Batch{Principal: req.Principal, Tenant: req.Tenant, Scope: req.Scope,
		Items: []Item{{Resource: req.Resource, Actions: []string{action}}}}.question()
	if err != nil {
		return nil, err
	}
	out, err := (&snapshot{table: c.explainer}).check(ctx, []*enginev1.CheckInput{{Principal: q.principal, Resource: q.resources[0], Actions: q.actions[0]}})
	if err != nil {
		return nil, err
	}
	if len(out) != 1 {
		return nil, fmt.Errorf("authz: Cerbos gave %d results for a resource", len(out))
	}
	var allow, deny []string
	for _, o := range out[0].GetOutputs() {
		switch name := strings.TrimPrefix(o.GetSrc(), "cerbos."); o.GetVal().GetStringValue() {
		case ruleAllows:
			allow = append(allow, name)
		case ruleDenies:
			deny = append(deny, name)
		}
	}
	if have := out[0].GetActions()[action]; len(deny) == 0 && have.GetEffect() == effectv1.Effect_EFFECT_ALLOW {
		deny = allow
	}
	slices.Sort(deny)
	return slices.Compact(deny), nil
}

// ReadsClock reports whether an answer about an action on a kind depends on when
// the question is put. It errs on the side of true.
func (c *Candidate) ReadsClock(kind, action string) bool {
	return c.engine.current.Load().reads.of(kind, action).clock
}

// Evaluated is how many questions were evaluated, checks and plans; the others
// were answered from memory.
func (c *Candidate) Evaluated() int { return int(c.engine.current.Load().evaluated.Load()) }

// Attr are the attributes that the plan was made for, for the decision's record:
// see PlanRequest. They must not be changed.
func (p Plan) Attr() map[string]any { return p.known }
