// Package webhook is the resource kind webhook: where a tenant wants to be told
// of what happens, and of what.
package webhook

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
)

// The states of a webhook.
const (
	Active   = "ACTIVE"
	Disabled = "DISABLED"
)

// Limits of webhooks.
const (
	// MaxPerTenant is how many webhooks a tenant may have: the worker rejects one more.
	MaxPerTenant = 20
	// MaxOverlap is for how long the secret before the last rotation may still sign.
	MaxOverlap = 24 * time.Hour
	// MaxError bounds LastError, in bytes.
	MaxError = 500
)

// Webhook is an endpoint of a tenant's and what is sent to it.
type Webhook struct {
	kind.Meta
	URL         string   `json:"url" format:"uri" minLength:"1" maxLength:"2000" doc:"https, without a user, a password or a fragment"`
	Description string   `json:"description,omitempty" maxLength:"1000"`
	Kinds       []string `json:"kinds" required:"false" default:"[]" maxItems:"50" doc:"Only events about resources of these kinds; none: of every kind"`
	Actions     []string `json:"actions" required:"false" default:"[]" maxItems:"50" doc:"Only events about these actions; none: about every action"`
	Results     []string `json:"results" required:"false" default:"[]" maxItems:"4" enum:"applied,rejected,failed,deny" doc:"Only these: what became of commands, and decisions that denied; none: all of them"`

	Status         string     `json:"status" readOnly:"true" default:"ACTIVE" enum:"ACTIVE,DISABLED" doc:"To a DISABLED one nothing is sent until somebody enables it"`
	EnabledAt      *time.Time `json:"enabled_at,omitempty" readOnly:"true" doc:"When it was enabled again; events from before are not sent"`
	DisabledAt     *time.Time `json:"disabled_at,omitempty" readOnly:"true"`
	DisabledReason *string    `json:"disabled_reason,omitempty" readOnly:"true" enum:"exhausted,gone,overflow" doc:"exhausted: an event could not be delivered for a day; gone: the endpoint answered 410; overflow: too many events waited"`
	LastError      *string    `json:"last_error,omitempty" readOnly:"true" doc:"What the last attempt ended with"`
	Attempts       *int64     `json:"attempts,omitempty" readOnly:"true" doc:"How often that event was tried"`

	// The secrets are derived from these and a seal key (Secret): nothing secret is kept.
	SecretID          string     `json:"secret_id" readOnly:"true" doc:"Which secret signs: another after each rotation"`
	SecretKey         string     `json:"secret_key" readOnly:"true" doc:"The seal key that the secret is derived from: before it is taken away, the secret must be rotated"`
	PreviousSecretID  *string    `json:"previous_secret_id,omitempty" readOnly:"true" doc:"The secret before, while it signs, too"`
	PreviousSecretKey *string    `json:"previous_secret_key,omitempty" readOnly:"true" doc:"The seal key of the secret before"`
	PreviousUntil     *time.Time `json:"previous_until,omitempty" readOnly:"true" doc:"Until when the secret before signs, too"`
}

// The actions on a webhook beside those that every kind has.
const (
	// ActionEnable sends events to it again.
	ActionEnable = "enable"
	// ActionRotate gives it another secret. Its body is Rotation.
	ActionRotate = "rotate"
	// ActionDisable stops sending. The system does it alone. Its body is Trouble.
	ActionDisable = "disable"
)

// Why a webhook was disabled.
const (
	Exhausted = "exhausted"
	Gone      = "gone"
	Overflow  = "overflow"
)

// Rotation is the body of a rotate command.
type Rotation struct {
	SecretID  string `json:"secret_id"`
	SecretKey string `json:"secret_key"`
	// Overlap is for how many seconds the secret before signs, too.
	Overlap int64 `json:"overlap"`
}

// Trouble is the body of a disable command.
type Trouble struct {
	Reason    string `json:"reason"`
	LastError string `json:"last_error"`
	Attempts  int64  `json:"attempts"`
	// Since is when the attempt began that ended with this: what was before the
	// webhook was enabled again disables it no more.
	Since time.Time `json:"since"`
}

// Kind registers webhooks. They have routes of their own, so they are not in
// the registry of kinds.
var Kind = kind.Define[Webhook]("webhook",
	kind.Search("url", "description"),
	kind.Action(ActionEnable, enable),
	kind.BodyAction(ActionRotate, rotate),
	kind.SystemAction(ActionDisable, disable),
)

func enable(w *Webhook, by kind.By) error {
	if w.Status == Active {
		return fault.Conflict("not-disabled", "webhook %s is not disabled", w.ID)
	}
	at := by.At.UTC().Truncate(time.Microsecond)
	w.Status, w.EnabledAt = Active, &at
	w.DisabledAt, w.DisabledReason, w.LastError, w.Attempts = nil, nil, nil, nil
	return nil
}

func disable(w *Webhook, by kind.By) error {
	var t Trouble
	if err := json.Unmarshal(by.Body, &t); err != nil {
		return fmt.Errorf("read a trouble: %w", err)
	}
	switch {
	case w.Status == Disabled:
		return fault.Conflict("disabled", "webhook %s is disabled already", w.ID)
	case w.EnabledAt != nil && t.Since.Before(*w.EnabledAt):
		return fault.Conflict("superseded", "webhook %s was enabled meanwhile", w.ID)
	}
	at := by.At.UTC().Truncate(time.Microsecond)
	w.Status, w.DisabledAt = Disabled, &at
	w.DisabledReason, w.LastError, w.Attempts = &t.Reason, &t.LastError, &t.Attempts
	return nil
}

func rotate(w *Webhook, by kind.By) error {
	var r Rotation
	if err := json.Unmarshal(by.Body, &r); err != nil {
		return fmt.Errorf("read a rotation: %w", err)
	}
	overlap := time.Duration(r.Overlap) * time.Second
	if r.SecretID == "" || r.SecretKey == "" || overlap < 0 || overlap > MaxOverlap {
		return fault.New(fault.Invalid, "invalid", "the rotation is not complete")
	}
	w.PreviousSecretID, w.PreviousSecretKey, w.PreviousUntil = nil, nil, nil
	if overlap > 0 {
		id, key, until := w.SecretID, w.SecretKey, by.At.Add(overlap).UTC().Truncate(time.Microsecond)
		w.PreviousSecretID, w.PreviousSecretKey, w.PreviousUntil = &id, &key, &until
	}
	w.SecretID, w.SecretKey = r.SecretID, r.SecretKey
	return nil
}

// Since is when the webhook was enabled last: events from then on are for it.
func (w *Webhook) Since() time.Time {
	if w.EnabledAt != nil {
		return *w.EnabledAt
	}
	return w.CreatedAt
}
