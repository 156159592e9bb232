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
func (r *Replayer) plan(ctx context.Context, d *events.Decision) (before string, after answer, why string) {
	attr := d.Resource.Attr
	if attr == nil {
		if d.Action != kind.ActionList { // for others the question named more
			return "", answer{}, PlanAttr
		}
		attr = map[string]any{"tenant": d.Tenant}
	}
	old, ok := readPlan(d.Plan)
	if !ok {
		return "", answer{}, Unreadable
	}
	p, err := r.candidate.Plan(ctx, authz.PlanRequest{
		Principal: d.Principal, Kind: d.Resource.Kind, Action: d.Action, Attr: attr, Tenant: d.Tenant, Scope: authz.TenantScope(d.Tenant),
	})
	if err != nil {
		return "", answer{}, cannot(err)
	}
	now := old
	if !bytes.Equal(p.Raw, d.Plan) {
		if now, ok = readPlan(p.Raw); !ok {
			return "", answer{}, "the candidate's query plan cannot be read"
		}
	}
	after = answer{extent: now.extent, reason: p.Policy.Reason}
	if p.Effect == events.Deny {
		after.extent = selectsNone
	}
	if d.Effect == events.Deny { // also where the schema rejected it, whatever the plan says
		old.extent = selectsNone
	}
	if old.extent == selectsSome && after.extent == selectsSome && !bytes.Equal(old.condition, now.condition) {
		after.extent = selectsOther
	}
	return old.extent, after, ""
}

type readablePlan struct {
	extent    string
	condition []byte // canonical
}

// readPlan reads a query plan as Cerbos writes it.
func readPlan(raw json.RawMessage) (readablePlan, bool) {
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
		c, err := json.Marshal(canonical(plan.Condition))
		return readablePlan{selectsSome, c}, err == nil && plan.Condition != nil
	}
	return readablePlan{}, false
}

// canonical puts the operands of and, or, eq and ne in one order: Cerbos
// promises none.
func canonical(v any) any {
	switch x := v.(type) {
	case []any:
		for i := range x {
			x[i] = canonical(x[i])
		}
	case map[string]any:
		for name := range x {
			if name != "value" {
				x[name] = canonical(x[name])
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
