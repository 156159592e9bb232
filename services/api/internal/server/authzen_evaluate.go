package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/problem"
)

// What options.evaluations_semantic may be.
const (
	executeAll          = "execute_all"
	denyOnFirstDeny     = "deny_on_first_deny"
	permitOnFirstPermit = "permit_on_first_permit"
)

func (s *Server) evaluation(ctx context.Context, in *authzenInput) (*bodyOutput[AuthzenDecision], error) {
	m, err := readMembers(in.RawBody)
	if err != nil {
		return nil, err
	}
	one, err := s.evaluateOne(ctx, m)
	if err != nil {
		return nil, err
	}
	return &bodyOutput[AuthzenDecision]{*one}, nil
}

func (s *Server) evaluateOne(ctx context.Context, m members) (*AuthzenDecision, error) {
	e, err := m.evaluation("body")
	if err != nil {
		return nil, err
	}
	out, err := s.evaluate(ctx, []asked{{evaluation: e}}, executeAll)
	if err != nil {
		return nil, err
	}
	if out[0].fault != nil {
		return nil, out[0].fault
	}
	return &out[0].answer, nil
}

func (s *Server) evaluations(ctx context.Context, in *authzenInput) (*bodyOutput[AuthzenDecisions], error) {
	m, err := readMembers(in.RawBody)
	if err != nil {
		return nil, err
	}
	semantic, err := m.semantic()
	if err != nil {
		return nil, err
	}
	list, ok := m["evaluations"].([]any)
	if m["evaluations"] != nil && !ok {
		return nil, badMember("body.evaluations", "want a list")
	}
	if len(list) == 0 {
		one, err := s.evaluateOne(ctx, m)
		if err != nil {
			return nil, err
		}
		return &bodyOutput[AuthzenDecisions]{AuthzenDecisions{Decision: &one.Decision, Context: one.Context}}, nil
	}
	if len(list) > maxEvaluations {
		return nil, badMember("body.evaluations", "at most %d", maxEvaluations)
	}
	all := make([]asked, len(list))
	for i, v := range list {
		if all[i], err = m.asked(i, v); err != nil {
			return nil, err
		}
	}
	done, err := s.evaluate(ctx, all, semantic)
	if err != nil {
		return nil, err
	}
	out := &bodyOutput[AuthzenDecisions]{}
	for _, a := range done {
		out.Body.Evaluations = append(out.Body.Evaluations, a.told())
	}
	return out, nil
}

func (m members) semantic() (string, error) {
	options, err := m.object("body", "options")
	if err != nil {
		return "", err
	}
	switch v := options["evaluations_semantic"]; v {
	case nil:
		return executeAll, nil
	case executeAll, denyOnFirstDeny, permitOnFirstPermit:
		return v.(string), nil
	}
	return "", badMember("body.options.evaluations_semantic", "want %s, %s or %s", executeAll, denyOnFirstDeny, permitOnFirstPermit)
}

// asked is one evaluation and what becomes of it.
type asked struct {
	evaluation
	// fault is what is wrong with this one; the others are not touched by it.
	fault  *fault.Error
	answer AuthzenDecision
}

// asked completes an evaluation with the members that stand beside the list.
// The error is about those.
func (m members) asked(i int, v any) (asked, error) {
	own, ok := v.(members)
	if !ok {
		return asked{fault: badMember(fmt.Sprintf("body.evaluations[%d]", i), "want an object")}, nil
	}
	full := members{}
	for _, name := range []string{"subject", "action", "resource", "context"} {
		if _, err := m.object("body", name); err != nil {
			return asked{}, err
		}
		if full[name] = own[name]; full[name] == nil {
			full[name] = m[name]
		}
	}
	e, err := full.evaluation(fmt.Sprintf("body.evaluations[%d]", i))
	a := asked{evaluation: e}
	if err != nil && !errors.As(err, &a.fault) {
		return asked{}, err
	}
	return a, nil
}

// told is the answer to one of several.
func (a *asked) told() AuthzenDecision {
	if a.fault == nil {
		return a.answer
	}
	return AuthzenDecision{Context: &AuthzenContext{Error: &AuthzenError{Status: http.StatusBadRequest, Message: problem.Sentence(a.fault.Message)}}}
}

// evaluate decides evaluations, records what was decided and gives those that
// were come to. All of one subject take one call to Cerbos; where the first
// denial or permit ends it, they are asked one after another.
func (s *Server) evaluate(ctx context.Context, all []asked, semantic string) ([]asked, error) {
	q := s.inquiry(ctx)
	people, err := q.who(ctx, all)
	if err != nil {
		return nil, err
	}
	rows, err := q.what(ctx, people)
	if err != nil {
		return nil, err
	}
	if semantic == executeAll {
		for len(people) > 0 {
			var same []*asked
			var left []personAsked
			for _, pa := range people {
				if pa.person == people[0].person {
					same = append(same, pa.asked)
				} else {
					left = append(left, pa)
				}
			}
			if err := q.settle(ctx, people[0].person, same, rows); err != nil {
				return nil, err
			}
			people = left
		}
		return all, q.recordAll(ctx, q.decisions)
	}
	done := 0
	for i := range all {
		a := &all[i]
		if a.fault == nil {
			if err := q.settle(ctx, people[0].person, []*asked{a}, rows); err != nil {
				return nil, err
			}
			people = people[1:]
		}
		done++
		if a.answer.Decision == (semantic == permitOnFirstPermit) {
			break
		}
	}
	return all[:done], q.recordAll(ctx, q.decisions)
}

// personAsked is an evaluation with its subject.
type personAsked struct {
	*asked
	person *person
}

// who finds the subjects of the evaluations that can be read.
func (q *inquiry) who(ctx context.Context, all []asked) ([]personAsked, error) {
	var entities []entity
	var out []personAsked
	for i := range all {
		if all[i].fault == nil {
			entities, out = append(entities, all[i].subject), append(out, personAsked{asked: &all[i]})
		}
	}
	people, err := q.subjects(ctx, entities)
	for i := range people {
		out[i].person = people[i]
	}
	return out, err
}

// what reads the resources that the evaluations are about, by kind and id:
// where somebody is to be decided about, and only then.
func (q *inquiry) what(ctx context.Context, all []personAsked) (map[string]map[string]kind.Row, error) {
	ids := map[string][]string{}
	for _, a := range all {
		if a.person.unknown == "" {
			ids[a.resource.typ] = append(ids[a.resource.typ], a.resource.id)
		}
	}
	out := map[string]map[string]kind.Row{}
	for _, def := range q.Kinds {
		if len(ids[def.Name]) == 0 {
			continue
		}
		rows, err := q.rows(ctx, def, ids[def.Name])
		if err != nil {
			return nil, err
		}
		out[def.Name] = rows
	}
	return out, nil
}

// settle decides evaluations of one subject in one call.
func (q *inquiry) settle(ctx context.Context, p *person, all []*asked, rows map[string]map[string]kind.Row) error {
	var items []authz.Item
	var put []*asked
	for _, a := range all {
		def, d, err := q.vocabulary(ctx, &p.Caller, a.resource, a.action.name)
		if err != nil {
			return err
		}
		if d == nil && p.unknown != "" {
			if d, err = q.refuse(ctx, &p.Caller, events.Resource{Kind: def.Name, ID: a.resource.id}, a.action.name, p.unknown); err != nil {
				return err
			}
		}
		if d != nil {
			a.answer = AuthzenDecision{Context: contextOf(d)}
			continue
		}
		item, err := q.item(ctx, p, def, a, rows)
		if fault.Is(err, fault.Malformed) {
			errors.As(err, &a.fault)
			continue
		}
		if err != nil {
			return err
		}
		if item != nil {
			items, put = append(items, *item), append(put, a)
		}
	}
	if len(items) == 0 {
		return nil
	}
	decisions, answers, err := q.check(ctx, &p.Caller, items)
	if err != nil {
		return err
	}
	for i, d := range decisions {
		c := contextOf(d)
		if d.Effect != events.Allow && !q.mayKnow(p, d, answers[i]) {
			c.Reason = untold
		}
		put[i].answer = AuthzenDecision{Decision: d.Effect == events.Allow, Context: c}
	}
	return nil
}

// item makes the question to the policy. There is none, and a denial for an
// answer, about a resource that does not exist when the caller may not know
// that it does not: what they say it is would be believed of this one only.
func (q *inquiry) item(ctx context.Context, p *person, def *kind.Definition, a *asked, rows map[string]map[string]kind.Row) (*authz.Item, error) {
	given, err := a.resource.propertiesOf(def)
	if err != nil {
		return nil, err
	}
	var row *kind.Row
	if r, ok := rows[def.Name][a.resource.id]; ok {
		row = &r
	}
	create := a.action.name == kind.ActionCreate
	if row == nil && !q.others && !create {
		d, err := q.refuse(ctx, &p.Caller, events.Resource{Kind: def.Name, ID: a.resource.id}, a.action.name, untold)
		if err != nil {
			return nil, err
		}
		a.answer = AuthzenDecision{Context: contextOf(d)}
		return nil, nil
	}
	res, err := q.resource(ctx, p, def, row, a, given)
	if err != nil {
		return nil, err
	}
	actions := []string{a.action.name}
	// Not with create: a policy may leave the schema aside for it alone.
	if !q.others && !create && a.action.name != kind.ActionRead {
		actions = append(actions, kind.ActionRead)
	}
	return &authz.Item{Resource: res, Actions: actions}, nil
}

// mayKnow says whether the caller may be told why something is denied: they may
// ask about anybody, or may read the resource, or it is one that they made up.
func (q *inquiry) mayKnow(p *person, d *events.Decision, answer authz.Answer) bool {
	return q.others || d.Action == kind.ActionCreate || p.ID == q.caller.ID && answer.For(kind.ActionRead).Effect == events.Allow
}
