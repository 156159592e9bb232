package authz

import (
	"fmt"
	"slices"
	"strings"

	effectv1 "github.com/cerbos/cerbos/api/genpb/cerbos/effect/v1"
	enginev1 "github.com/cerbos/cerbos/api/genpb/cerbos/engine/v1"
	schemav1 "github.com/cerbos/cerbos/api/genpb/cerbos/schema/v1"

	"github.com/writ-project/writ/pkg/events"
)

// results reads Cerbos' output for one resource, the same way for both
// implementations.
func results(actions []string, out *enginev1.CheckOutput, revision string) ([]Result, error) {
	rejected := validationReason(out.GetValidationErrors())
	derived := slices.Sorted(slices.Values(out.GetEffectiveDerivedRoles()))
	results := make([]Result, len(actions))
	for i, action := range actions {
		have, ok := out.GetActions()[action]
		if !ok {
			return nil, fmt.Errorf("authz: Cerbos gave no result for action %q", action)
		}
		r := Result{Action: action, Effect: events.Deny, Policy: events.Policy{
			Matched: have.GetPolicy(), Scope: have.GetScope(), DerivedRoles: derived, Revision: revision,
		}}
		switch {
		case rejected != "":
			// Said by the schema. A PDP whose enforcement is only "warn" would go on and might allow.
			r.Policy.Reason = rejected
		case have.GetEffect() == effectv1.Effect_EFFECT_ALLOW:
			r.Effect = events.Allow
		case have.GetEffect() == effectv1.Effect_EFFECT_DENY:
			r.Policy.Reason = outputReason(action, out.GetOutputs())
		default:
			return nil, fmt.Errorf("authz: Cerbos gave effect %v for action %q", have.GetEffect(), action)
		}
		results[i] = r
	}
	return results, nil
}

// outputReason joins what the policies' outputs say about an action. Rules are
// evaluated in no order that Cerbos promises and once per role: sorted, once each.
func outputReason(action string, outputs []*enginev1.OutputEntry) string {
	var reasons []string
	for _, o := range outputs {
		if s := o.GetVal().GetStringValue(); s != "" && o.GetAction() == action {
			reasons = append(reasons, s)
		}
	}
	slices.Sort(reasons)
	return strings.Join(slices.Compact(reasons), "; ")
}

func validationReason(errs []*schemav1.ValidationError) string {
	if len(errs) == 0 {
		return ""
	}
	lines := make([]string, len(errs))
	for i, e := range errs {
		who := "resource"
		if e.GetSource() == schemav1.ValidationError_SOURCE_PRINCIPAL {
			who = "principal"
		}
		lines[i] = fmt.Sprintf("%s%s: %s", who, strings.TrimSuffix(e.GetPath(), "/"), e.GetMessage())
	}
	slices.Sort(lines)
	return "attributes break the policy's schema: " + strings.Join(slices.Compact(lines), "; ")
}
