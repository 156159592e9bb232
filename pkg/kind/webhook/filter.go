package webhook

import (
	"slices"

	"github.com/writ-project/writ/pkg/events"
)

// Matches reports whether an event is for the webhook: an outcome or a denial
// of its tenant that passes its filters. Webhooks are not told of webhooks, or
// one that fails would make events that fail.
func (w *Webhook) Matches(e *events.Event) bool {
	switch e.Type {
	case events.TypeOutcome:
		o := &e.Outcome
		return w.wants(o.Tenant, o.Kind, o.Action, string(o.Status))
	case events.TypeDecision:
		d := &e.Decision
		return d.Effect == events.Deny && w.wants(d.Tenant, d.Resource.Kind, d.Action, string(events.Deny))
	}
	return false
}

func (w *Webhook) wants(tenant, kind, action, result string) bool {
	in := func(list []string, s string) bool { return len(list) == 0 || slices.Contains(list, s) }
	return w.Status == Active && tenant == w.Tenant && kind != Kind.Name &&
		in(w.Kinds, kind) && in(w.Actions, action) && in(w.Results, result)
}
