package webhooks

import (
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind/webhook"
)

// isDue reports whether a webhook is to hear of an event: of outcomes, and of requests that were refused. That somebody
// may not do what they only asked about is nothing to tell.
func isDue(h *webhook.Webhook, e *events.Event) bool {
	return h.Matches(e) && !(e.Type == events.TypeDecision && e.Decision.IsQuestion())
}
