package webhooks

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/kind/webhook"
)

// writLife is how long a command of the system's may wait to be applied.
const writLife = 24 * time.Hour

// disable puts the command on the ledger that disables a webhook, with the
// decision that permits it, as the api does for people. The command's id follows
// from the occasion, so one that is submitted again is recognized. fault.Denied:
// the policy does not permit it, and that is recorded.
func (w *Webhooks) disable(ctx context.Context, h *webhook.Webhook, occasion string, t webhook.Trouble) error {
	if len(t.LastError) > webhook.MaxError {
		t.LastError = t.LastError[:webhook.MaxError]
	}
	t.LastError = strings.ReplaceAll(strings.ToValidUTF8(t.LastError, ""), "\x00", "")
	body, err := json.Marshal(t)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	info := events.RequestInfo{ID: id.String(), Route: "webhook"}
	var nobody *user.User
	who := nobody.Principal(user.System, h.Tenant, info, now)
	res := events.Resource{Kind: webhook.Kind.Name, ID: h.ID, Version: h.Version, Attr: webhook.Kind.Attrs(kind.Row{Meta: &h.Meta, Value: h})}
	answer, err := w.Authz.Check(ctx, authz.Request{
		Principal: who, Resource: res, Actions: []string{webhook.ActionDisable}, Tenant: h.Tenant, Scope: authz.TenantScope(h.Tenant),
	})
	if err != nil {
		return fmt.Errorf("authorize %s of webhook %s: %w", webhook.ActionDisable, h.ID, err)
	}
	result := answer.For(webhook.ActionDisable)
	d := &events.Decision{
		ID: id.String(), Stage: events.StageRequest, Tenant: h.Tenant, Principal: who, Resource: res, Action: webhook.ActionDisable,
		Effect: result.Effect, Policy: result.Policy, CallID: answer.CallID, EvaluatedAt: answer.EvaluatedAt.UTC(),
		TookMicros: answer.Took.Microseconds(), Request: info,
	}
	if result.Effect != events.Allow {
		if err := w.record(ctx, d); err != nil {
			return err
		}
		e := fault.New(fault.Denied, "denied", "the policy does not let the system disable webhook %s", h.ID)
		e.DecisionID = d.ID
		return e
	}
	c := events.Command{
		ID: commandID(h.ID, occasion), Kind: webhook.Kind.Name, ResourceID: h.ID, Action: webhook.ActionDisable, Tenant: h.Tenant,
		PrincipalID: who.ID, Body: body, Fingerprint: fingerprint(h.ID, occasion), IssuedAt: now,
	}
	m, err := events.NewWrit(w.Keys, events.SourceWorker, d, &c, now.Add(writLife))
	if err != nil {
		return err
	}
	if _, err := w.Ledger.Append(ctx, m); err != nil {
		return fmt.Errorf("submit that webhook %s is disabled: %w", h.ID, err)
	}
	w.Log.WarnContext(ctx, "a webhook is disabled", "webhook", h.ID, "tenant", h.Tenant, "reason", t.Reason, "error", t.LastError)
	return nil
}

func (w *Webhooks) record(ctx context.Context, d *events.Decision) error {
	m, err := events.NewDecision(w.Keys, events.SourceWorker, d)
	if err != nil {
		return err
	}
	if _, err := w.Ledger.Append(ctx, m); err != nil {
		return fmt.Errorf("record decision %s: %w", d.ID, err)
	}
	return nil
}

// commandID derives the id of the command: a UUIDv8 (RFC 9562, 5.8) over SHA-256.
func commandID(webhook, occasion string) string {
	sum := sha256.Sum256([]byte("writ webhook disabled\x00" + webhook + "\x00" + occasion))
	var id uuid.UUID
	copy(id[:], sum[:])
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id.String()
}

func fingerprint(webhook, occasion string) string {
	sum := sha256.Sum256([]byte(webhook + "\x00" + occasion))
	return hex.EncodeToString(sum[:])
}
