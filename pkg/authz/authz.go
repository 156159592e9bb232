// Package authz asks Cerbos: may this principal do this to that resource, and
// which resources may it do this to. There is one interface, Authorizer, and
// two implementations that answer alike: Cerbos' engine in this process
// (engine.go) and a Cerbos PDP over gRPC (pdp.go).
//
// It fails closed. What is not clearly an allow is a deny or an error: a
// missing result, an effect that is not known, attributes that break the
// policy's schema, a deny rule whose condition cannot be evaluated (strict.go),
// a query plan that cannot be turned into SQL exactly.
//
// A query plan becomes an SQL condition with Plan.Filter (filter.go). The
// condition never selects a row that Check would deny, if the plan is Exact; if
// it is not, the rows are to be checked before anybody sees them.
package authz

import (
	"context"
	"time"

	"github.com/writ-project/writ/pkg/events"
)

// Limits on one request. They are a PDP's own defaults or lower, so that a
// request that the engine takes is one that a PDP takes.
const (
	MaxActions = 50   // actions in one Request
	MaxItems   = 1000 // resources in one Batch
)

// Authorizer answers questions about policies. It is safe for concurrent use.
//
// Errors: fault.Unavailable (code cerbos-unavailable) when the engine or the
// PDP does not answer within its deadline; fault.Misconfigured (PolicyNotSQL) for
// a plan that the policies do not allow to make; any other error is a defect of the
// caller or of the policy and is fault.Internal. A denial is never an error,
// and an error is never a denial.
type Authorizer interface {
	// Check decides about each action on one resource.
	Check(ctx context.Context, req Request) (Answer, error)
	// CheckAll decides about many resources for one principal: one Answer per
	// item, in order, or an error and none.
	CheckAll(ctx context.Context, batch Batch) ([]Answer, error)
	// Plan tells which resources of a kind the principal may act on; a PDP's may
	// tell too many: see Plan.Exact.
	Plan(ctx context.Context, req PlanRequest) (Plan, error)
	// Revision identifies the policy files in force. Empty means unknown:
	// decisions taken under it are always stale.
	Revision() string
	// Ready reports whether questions can be answered now.
	Ready(ctx context.Context) error
	// Close releases what was opened and waits for it.
	Close() error
}

// Request asks about actions on one resource.
type Request struct {
	// Principal needs an id and at least one role; a role that stands twice counts once.
	Principal events.Principal
	// Resource needs a kind and an id. Its attributes are sent as they are.
	Resource events.Resource
	// Actions are at least one and at most MaxActions; one that stands twice is answered once.
	Actions []string
	// Tenant is the tenant that the request is about. A resource with another
	// tenant attribute is refused with an error: it was loaded from elsewhere.
	Tenant string
	// Scope is the scope of the resource's policy, empty for the root. A scope
	// that no policy has falls back to its parents and the root.
	Scope string
}

// Batch asks about many resources for one principal. The items' limits are Request's.
type Batch struct {
	Principal events.Principal
	Items     []Item // at most MaxItems
	Tenant    string
	Scope     string
}

// Item is one resource of a Batch.
type Item struct {
	Resource events.Resource
	Actions  []string
}

// Answer is what the policy says about one resource.
type Answer struct {
	// CallID is Cerbos' call id (PDP), or one of our own (engine).
	CallID string
	// Revision is the policy revision that answered.
	Revision string
	// EvaluatedAt is when the question was put, in UTC.
	EvaluatedAt time.Time
	// Took is how long the answer took; the whole call's time in a batch.
	Took time.Duration
	// Results has one result per action, in the request's order.
	Results []Result
}

// Result is what the policy says about one action.
type Result struct {
	Action string
	Effect events.Effect
	Policy events.Policy
}

// For gives the result of an action; a deny for one that was not asked about.
func (a Answer) For(action string) Result {
	for _, r := range a.Results {
		if r.Action == action {
			return r
		}
	}
	return Result{Action: action, Effect: events.Deny, Policy: events.Policy{Revision: a.Revision, Reason: "the policy was not asked about this action"}}
}

// Allowed reports whether the action is allowed.
func (a Answer) Allowed(action string) bool { return a.For(action).Effect == events.Allow }
