package webhooks

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind/webhook"
)

// The headers of Standard Webhooks.
const (
	headerID        = "webhook-id"
	headerTimestamp = "webhook-timestamp"
	headerSignature = "webhook-signature"
)

// message is what an endpoint gets: the form of Standard Webhooks.
type message struct {
	// Type tells what the event is about: outcome.<kind>.<action>.<status> or decision.<kind>.<action>.deny.
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	Data      any       `json:"data"`
}

// outcome is what an endpoint is told of an outcome.
type outcome struct {
	ID         string        `json:"id"`
	Sequence   uint64        `json:"sequence"`
	CommandID  string        `json:"command_id"`
	DecisionID string        `json:"decision_id"`
	Tenant     string        `json:"tenant"`
	Kind       string        `json:"kind"`
	ResourceID string        `json:"resource_id"`
	Action     string        `json:"action"`
	Status     events.Status `json:"status"`
	Code       string        `json:"code,omitempty"`
	Reason     string        `json:"reason,omitempty"`
	Version    int64         `json:"version,omitempty"`
	At         time.Time     `json:"at"`
}

// decision is what an endpoint is told of a denial: no attributes, no addresses.
type decision struct {
	ID          string        `json:"id"`
	Sequence    uint64        `json:"sequence"`
	Stage       events.Stage  `json:"stage"`
	Tenant      string        `json:"tenant"`
	PrincipalID string        `json:"principal_id"`
	Kind        string        `json:"kind"`
	ResourceID  string        `json:"resource_id,omitempty"`
	Action      string        `json:"action"`
	Effect      events.Effect `json:"effect"`
	Reason      string        `json:"reason,omitempty"`
	RequestID   string        `json:"request_id,omitempty"`
	At          time.Time     `json:"at"`
}

// compose makes the message of an event: the same bytes each time.
func compose(e *events.Event, address events.Address) (id string, body []byte, err error) {
	m := message{Type: e.Topic()}
	if e.Type == events.TypeOutcome {
		o := &e.Outcome
		id, m.Timestamp = o.ID, o.At
		m.Data = outcome{
			ID: o.ID, Sequence: address, CommandID: o.CommandID, DecisionID: o.DecisionID, Tenant: o.Tenant, Kind: o.Kind, ResourceID: o.ResourceID,
			Action: o.Action, Status: o.Status, Code: o.Code, Reason: o.Reason, Version: o.Version, At: o.At,
		}
	} else {
		d := &e.Decision
		id, m.Timestamp = d.ID, d.EvaluatedAt
		m.Data = decision{
			ID: d.ID, Sequence: address, Stage: d.Stage, Tenant: d.Tenant, PrincipalID: d.Principal.ID, Kind: d.Resource.Kind, ResourceID: d.Resource.ID,
			Action: d.Action, Effect: d.Effect, Reason: d.Policy.Reason, RequestID: d.Request.ID, At: d.EvaluatedAt,
		}
	}
	body, err = json.Marshal(m)
	// What is signed is id.timestamp.body, so an id must not hold a dot.
	return strings.ReplaceAll(id, ".", "_"), body, err
}

// request makes the signed request for an attempt at a time.
func request(hook *webhook.Webhook, keys [][]byte, id string, body []byte, at time.Time) (*http.Request, error) {
	req, err := http.NewRequest(http.MethodPost, hook.URL, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("the URL cannot be used: %w", err)
	}
	stamp := strconv.FormatInt(at.Unix(), 10)
	signatures := make([]string, len(keys))
	for i, key := range keys {
		signatures[i] = sign(key, id, stamp, body)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "writ-webhooks")
	req.Header.Set(headerID, id)
	req.Header.Set(headerTimestamp, stamp)
	req.Header.Set(headerSignature, strings.Join(signatures, " "))
	return req, nil
}

// sign signs as Standard Webhooks says for symmetric keys.
func sign(key []byte, id, stamp string, body []byte) string {
	m := hmac.New(sha256.New, key)
	_, _ = fmt.Fprintf(m, "%s.%s.%s", id, stamp, body) // never fails: hash.Hash
	return "v1," + base64.StdEncoding.EncodeToString(m.Sum(nil))
}
