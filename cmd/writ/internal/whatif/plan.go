package whatif

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
)

// How much a query plan selects.
const (
	selectsAll   = "all"
	selectsSome  = "some"
	selectsOther = "other" // some before, some by another condition now
	selectsNone  = "none"
)

// plan makes a list's query plan again and compares the two.
func (r *Replayer) plan(ctx context.Context, t *tally, d *events.Decision) (before string, after answer, why string) {
	attr := d.Resource.Attr
	if attr == nil {
		if d.Action != kind.ActionList { // for others the question named more
			return "", answer{}, PlanAttr
		}
		attr = map[string]any{"tenant": d.Tenant}
	}
	asked := *d
	asked.Resource.Attr = attr
	v, who := r.view(d), ""
	anybody := v.anybody(d.Principal.ID) && !ambiguous(&asked)
	if anybody {
		who = d.Principal.ID
	}
	old, ok := readPlan(d.Plan, who)
	if !ok {
		return "", answer{}, Unreadable
	}
	key := r.key(v, &asked, anybody, &t.buffer)
	if known := r.answers.get(key); known != nil {
		after = *known
	} else {
		t.Evaluated++
		after = r.askPlan(ctx, &asked, who)
		r.answers.put(key, after.shared())
	}
	if after.failed != "" {
		return "", after, after.failed
	}
	if d.Effect == events.Deny { // also where the schema rejected it, whatever the plan says
		old.extent = selectsNone
	}
	if old.extent == selectsSome && after.extent == selectsSome && !bytes.Equal(old.condition, after.plan.condition) {
		after.extent = selectsOther
	}
	return old.extent, after, ""
}

func (r *Replayer) askPlan(ctx context.Context, d *events.Decision, who string) answer {
	p, err := r.candidate.Plan(ctx, authz.PlanRequest{
		Principal: d.Principal, Kind: d.Resource.Kind, Action: d.Action, Attr: d.Resource.Attr, Tenant: d.Tenant, Scope: authz.TenantScope(d.Tenant),
	})
	if err != nil {
		return answer{failed: cannot(err)}
	}
	now, ok := readPlan(p.Raw, who)
	if !ok {
		return answer{failed: "the candidate's query plan cannot be read"}
	}
	a := answer{extent: now.extent, reason: p.Policy.Reason, plan: now}
	if p.Effect == events.Deny {
		a.extent = selectsNone
	}
	return a
}

type readablePlan struct {
	extent    string
	condition []byte // canonical
}

// ambiguous reports whether something else in a question is what the principal's
// id is: in a plan the two could not be told apart.
func ambiguous(d *events.Decision) bool {
	id := d.Principal.ID
	return id == d.Tenant || id == d.Action || id == d.Resource.Kind || slices.Contains(d.Principal.Roles, id) ||
		mentions(d.Principal.Attr, id) || mentions(d.Resource.Attr, id)
}

// mentions reports whether an id stands somewhere in a JSON value.
func mentions(v any, id string) bool {
	switch x := v.(type) {
	case string:
		return x == id
	case []any:
		return slices.ContainsFunc(x, func(e any) bool { return mentions(e, id) })
	case map[string]any:
		for _, e := range x {
			if mentions(e, id) {
				return true
			}
		}
	}
	return false
}

// readPlan reads a query plan as Cerbos writes it. The id of who asked, unless
// it is empty, is written as any other's would be.
func readPlan(raw json.RawMessage, who string) (readablePlan, bool) {
	var plan struct {
		Kind      string `json:"kind"`
		Condition any    `json:"condition"`
	}
	if json.Unmarshal(raw, &plan) != nil {
		return readablePlan{}, false
	}
	switch plan.Kind {
	case "KIND_ALWAYS_ALLOWED":
		return readablePlan{extent: selectsAll}, true
	case "KIND_ALWAYS_DENIED":
		return readablePlan{extent: selectsNone}, true
	case "KIND_CONDITIONAL":
		c, err := json.Marshal(canonical(plan.Condition, who))
		return readablePlan{selectsSome, c}, err == nil && plan.Condition != nil
	}
	return readablePlan{}, false
}

// thePrincipal stands in a plan for who asked. No id has a NUL.
const thePrincipal = "\x00"

// canonical puts the operands of and, or, eq and ne in one order: Cerbos
// promises none.
func canonical(v any, who string) any {
	switch x := v.(type) {
	case []any:
		for i := range x {
			x[i] = canonical(x[i], who)
		}
	case map[string]any:
		for name := range x {
			if name == "value" {
				x[name] = ofAnybody(x[name], who)
			} else {
				x[name] = canonical(x[name], who)
			}
		}
		operands, _ := x["operands"].([]any)
		switch x["operator"] {
		case "and", "or", "eq", "ne":
			slices.SortFunc(operands, func(a, b any) int {
				p, _ := json.Marshal(a) // cannot fail: it was JSON
				q, _ := json.Marshal(b)
				return bytes.Compare(p, q)
			})
		}
	}
	return v
}

// ofAnybody writes thePrincipal for an id in a value.
func ofAnybody(v any, who string) any {
	switch x := v.(type) {
	case string:
		if x == who && who != "" {
			return thePrincipal
		}
	case []any:
		for i := range x {
			x[i] = ofAnybody(x[i], who)
		}
	case map[string]any:
		for name := range x {
			x[name] = ofAnybody(x[name], who)
		}
	}
	return v
}
