package webhooks

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/kind/webhook"
)

// subject is the payload of a delivery.
type subject struct {
	Webhook  string         `json:"webhook"`
	Sequence events.Address `json:"sequence"` // the event's address on the ledger
}

// outage is the pause after something of ours did not answer: that is not the
// endpoint's attempt.
const outage = 5 * time.Second

// maxRetryAfter is the longest pause that an endpoint may ask for.
const maxRetryAfter = time.Hour

// errGone is an endpoint that wants to hear nothing any more.
var errGone = errors.New("the endpoint answered 410 Gone")

// deliver sends one event to one endpoint. It may run twice, also at the same
// time: the endpoint tells by webhook-id.
func (w *Webhooks) deliver(ctx context.Context, j jobs.Job, s subject) error {
	row, err := w.Store.Get(ctx, webhook.Kind, s.Webhook)
	if fault.Is(err, fault.NotFound) {
		return jobs.Cancel(err)
	}
	if err != nil {
		return jobs.Snooze(outage)
	}
	hook := row.Value.(*webhook.Webhook)
	if hook.Status != webhook.Active {
		return jobs.Snooze(outage) // it waits, and its queue is about to rest
	}
	r, err := w.Ledger.Get(ctx, s.Sequence)
	if fault.Is(err, fault.Unavailable) {
		return jobs.Snooze(outage)
	}
	if err != nil {
		return jobs.Cancel(fmt.Errorf("read event %d: %w", s.Sequence, err))
	}
	e, err := events.Parse(r.Data)
	if err == nil {
		err = e.Verify(w.Keys, r.Subject)
	}
	if err == nil && tenantOf(e) != hook.Tenant {
		err = errors.New("it is another tenant's")
	}
	if err != nil {
		return jobs.Cancel(fmt.Errorf("event %d is not believed: %w", s.Sequence, err))
	}
	err = w.send(ctx, hook, e, s.Sequence)
	return w.verdict(j, hook, err)
}

// refused is an answer other than 2xx.
type refused struct{ answer }

func (r *refused) Error() string { return fmt.Sprintf("the endpoint answered %d", r.status) }

func (w *Webhooks) send(ctx context.Context, hook *webhook.Webhook, e *events.Event, address events.Address) error {
	// What the setting allowed when the webhook was made may be forbidden now.
	if err := webhook.CheckURL(hook.URL, w.AllowPrivate); err != nil {
		return errPrivate
	}
	id, body, err := compose(e, address)
	if err != nil {
		return err
	}
	now := time.Now()
	keys, err := hook.Keys(w.Keys, now)
	if err != nil {
		return err
	}
	req, err := request(hook, keys, id, body, now)
	if err != nil {
		return err
	}
	a, err := w.post(ctx, req)
	switch {
	case err != nil:
		return err
	case a.status >= 200 && a.status < 300:
		return nil
	case a.status == http.StatusGone:
		return errGone
	}
	return &refused{a}
}

// verdict is what follows from an attempt.
func (w *Webhooks) verdict(j jobs.Job, hook *webhook.Webhook, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, errGone) {
		return jobs.Exhaust(err)
	}
	began := j.EnqueuedAt
	if since := hook.Since(); since.After(began) { // it waited while the webhook was disabled
		began = since
	}
	if time.Since(began) >= w.retryFor {
		return jobs.Exhaust(err)
	}
	// A pause that the endpoint asks for, beyond the one that is due anyway.
	if r, ok := errors.AsType[*refused](err); ok && r.retryAfter > w.pause(j.Attempt) {
		return jobs.Snooze(min(r.retryAfter, maxRetryAfter))
	}
	return err
}

// pause is the one after attempt n, give or take a tenth.
func (w *Webhooks) pause(n int) time.Duration {
	d := w.Schedule[min(max(n, 1), len(w.Schedule))-1]
	return d - d/10 + rand.N(d/5+1)
}
