package webhooks

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/kind/webhook"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
)

// leeway is how far the clocks of the services and of NATS may be apart: an
// event this much older than the webhook may be sent to it.
const leeway = 10 * time.Second

// atOnceEnqueued is how many jobs are put on their queues at a time.
const atOnceEnqueued = 16

// follow reads the ledger from the first webhook on.
func (w *Webhooks) follow(ctx context.Context) error {
	for ctx.Err() == nil {
		rows, err := w.Store.Select(ctx, webhook.Kind, store.Where{}, 1)
		if err == nil && len(rows) > 0 {
			return w.Ledger.ConsumeBatches(ctx, consumer, []string{events.AllOutcomes, events.SubjectDecisions}, rows[0].CreatedAt.Add(-leeway), w.dispatch)
		}
		rest(ctx, w.Refresh)
	}
	return nil
}

// dispatch puts the deliveries of a batch of events on their queues. Errors are
// outages alone: what is wrong with one event must not hold up the others.
func (w *Webhooks) dispatch(ctx context.Context, records []ledger.Record) error {
	hooks := map[string][]*webhook.Webhook{} // by tenant
	due := map[string]*dueTo{}               // by webhook
	for _, r := range records {
		e := &events.Event{}
		if err := events.Skim(e, r.Data); err != nil || e.Type != events.TypeOutcome && e.Decision.Effect != events.Deny {
			continue // allowed, or nothing: the auditor makes a dead letter of what cannot be read
		}
		if e.Type == events.TypeDecision { // of a denial, which is rare, the request counts, too
			var err error
			if e, err = events.Parse(r.Data); err != nil {
				continue
			}
		}
		tenant := tenantOf(e)
		if _, known := hooks[tenant]; !known {
			// After the event came: a webhook that its cause could know of is there.
			found, err := w.of(ctx, tenant)
			if err != nil {
				return err
			}
			hooks[tenant] = found
		}
		believed := false
		for _, h := range hooks[tenant] {
			if !isDue(h, e) || r.Time.Before(h.Since().Add(-leeway)) {
				continue
			}
			if !believed && e.Verify(w.Keys, r.Subject) != nil {
				break
			}
			believed = true
			if due[h.ID] == nil {
				due[h.ID] = &dueTo{hook: h}
			}
			due[h.ID].events = append(due[h.ID].events, r.Address)
		}
	}
	if len(due) == 0 {
		return nil
	}
	limit, err := w.limit(ctx)
	if err != nil {
		return err
	}
	for id, d := range due {
		full, err := w.isFull(ctx, d, limit)
		if err == nil && full {
			delete(due, id)
			err = w.overflow(ctx, d.hook)
		}
		if err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnceEnqueued)
	for _, d := range due {
		w.start(d.hook)
		for _, address := range d.events {
			g.Go(func() error { return w.enqueue(ctx, d.hook, address) })
		}
	}
	return g.Wait()
}

// dueTo are the events for one webhook.
type dueTo struct {
	hook   *webhook.Webhook
	events []events.Address
}

func tenantOf(e *events.Event) string {
	if e.Type == events.TypeOutcome {
		return e.Outcome.Tenant
	}
	return e.Decision.Tenant
}

// of gives a tenant's webhooks, the oldest.
func (w *Webhooks) of(ctx context.Context, tenant string) ([]*webhook.Webhook, error) {
	rows, err := w.Store.Select(ctx, webhook.Kind, store.Where{SQL: `"tenant" = ?`, Args: []any{tenant}}, webhook.MaxPerTenant)
	if err != nil {
		return nil, err
	}
	out := make([]*webhook.Webhook, len(rows))
	for i, r := range rows {
		out[i] = r.Value.(*webhook.Webhook)
	}
	return out, nil
}

func (w *Webhooks) enqueue(ctx context.Context, h *webhook.Webhook, address events.Address) error {
	_, _, err := w.Jobs.Enqueue(ctx, jobs.Spec{
		Queue: queueOf(h.ID), Key: fmt.Sprint(address), Tenant: h.Tenant, Payload: subject{Webhook: h.ID, Sequence: address},
	})
	return err
}

// limit is how many events may wait for one webhook now.
func (w *Webhooks) limit(ctx context.Context) (uint64, error) {
	taken, all, err := w.Jobs.Room(ctx)
	switch {
	case err != nil:
		return 0, err
	case taken > all/4*3: // the rest is for jobs of other sorts
		return 0, fault.New(fault.Unavailable, "jobs-full", "too many jobs wait")
	case taken > all/2:
		return w.mostFull, nil
	}
	return w.most, nil
}

// isFull reports whether too many events wait for a webhook.
func (w *Webhooks) isFull(ctx context.Context, d *dueTo, limit uint64) (bool, error) {
	waiting, err := w.Jobs.Waiting(ctx, queueOf(d.hook.ID))
	return waiting+uint64(len(d.events)) > limit, err
}

// overflow has a webhook disabled for which too many events wait, once for each
// of its versions.
func (w *Webhooks) overflow(ctx context.Context, h *webhook.Webhook) error {
	w.mu.Lock()
	told := w.full[h.ID] == h.Version
	w.mu.Unlock()
	if told {
		return nil
	}
	t := webhook.Trouble{Reason: webhook.Overflow, LastError: "too many events waited to be sent", Since: time.Now()}
	if err := w.disable(ctx, h, fmt.Sprintf("overflow %d", h.Version), t); err != nil && !fault.Is(err, fault.Denied) {
		return err
	}
	w.mu.Lock()
	w.full[h.ID] = h.Version
	w.mu.Unlock()
	return nil
}

func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
