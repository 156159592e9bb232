package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	svix "github.com/svix/svix-webhooks/go"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/problem"
	"github.com/writ-project/writ/pkg/request"
)

// minWebhookSecret is the shortest secret that is taken, in bytes.
const minWebhookSecret = 16

// newWebhook reads a signing secret as Svix gives it (whsec_…); nil for "".
func newWebhook(secret string) (*svix.Webhook, error) {
	if secret == "" {
		return nil, nil
	}
	w, err := svix.NewWebhook(secret)
	if err != nil {
		return nil, errors.New("want whsec_ and base64")
	}
	const prefix = len("whsec_")
	if len(secret) < prefix+minWebhookSecret*4/3 {
		return nil, fmt.Errorf("want %d bytes at least", minWebhookSecret)
	}
	return w, nil
}

// stytchInput is what Stytch sends through Svix
// (https://docs.svix.com/receiving/verifying-payloads/how-manual).
type stytchInput struct {
	ID        string `header:"Svix-Id" maxLength:"128" doc:"The message's id; sent again it is the same command"`
	Timestamp string `header:"Svix-Timestamp" maxLength:"20" doc:"When it was sent, in seconds since 1970; at most 5 minutes off"`
	Signature string `header:"Svix-Signature" maxLength:"1024" doc:"HMAC-SHA256 of id, timestamp and body"`
	RawBody   []byte
}

// stytchEvent is what is read of an event: whom it is about. What it says of
// them is not believed; Stytch is asked.
type stytchEvent struct {
	ObjectType string `json:"object_type"`
	ID         string `json:"id"`
}

type stytchOutput struct {
	Status   int
	Location string `header:"Location"`
	Command  string `header:"Writ-Command"`
	Body     any
}

func (s *Server) registerWebhooks() {
	sc := schemasOf(s.api, user.Kind)
	register(s, huma.Operation{
		OperationID: "stytch-webhook", Method: http.MethodPost, Path: "/v1/webhooks/stytch", Tags: []string{"webhooks"},
		Summary:     "Stytch says that a user has changed",
		Description: "For Stytch, which signs with STYTCH_WEBHOOK_SECRET; without that setting there is nothing here. The user's row is brought up to date with what Stytch says when it is asked.",
		Security:    []map[string][]string{}, DefaultStatus: http.StatusAccepted, Errors: []int{400, 401, 404, 413, 415, 422, 503},
		RequestBody: jsonBody(&huma.Schema{Type: huma.TypeObject, Properties: map[string]*huma.Schema{
			"object_type": {Type: huma.TypeString, Description: "user; anything else is passed over"},
			"id":          {Type: huma.TypeString, Description: "The user's id"},
		}}, "application/json"),
		Responses: map[string]*huma.Response{"202": sc.accepted, "204": {Description: "Nothing to bring up to date"}},
	}, s.stytchWebhook)
	dropBinary(s.api, "stytch-webhook")
}

func (s *Server) stytchWebhook(ctx context.Context, in *stytchInput) (*stytchOutput, error) {
	if s.webhook == nil {
		return nil, fault.New(fault.NotFound, "not-set-up", "webhooks of Stytch are not set up: STYTCH_WEBHOOK_SECRET")
	}
	if err := s.webhook.Verify(in.RawBody, request.HTTP(ctx).Header); err != nil {
		p := problem.New(http.StatusUnauthorized, "bad-signature", "The signature is missing, does not fit, or is too old")
		return nil, p.With("WWW-Authenticate", "Svix")
	}
	var e stytchEvent
	if err := json.Unmarshal(in.RawBody, &e); err != nil {
		return nil, fault.New(fault.Malformed, "malformed", "the body is not an event of Stytch")
	}
	if e.ObjectType != "user" {
		return &stytchOutput{Status: http.StatusNoContent}, nil
	}
	if e.ID == "" || len(e.ID) > 200 || !plainText(e.ID) {
		return nil, fault.InvalidField("body.id", "want a user's id")
	}
	done, err := s.refresh(ctx, s.heard(ctx, in.ID, e.ID), e.ID)
	if err != nil {
		return nil, err
	}
	if done == nil {
		return &stytchOutput{Status: http.StatusNoContent}, nil
	}
	return &stytchOutput{Status: http.StatusAccepted, Location: "/v1/commands/" + done.ID, Command: done.ID, Body: done.accepted()}, nil
}

// heard makes the order for a message. Its id is the idempotency key, and whom
// it is about the request: what Stytch says of them may differ when the message
// comes again, and it is the same command all the same.
func (s *Server) heard(ctx context.Context, message, id string) *order {
	c := s.system(ctx)
	sum := sha256.Sum256([]byte("stytch webhook\x00" + id))
	key := keyedID(c.Tenant, c.ID, "stytch webhook "+message)
	return &order{caller: c, key: message, keyID: key, fingerprint: hex.EncodeToString(sum[:]), commandID: key}
}

// system is the caller of what the api does of itself.
func (s *Server) system(ctx context.Context) *gate.Caller {
	var nobody *user.User
	return &gate.Caller{Principal: nobody.Principal(user.System, user.DefaultTenant, request.Info(ctx), time.Now()), Tenant: user.DefaultTenant}
}

// refresh brings a user's row up to date with what Stytch says now; nil for
// nobody that Stytch or the directory know.
func (s *Server) refresh(ctx context.Context, o *order, id string) (*command, error) {
	if done, err := s.earlier(ctx, o); done != nil || err != nil {
		return done, err
	}
	// The row's version before Stytch is asked: if it moves on meanwhile, the decision is taken again.
	version, seen := int64(0), ""
	row, err := s.Store.Get(ctx, user.Kind, id)
	known := err == nil
	if known {
		version, seen = row.Version, row.Value.(*user.User).Synced
	} else if !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	found, err := s.Identity.User(ctx, id)
	body := syncBody(found, seen)
	if fault.Is(err, fault.NotFound) {
		if !known {
			return nil, nil
		}
		body, err = user.Sync{Gone: true}, nil
	}
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode sync of %s: %w", id, err)
	}
	all, err := s.decide(ctx, o.caller, events.Resource{Kind: user.Kind.Name, ID: id, Version: version, Attr: map[string]any{"tenant": o.caller.Tenant}}, user.ActionSync)
	if err != nil {
		return nil, err
	}
	if d := all[0]; d.Effect != events.Allow {
		if err := s.record(ctx, d); err != nil {
			return nil, err
		}
		return nil, denied(d)
	}
	return s.submit(ctx, o, all[0], events.Command{Kind: user.Kind.Name, ResourceID: id, Action: user.ActionSync, Body: raw})
}
