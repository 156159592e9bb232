package authz

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	enginev1 "github.com/cerbos/cerbos/api/genpb/cerbos/engine/v1"
	schemav1 "github.com/cerbos/cerbos/api/genpb/cerbos/schema/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/writ-project/writ/pkg/events"
)

// PlanRequest asks which resources of a kind a principal may act on.
type PlanRequest struct {
	Principal events.Principal
	Kind      string
	Action    string
	// Attr are attributes that every resource in question has with this value,
	// for the policy to reckon with: for example {"changes": []} for "which
	// could be updated". An attribute given here must not be one that rows differ in.
	Attr   map[string]any
	Tenant string
	Scope  string
}

// Plan is Cerbos' query plan: a condition on resources that stands for a check
// of each. It is about resources of one tenant: whoever uses its Filter also
// restricts the query to PlanRequest.Tenant.
type Plan struct {
	CallID      string
	Kind        string
	Action      string
	EvaluatedAt time.Time
	Took        time.Duration
	// Effect is allow unless no resource at all is allowed.
	Effect events.Effect
	// Policy holds the revision, the matched scope and, for a deny, the reason.
	Policy events.Policy
	// Exact tells whether the plan says what a check of each resource says. The
	// engine's plans do (roles.go). A PDP's need not: Cerbos' planner and its checks
	// differ (docs/adr/0017), and a PDP does not tell what its policies say. Where
	// it is false, whoever shows what Filter selects checks each of it before.
	Exact bool
	// Raw is the filter as Cerbos gives it, in JSON, for the decision's record.
	Raw json.RawMessage

	kind      FilterKind
	condition *enginev1.PlanResourcesFilter_Expression_Operand
	principal *enginev1.Principal
	known     map[string]any
	has       []string // attributes whose presence the plan takes for granted

	of  *planned // what it was remembered as
	who string   // for whom
}

// valid checks a request, but for its attributes' values.
func (r PlanRequest) valid() (askedBy, error) {
	if r.Kind == "" || r.Action == "" {
		return askedBy{}, fmt.Errorf("%w: a plan needs a kind and an action", errRequest)
	}
	if err := sameTenant(r.Tenant, r.Attr); err != nil {
		return askedBy{}, err
	}
	return whoAsks(r.Principal)
}

func (r PlanRequest) question() (*enginev1.Principal, *enginev1.PlanResourcesInput_Resource, error) {
	if _, err := r.valid(); err != nil {
		return nil, nil, err
	}
	principal, err := toPrincipal(r.Principal)
	if err != nil {
		return nil, nil, err
	}
	attr, err := toValues(r.Attr)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: plan: %w", errRequest, err)
	}
	return principal, &enginev1.PlanResourcesInput_Resource{Kind: r.Kind, Attr: attr, Scope: r.Scope}, nil
}

// read completes the plan from Cerbos' answer.
func (p Plan) read(filter *enginev1.PlanResourcesFilter, invalid []*schemav1.ValidationError) (Plan, error) {
	if filter == nil {
		return Plan{}, errors.New("authz: Cerbos gave no query plan")
	}
	raw, err := protojson.Marshal(filter)
	if err != nil {
		return Plan{}, fmt.Errorf("authz: encode the query plan: %w", err)
	}
	var compact bytes.Buffer // protojson varies its spaces on purpose
	if err := json.Compact(&compact, raw); err != nil {
		return Plan{}, fmt.Errorf("authz: encode the query plan: %w", err)
	}
	p.Raw = compact.Bytes()
	p.Effect = events.Allow
	rejected := validationReason(invalid)
	switch kind := filter.GetKind(); {
	case rejected != "":
		p.kind, p.Effect, p.Policy.Reason = Never, events.Deny, rejected
	case kind == enginev1.PlanResourcesFilter_KIND_ALWAYS_DENIED:
		p.deny()
	case kind == enginev1.PlanResourcesFilter_KIND_ALWAYS_ALLOWED:
		p.kind = Always
	case kind == enginev1.PlanResourcesFilter_KIND_CONDITIONAL && filter.GetCondition() != nil:
		p.kind, p.condition = Where, simplify(filter.GetCondition(), nil, true, 0)
		if all, ok := truthOf(p.condition); ok && all {
			p.kind, p.condition = Always, nil
		} else if ok {
			p.deny()
		}
	default:
		return Plan{}, fmt.Errorf("authz: a query plan of kind %v", kind)
	}
	return p, nil
}

func (p *Plan) deny() {
	p.kind, p.condition, p.Effect = Never, nil, events.Deny
	p.Policy.Reason = fmt.Sprintf("the policy allows %s of no %s", p.Action, p.Kind)
}

// Extent tells how much the plan allows: allow (all), deny (none) or
// conditional (some). A plan that is not Exact never promises all.
func (p Plan) Extent() string {
	switch {
	case p.kind == Always && p.Exact:
		return "allow"
	case p.kind == Never:
		return "deny"
	}
	return "conditional"
}
