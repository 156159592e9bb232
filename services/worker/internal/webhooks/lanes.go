package webhooks

import (
	"context"
	"encoding/base32"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/kind/webhook"
	"github.com/writ-project/writ/pkg/store"
)

// queuePrefix is what the queues of webhooks begin with.
const queuePrefix = "wh--"

var base = base32.HexEncoding.WithPadding(base32.NoPadding)

// queueOf names the queue of a webhook's deliveries.
func queueOf(id string) string {
	u, err := uuid.Parse(id)
	if err != nil {
		panic("webhooks: the id " + id + " is no UUID") // ids are made by the api
	}
	return queuePrefix + strings.ToLower(base.EncodeToString(u[:]))
}

// webhookOf is the other way round.
func webhookOf(queue string) (id string, ok bool) {
	name, ok := strings.CutPrefix(queue, queuePrefix)
	if !ok {
		return "", false
	}
	raw, err := base.DecodeString(strings.ToUpper(name))
	if err != nil {
		return "", false
	}
	u, err := uuid.FromBytes(raw)
	return u.String(), err == nil
}

// lane is the work on one webhook's queue in this process.
type lane struct {
	stop func()
	done chan struct{}
}

// serve works on the queues of the webhooks that there are until ctx ends, and
// takes away those of webhooks that are gone.
func (w *Webhooks) serve(ctx context.Context) error {
	defer w.stopAll()
	for ctx.Err() == nil {
		if err := w.refresh(ctx); err != nil && ctx.Err() == nil {
			w.Log.WarnContext(ctx, "webhooks could not be looked for, it will be tried again", "error", err)
		}
		rest(ctx, w.Refresh)
	}
	return nil
}

func (w *Webhooks) refresh(ctx context.Context) error {
	rows, err := w.Store.Select(ctx, webhook.Kind, store.Where{}, maxServed)
	if err != nil {
		return err
	}
	serving := map[string]bool{}
	count := map[string]int{}
	for _, r := range rows {
		h := r.Value.(*webhook.Webhook)
		if count[h.Tenant]++; count[h.Tenant] <= webhook.MaxPerTenant && h.Status == webhook.Active {
			serving[h.ID] = true
			w.start(h)
		}
	}
	w.mu.Lock()
	var over []*lane
	for id, l := range w.lanes {
		if !serving[id] {
			l.stop()
			over = append(over, l)
			delete(w.lanes, id)
			delete(w.full, id)
		}
	}
	w.mu.Unlock()
	for _, l := range over {
		<-l.done
	}
	return w.sweep(ctx)
}

// sweep takes away the queues of webhooks that were deleted.
func (w *Webhooks) sweep(ctx context.Context) error {
	queues, err := w.Jobs.Queues(ctx)
	if err != nil {
		return err
	}
	for _, q := range queues {
		id, ok := webhookOf(q.Name)
		if !ok {
			continue
		}
		// Asked for by itself: its row is older than its queue, so there is one unless it was deleted.
		if _, err := w.Store.Get(ctx, webhook.Kind, id); !fault.Is(err, fault.NotFound) {
			if err != nil {
				return err
			}
			continue
		}
		if err := w.Jobs.Drop(ctx, q.Name); err != nil {
			return err
		}
	}
	return nil
}

// start works on a webhook's queue if it does not yet.
func (w *Webhooks) start(h *webhook.Webhook) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lanes == nil || w.lanes[h.ID] != nil {
		return
	}
	client := w.Jobs.Apart()
	jobs.Handle(client, jobs.Queue{
		Name: queueOf(h.ID), Attempts: len(w.Schedule) + 1, Timeout: timeout + 5*time.Second, Concurrency: atOnce,
		Schedule: w.pause, Exhausted: w.giveUp,
	}, w.deliver)
	ctx, stop := context.WithCancel(context.Background())
	l := &lane{stop: stop, done: make(chan struct{})}
	w.lanes[h.ID] = l
	go func() {
		defer close(l.done)
		if err := client.Run(ctx); err != nil {
			w.Log.Error("the deliveries to a webhook do not stop", "webhook", h.ID, "error", err)
		}
	}()
}

// stopAll ends the work on all queues, and no more is begun.
func (w *Webhooks) stopAll() {
	w.mu.Lock()
	lanes := w.lanes
	w.lanes = nil
	w.mu.Unlock()
	for _, l := range lanes {
		l.stop()
	}
	for _, l := range lanes {
		<-l.done
	}
}

// giveUp disables the webhook of an event that could not be delivered.
func (w *Webhooks) giveUp(ctx context.Context, j jobs.Job, cause error) error {
	var s subject
	if err := json.Unmarshal(j.Payload, &s); err != nil {
		return nil // it never was one of ours
	}
	row, err := w.Store.Get(ctx, webhook.Kind, s.Webhook)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	h := row.Value.(*webhook.Webhook)
	if h.Status != webhook.Active {
		return nil
	}
	t := webhook.Trouble{Reason: webhook.Exhausted, LastError: cause.Error(), Attempts: int64(j.Attempt), Since: j.StartedAt}
	if errors.Is(cause, errGone) || strings.Contains(cause.Error(), errGone.Error()) { // a cause that was kept is its text
		t.Reason = webhook.Gone
	}
	err = w.disable(ctx, h, j.ID+" "+time.Time.Format(j.StartedAt, time.RFC3339Nano), t)
	if fault.Is(err, fault.Denied) {
		w.Log.ErrorContext(ctx, "the policy does not let the system disable a webhook", "webhook", h.ID)
		return nil
	}
	return err
}
