package authz

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	effectv1 "github.com/cerbos/cerbos/api/genpb/cerbos/effect/v1"
	enginev1 "github.com/cerbos/cerbos/api/genpb/cerbos/engine/v1"
	"github.com/cerbos/cerbos/private/ruletable"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/writ-project/writ/pkg/fault"
)

// Engine is Cerbos' engine in this process, on a folder of policies. Questions
// are answered by whoever asks, on one compiled policy set, without a lock; an
// edited policy is compiled beside it and then put in its place.
type Engine struct {
	dir     string
	options options
	current atomic.Pointer[snapshot]
	broken  atomic.Pointer[brokenEdit]

	stop   context.CancelFunc
	closed sync.WaitGroup
}

var _ Authorizer = (*Engine)(nil)

func openEngine(ctx context.Context, dir string, o options) (*Engine, error) {
	s, err := compileDir(ctx, dir)
	if err != nil {
		return nil, err
	}
	e := &Engine{dir: dir, options: o}
	e.current.Store(s)
	e.warn(ctx, s)
	watchCtx, stop := context.WithCancel(context.WithoutCancel(ctx)) // ends with Close, not with Open's context
	e.stop = stop
	if err := e.watch(watchCtx); err != nil {
		stop()
		return nil, err
	}
	return e, nil
}

// plan asks once; or once for each role of the principal and twice about the
// principal's own policy, where that makes a difference: see oneByOne, byPrincipal.
func (s *snapshot) plan(ctx context.Context, input *enginev1.PlanResourcesInput) (*enginev1.PlanResourcesOutput, error) {
	kind, action, who := input.GetResource().GetKind(), input.GetActions()[0], input.GetPrincipal()
	apart, err := s.rules.oneByOne(kind, action, who.GetRoles())
	if err != nil {
		return nil, err
	}
	own := s.rules.byPrincipal(kind, action, who.GetId())
	out, err := planWith(ctx, s.table, input) // for its scope and schema errors, too
	if err != nil || !apart && !own || len(out.GetValidationErrors()) > 0 {
		return out, err
	}
	roles := []string{everyRole}
	if apart {
		roles = who.GetRoles()
	}
	var allowed []*operand
	for _, role := range roles {
		if err := s.planPart(ctx, part{role: role}, input, &allowed); err != nil {
			return nil, err
		}
	}
	var denied []*operand
	if own {
		if err := s.planPart(ctx, part{principal: who.GetId(), effect: effectv1.Effect_EFFECT_ALLOW}, input, &allowed); err != nil {
			return nil, err
		}
		if err := s.planPart(ctx, part{principal: who.GetId(), effect: effectv1.Effect_EFFECT_DENY}, input, &denied); err != nil {
			return nil, err
		}
	}
	whole := expression("or", allowed...)
	for _, d := range denied {
		whole = expression("and", expression("not", d), whole)
	}
	out.Filter = filterOf(whole)
	return out, nil
}

// planPart adds what a part of the rules selects.
func (s *snapshot) planPart(ctx context.Context, of part, input *enginev1.PlanResourcesInput, to *[]*operand) error {
	table, err := s.parts.table(of)
	if err != nil {
		return err
	}
	out, err := planWith(ctx, table, input)
	if err != nil {
		return err
	}
	c, err := condition(out.GetFilter())
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(*to, func(have *operand) bool { return proto.Equal(have, c) }) {
		*to = append(*to, c)
	}
	return nil
}

func planWith(ctx context.Context, table ruletable.Evaluator, input *enginev1.PlanResourcesInput) (out *enginev1.PlanResourcesOutput, err error) {
	defer func() {
		if r := recover(); r != nil {
			out, err = nil, fmt.Errorf("authz: Cerbos panicked on a plan: %v", r)
		}
	}()
	if err := ctx.Err(); err != nil {
		return nil, fault.Unreachable(dependency, err)
	}
	out, _, err = table.Plan(ctx, input)
	if err != nil {
		return nil, fmt.Errorf("authz: plan: %w", err)
	}
	return out, nil
}

// Revision implements Authorizer.
func (e *Engine) Revision() string { return e.current.Load().revision }

// Ready implements Authorizer. It is nil as long as any policies are in force:
// see LastError for a broken edit.
func (e *Engine) Ready(context.Context) error { return nil }

// LastError is why the latest edit of the policies is not in force, nil if it is.
func (e *Engine) LastError() error {
	if b := e.broken.Load(); b != nil {
		return b.err
	}
	return nil
}

// Close implements Authorizer: it stops watching the folder. Questions can still be asked.
func (e *Engine) Close() error {
	e.stop()
	e.closed.Wait()
	return nil
}

// dependency is Cerbos' name in /readyz and in errors.
const dependency = "cerbos"

func newCallID() string {
	id, err := uuid.NewV7()
	if err != nil { // no randomness: the id only correlates, it decides nothing
		return ""
	}
	return id.String()
}
