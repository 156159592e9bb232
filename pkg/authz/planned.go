package authz

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	enginev1 "github.com/cerbos/cerbos/api/genpb/cerbos/engine/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
)

// Bounds on what one policy set remembers of plans, some kilobytes each.
const (
	memoPlans     = 8192
	memoPlanBytes = 16 << 20
)

// planned is a remembered plan. Where the policies only compare the principal's
// id, it is one for every principal of whom the same comparisons hold: it was made
// for a stand-in, which gives way to the id of who asks.
type planned struct {
	plan    Plan     // without what each answer has of its own, and without Raw
	raw     [][]byte // Plan.Raw around the stand-in
	standIn string   // empty where the plan holds for one id

	mu      sync.Mutex
	filters map[filterUse]Filter
}

// filterUse is what a Filter was made for.
type filterUse struct {
	def     *kind.Definition
	dialect string
}

// maxFilters is how many filters of a plan are kept: there is one kind and, in
// one process, one dialect.
const maxFilters = 4

// newStandIn makes an id that nobody has or can know.
func newStandIn() string { return "principal-" + strings.ToLower(rand.Text()) }

// Plan implements Authorizer.
func (e *Engine) Plan(ctx context.Context, req PlanRequest) (Plan, error) {
	who, err := req.valid()
	if err != nil {
		return Plan{}, err
	}
	s, at, callID := e.current.Load(), time.Now(), newCallID()
	plan := func(p Plan, err error) (Plan, error) {
		p.CallID, p.EvaluatedAt, p.Took, p.known = callID, at.UTC(), time.Since(at), req.Attr
		return p, err
	}
	x := s.reads
	b := appendTexts(appendText(make([]byte, 0, 512), req.Kind), []string{req.Action})
	of := s.views.of(x, b, req.Kind, []string{req.Action})
	if !of.remembered() {
		s.evaluated.Add(1)
		return plan(s.makePlan(ctx, req))
	}
	anybody := x.anybody(of, who.id) && s.replaceable(of, req.Attr, who.id)
	key, err := x.appendAsker(appendText(b, req.Scope), of, &who, anybody)
	if err != nil {
		return Plan{}, fmt.Errorf("%w: principal: %w", errRequest, err)
	}
	if key, err = x.appendResourceAttrs(key, of, req.Attr, who.id); err != nil {
		return Plan{}, fmt.Errorf("%w: plan: %w", errRequest, err)
	}
	if len(of.answered) > 0 {
		principal, err := toPrincipal(req.Principal)
		if err == nil {
			key, err = x.conditions.append(ctx, key, of.answered, principal)
		}
		if err != nil {
			return Plan{}, err
		}
	}
	have, ok := s.plans.get(key)
	if !ok {
		if have, err = s.newPlanned(ctx, req, of, anybody); err != nil {
			return Plan{}, err
		}
		if have == nil { // it is this one's alone
			return plan(s.makePlan(ctx, req))
		}
		s.plans.put(key, have, have.bytes())
	}
	return plan(have.as(who.id))
}

// replaceable reports whether a plan for the stand-in is one for an id: where an
// attribute that is compared with it has it, it can be the stand-in's as well.
func (s *snapshot) replaceable(of *readSet, attr map[string]any, id string) bool {
	for name, withID := range of.compared {
		if withID && is(attr[name], id) && (!s.reads.alike(of, name, id) || !s.reads.alike(of, name, s.standIn)) {
			return false
		}
	}
	return true
}

// is reports whether a value is an id, as a key has it.
func is(v any, id string) bool {
	plain, err := plainValue(v)
	return err == nil && plain == id
}

// onlySeen leaves out of a principal's attributes what nobody reads: Cerbos'
// planner writes all of them into a plan where a rule reads one that is missing,
// and a remembered plan would tell others of them.
func (s *snapshot) onlySeen(of *readSet, attr map[string]any) map[string]any {
	out := maps.Clone(attr)
	maps.DeleteFunc(out, func(name string, v any) bool {
		plain, err := plainValue(v)
		if name == user.AttrRequest && len(of.answered) > 0 {
			return false
		}
		return err == nil && s.reads.unseen(of, name, plain)
	})
	return out
}

// tells reports whether a plan may hold the address and time of the request that
// it was made for, beside other attributes of the principal.
func (r *readSet) tells(raw []byte) bool {
	return len(r.answered) > 0 && bytes.Contains(raw, []byte(`"struct"`))
}

// newPlanned makes a plan to be remembered; nil of one that cannot be another's.
func (s *snapshot) newPlanned(ctx context.Context, req PlanRequest, of *readSet, anybody bool) (*planned, error) {
	s.evaluated.Add(1)
	req.Principal.Attr = s.onlySeen(of, req.Principal.Attr)
	if !anybody {
		p, err := s.makePlan(ctx, req)
		if err != nil {
			return nil, err
		}
		if of.tells(p.Raw) {
			return nil, nil
		}
		out := &planned{raw: [][]byte{p.Raw}}
		p.Raw, out.plan = nil, p
		return out, nil
	}
	id := req.Principal.ID
	req.Principal.ID = s.standIn
	attr := req.Attr
	for name, withID := range of.compared {
		if withID && is(attr[name], id) {
			req.Attr = maps.Clone(req.Attr)
			req.Attr[name] = s.standIn
		}
	}
	p, err := s.makePlan(ctx, req)
	if err != nil {
		return nil, err
	}
	out := &planned{raw: bytes.Split(p.Raw, []byte(`"`+s.standIn+`"`)), standIn: s.standIn}
	if of.tells(p.Raw) || strings.Contains(p.Policy.Reason, s.standIn) || slices.ContainsFunc(out.raw, func(b []byte) bool { return bytes.Contains(b, []byte(s.standIn)) }) {
		return nil, nil
	}
	p.Raw, out.plan = nil, p
	return out, nil
}

// as gives the plan for who asks.
func (r *planned) as(id string) (Plan, error) {
	p := r.plan
	p.of, p.who = r, id
	if len(r.raw) == 1 {
		p.Raw = bytes.Clone(r.raw[0])
		return p, nil
	}
	quoted, err := protojson.Marshal(structpb.NewStringValue(id))
	if err != nil {
		return Plan{}, fmt.Errorf("authz: encode the query plan: %w", err)
	}
	p.Raw = bytes.Join(r.raw, quoted)
	return p, nil
}

// filter gives the plan's Filter, made once. Its arguments are the caller's own.
func (r *planned) filter(p Plan, def *kind.Definition, dialect string) (Filter, error) {
	of := filterUse{def, dialect}
	r.mu.Lock()
	f, ok := r.filters[of]
	r.mu.Unlock()
	if !ok {
		var err error
		if f, err = p.makeFilter(def, dialect); err != nil {
			return Filter{}, err
		}
		r.mu.Lock()
		if r.filters == nil || len(r.filters) >= maxFilters {
			r.filters = map[filterUse]Filter{}
		}
		r.filters[of] = f
		r.mu.Unlock()
	}
	f.Args = slices.Clone(f.Args)
	for i, v := range f.Args {
		if r.standIn != "" && v == r.standIn {
			f.Args[i] = p.who
		}
	}
	return f, nil
}

// bytes is about what the plan takes, a filter counted.
func (r *planned) bytes() int {
	n := 1024
	for _, b := range r.raw {
		n += 2 * len(b)
	}
	if r.plan.condition != nil {
		n += 10 * proto.Size(r.plan.condition) // many small pointers
	}
	return n + proto.Size(r.plan.principal)*5
}

// makePlan has Cerbos make a plan. The plan is without what each answer has of its own.
func (s *snapshot) makePlan(ctx context.Context, req PlanRequest) (Plan, error) {
	principal, resource, err := req.question()
	if err != nil {
		return Plan{}, err
	}
	has, err := s.rules.guards(req.Kind, req.Action, principal)
	if err != nil {
		return Plan{}, err
	}
	out, err := s.plan(ctx, &enginev1.PlanResourcesInput{Principal: principal, Resource: resource, Actions: []string{req.Action}})
	if err != nil {
		return Plan{}, err
	}
	p := Plan{Kind: req.Kind, Action: req.Action, principal: principal, has: has, Exact: true,
		Policy: events.Policy{Revision: s.revision, Scope: out.GetMatchedScopes()[req.Action]}}
	return p.read(out.GetFilter(), out.GetValidationErrors())
}
