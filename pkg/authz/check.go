package authz

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	enginev1 "github.com/cerbos/cerbos/api/genpb/cerbos/engine/v1"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// Bounds on what one policy set remembers of checks, about 350 bytes each.
const (
	memoChecks     = 32_768
	memoCheckBytes = 16 << 20
)

// Check implements Authorizer.
func (e *Engine) Check(ctx context.Context, req Request) (Answer, error) {
	c, err := e.begin(ctx, req.Principal, req.Tenant, req.Scope)
	if err != nil {
		return Answer{}, err
	}
	defer c.end()
	r, err := c.item(ctx, &Item{Resource: req.Resource, Actions: req.Actions})
	if err != nil {
		return Answer{}, err
	}
	return c.answer(r, time.Since(c.at)), nil
}

// CheckAll implements Authorizer.
func (e *Engine) CheckAll(ctx context.Context, batch Batch) ([]Answer, error) {
	if err := batch.bounded(); err != nil {
		return nil, err
	}
	c, err := e.begin(ctx, batch.Principal, batch.Tenant, batch.Scope)
	if err != nil {
		return nil, err
	}
	defer c.end()
	answers := make([]Answer, len(batch.Items))
	for i := range batch.Items {
		r, err := c.item(ctx, &batch.Items[i])
		if err != nil {
			return nil, err
		}
		answers[i] = c.answer(r, 0)
	}
	took := time.Since(c.at)
	for i := range answers {
		answers[i].Took = took
	}
	return answers, nil
}

// checking is one call: questions of one principal, all to one policy set.
type checking struct {
	s             *snapshot
	at            time.Time
	callID        string
	principal     events.Principal
	who           askedBy
	tenant, scope string
	asked         *enginev1.Principal // made when Cerbos is asked first

	// What the questions' keys begin with, if they are about the same actions on the same kind.
	of      *readSet
	kind    string
	actions []string
	head    []byte
	key     []byte
}

// checkings keeps the buffers.
var checkings = sync.Pool{New: func() any { return &checking{} }}

func (e *Engine) begin(ctx context.Context, p events.Principal, tenant, scope string) (*checking, error) {
	who, err := whoAsks(p)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fault.Unreachable(dependency, err)
	}
	c := checkings.Get().(*checking)
	*c = checking{s: e.current.Load(), at: time.Now(), callID: newCallID(), principal: p, who: who, tenant: tenant, scope: scope, head: c.head[:0], key: c.key[:0]}
	return c, nil
}

func (c *checking) end() {
	*c = checking{head: c.head, key: c.key}
	checkings.Put(c)
}

func (c *checking) answer(results []Result, took time.Duration) Answer {
	return Answer{CallID: c.callID, Revision: c.s.revision, EvaluatedAt: c.at.UTC(), Took: took, Results: results}
}

// item answers about one resource: what is remembered of a question with the
// same key, or what Cerbos says.
func (c *checking) item(ctx context.Context, item *Item) ([]Result, error) {
	actions, err := item.valid(c.tenant)
	if err != nil {
		return nil, err
	}
	known, err := c.keyOf(ctx, &item.Resource, actions)
	if err != nil {
		return nil, err
	}
	if known {
		if r, ok := c.s.checks.get(c.key); ok {
			return slices.Clone(r), nil
		}
	}
	r, err := c.ask(ctx, &item.Resource, actions)
	if err == nil && known {
		c.s.checks.put(c.key, slices.Clone(r), resultBytes(r))
	}
	return r, err
}

// keyOf writes the question's key. It is not known of one whose answer depends on the time.
func (c *checking) keyOf(ctx context.Context, r *events.Resource, actions []string) (known bool, err error) {
	x := c.s.reads
	if c.of == nil || c.kind != r.Kind || !slices.Equal(c.actions, actions) {
		c.kind, c.actions = r.Kind, actions
		c.head = appendTexts(appendText(c.head[:0], r.Kind), actions)
		if c.of = c.s.views.of(x, c.head, r.Kind, actions); c.of.remembered() {
			c.head, err = x.appendAsker(appendText(c.head, c.scope), c.of, &c.who, x.anybody(c.of, c.who.id))
		}
		if err != nil {
			return false, fmt.Errorf("%w: principal: %w", errRequest, err)
		}
		if len(c.of.answered) > 0 && c.of.remembered() {
			if err = c.convert(); err == nil {
				c.head, err = x.conditions.append(ctx, c.head, c.of.answered, c.asked)
			}
			if err != nil {
				return false, err
			}
		}
	}
	if !c.of.remembered() {
		return false, nil
	}
	key, err := x.appendResource(append(c.key[:0], c.head...), c.of, r.ID, r.Attr, c.who.id)
	if err != nil {
		return false, fmt.Errorf("%w: resource %s: %w", errRequest, r.Kind, err)
	}
	c.key = key
	return true, nil
}

// convert makes the principal that Cerbos takes.
func (c *checking) convert() (err error) {
	if c.asked == nil {
		c.asked, err = toPrincipal(c.principal)
	}
	return err
}

// ask asks Cerbos.
func (c *checking) ask(ctx context.Context, r *events.Resource, actions []string) ([]Result, error) {
	if err := c.convert(); err != nil {
		return nil, err
	}
	resource, err := toResource(r, c.scope)
	if err != nil {
		return nil, err
	}
	c.s.evaluated.Add(1)
	out, err := c.s.check(ctx, []*enginev1.CheckInput{{RequestId: c.callID, Principal: c.asked, Resource: resource, Actions: actions}})
	if err != nil {
		return nil, err
	}
	if len(out) != 1 {
		return nil, fmt.Errorf("authz: Cerbos gave %d results for a resource", len(out))
	}
	return results(actions, out[0], c.s.revision)
}

// check turns a panic inside Cerbos into an error: a policy must not be able to end the process.
func (s *snapshot) check(ctx context.Context, inputs []*enginev1.CheckInput) (out []*enginev1.CheckOutput, err error) {
	defer func() {
		if r := recover(); r != nil {
			out, err = nil, fmt.Errorf("authz: Cerbos panicked on a check: %v", r)
		}
	}()
	out, _, err = s.table.Check(ctx, inputs)
	if err != nil {
		return nil, fmt.Errorf("authz: check: %w", err)
	}
	return out, nil
}

// resultBytes is about what results take.
func resultBytes(results []Result) int {
	n := 0
	for _, r := range results {
		n += 144 + len(r.Policy.Reason) + len(r.Policy.Matched)
		for _, d := range r.Policy.DerivedRoles {
			n += 16 + len(d)
		}
	}
	return n
}
