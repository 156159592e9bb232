package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/webhook"
	"github.com/writ-project/writ/pkg/store"
)

// NewWebhook is what the answer to POST /v1/webhooks shows of a webhook: its
// secret, this once.
type NewWebhook struct {
	webhook.Webhook
	Secret string `json:"secret,omitempty" doc:"What its messages are signed with (Standard Webhooks): shown this once. A retry with the same Idempotency-Key shows it for ten minutes"`
}

// AcceptedWebhook is Accepted with the secret that the webhook will have.
type AcceptedWebhook struct {
	Accepted
	Secret string `json:"secret,omitempty" doc:"What its messages will be signed with (Standard Webhooks): shown this once. Absent in a retry before the command is applied"`
}

// secretShown is for how long a retry of the same command shows the secret again.
const secretShown = 10 * time.Minute

type rotateInput struct {
	MutationHeaders
	ID      string `path:"id" format:"uuid"`
	Overlap int64  `query:"overlap" minimum:"0" maximum:"86400" default:"86400" doc:"For how many seconds the secret before signs, too; 0 for one that somebody else knows"`
}

// hooks serves webhooks. Everything about them is as for other kinds, but for
// the secrets: they are derived, shown once, and stand nowhere.
type hooks struct{ *resources }

func (s *Server) registerHooks() {
	sc := schemasOf(s.api, webhook.Kind)
	h := &hooks{&resources{Server: s, def: webhook.Kind, notNull: []string{"url", "owner_id"}}}
	registry := s.api.OpenAPI().Components.Schemas
	shown := func(what string, schema *huma.Schema, headers map[string]*huma.Header) *huma.Response {
		return &huma.Response{Description: what, Headers: headers, Content: map[string]*huma.MediaType{"application/json": {Schema: schema}}}
	}
	made, accepted := registry.Schema(typeOf[NewWebhook](), true, ""), registry.Schema(typeOf[AcceptedWebhook](), true, "")
	etag := map[string]*huma.Header{"ETag": text("The version")}
	madeAt := map[string]*huma.Header{"ETag": text("The version"), "Location": text("The webhook")}
	later := shown("Accepted: it is on the ledger and will be applied", accepted, map[string]*huma.Header{"Location": text("The command")})
	path, tags := "/v1/webhooks", []string{"webhooks"}
	common := []int{400, 401, 403, 404, 409, 413, 415, 422, 503}

	register(s, huma.Operation{
		OperationID: "create-webhook", Method: http.MethodPost, Path: path, Tags: tags, Summary: "Have outcomes and denials sent to a URL",
		Description:   "The messages are signed as Standard Webhooks says. At most 20 webhooks a tenant.",
		DefaultStatus: http.StatusAccepted, RequestBody: jsonBody(sc.create, "application/json"), Errors: common,
		Responses: map[string]*huma.Response{"201": shown("Created, and waited for", made, madeAt), "202": later},
	}, h.create)
	register(s, huma.Operation{
		OperationID: "list-webhooks", Method: http.MethodGet, Path: path, Tags: tags, Summary: "List the webhooks of the tenant",
		Errors: []int{401, 422, 503}, Parameters: sc.filters, Responses: map[string]*huma.Response{"200": sc.page},
	}, h.list)
	register(s, huma.Operation{
		OperationID: "get-webhook", Method: http.MethodGet, Path: path + "/{id}", Tags: tags, Summary: "Read a webhook and how it is doing",
		Errors:    []int{401, 404, 422, 503},
		Responses: map[string]*huma.Response{"200": sc.resource("The webhook"), "304": {Description: "Not modified"}},
	}, h.get)
	register(s, huma.Operation{
		OperationID: "update-webhook", Method: http.MethodPatch, Path: path + "/{id}", Tags: tags, Summary: "Change a webhook (RFC 7396 merge patch)",
		DefaultStatus: http.StatusAccepted, RequestBody: jsonBody(sc.patch, "application/json", "application/merge-patch+json"), Errors: append(common, 412),
		Responses: map[string]*huma.Response{"200": sc.resource("Changed, and waited for"), "202": sc.accepted},
	}, h.update)
	register(s, huma.Operation{
		OperationID: "delete-webhook", Method: http.MethodDelete, Path: path + "/{id}", Tags: tags, Summary: "Delete a webhook; what waits to be sent is not sent",
		DefaultStatus: http.StatusAccepted, Errors: []int{400, 401, 403, 404, 412, 422, 503},
		Responses: map[string]*huma.Response{"202": sc.accepted, "204": {Description: "Deleted, and waited for"}},
	}, h.delete)
	register(s, huma.Operation{
		OperationID: "enable-webhook", Method: http.MethodPost, Path: path + "/{id}/enable", Tags: tags, Summary: "Send events to a disabled webhook again",
		Description:   "Those from now on, and those that waited when it was disabled.",
		DefaultStatus: http.StatusAccepted, Errors: []int{400, 401, 403, 404, 409, 412, 422, 503},
		Responses: map[string]*huma.Response{"200": sc.resource("Enabled, and waited for"), "202": sc.accepted},
	}, h.act(webhook.ActionEnable))
	register(s, huma.Operation{
		OperationID: "rotate-webhook", Method: http.MethodPost, Path: path + "/{id}/rotate", Tags: tags, Summary: "Give a webhook another secret",
		Description:   "Messages bear the signatures of both secrets until the overlap is over.",
		DefaultStatus: http.StatusAccepted, Errors: []int{400, 401, 403, 404, 409, 412, 422, 503},
		Responses: map[string]*huma.Response{"200": shown("Rotated, and waited for", made, etag), "202": later},
	}, h.rotate)
	dropBinary(s.api, "create-webhook")
	dropBinary(s.api, "update-webhook")
}

// names are what kinds and actions look like.
var names = regexp.MustCompile(`^[A-Za-z0-9:_-]{1,64}$`)

// check refuses what the schema cannot.
func (h *hooks) check(body json.RawMessage) error {
	var in struct {
		URL            *string
		Kinds, Actions []string
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return fault.New(fault.Malformed, "malformed", "the body is not a webhook")
	}
	if in.URL != nil {
		if err := webhook.CheckURL(*in.URL, h.WebhooksAllowPrivate); err != nil {
			return err
		}
	}
	for field, list := range map[string][]string{"kinds": in.Kinds, "actions": in.Actions} {
		for _, name := range list {
			if !names.MatchString(name) {
				return fault.InvalidField("body."+field, "want names of at most 64 letters, digits, - _ and :")
			}
		}
	}
	return nil
}

func (h *hooks) create(ctx context.Context, in *createInput) (*mutationOutput, error) {
	body, err := object(in.RawBody)
	if err != nil {
		return nil, err
	}
	if err := h.check(body); err != nil {
		return nil, err
	}
	o, err := newOrder(ctx, MutationHeaders{SubmitHeaders: in.SubmitHeaders}, kind.ActionCreate, webhook.Kind.Name, string(body))
	if err != nil {
		return nil, err
	}
	if done, err := h.earlier(ctx, o); done != nil || err != nil {
		return h.answer(ctx, o, done, "", err)
	}
	id, err := o.resourceID()
	if err != nil {
		return nil, err
	}
	c := events.Command{Kind: webhook.Kind.Name, ResourceID: id, Action: kind.ActionCreate}
	if c.Changes, err = kind.Names(body); err != nil {
		return nil, fault.InvalidField("body", "%v", err)
	}
	key := h.Keys.Current()
	if c.Body, err = with(body, map[string]any{"secret_id": o.commandID, "secret_key": key}); err != nil {
		return nil, err
	}
	row, err := h.def.Create(c.ResourceID, o.caller.Tenant, o.caller.ID, c.Body, c.IssuedAt)
	if err != nil {
		return nil, fault.InvalidField("body", "%v", err)
	}
	all, err := h.decide(ctx, o.caller, events.Resource{Kind: c.Kind, ID: c.ResourceID, Attr: h.def.ChangeAttrs(row, c.Changes)}, c.Action)
	if err != nil {
		return nil, err
	}
	if d := all[0]; d.Effect != events.Allow {
		return nil, h.refuse(ctx, d, denied(d))
	}
	if err := h.room(ctx, o.caller.Tenant); err != nil {
		return nil, h.refuse(ctx, all[0], err)
	}
	done, err := h.submit(ctx, o, all[0], c)
	if err != nil {
		return h.answer(ctx, o, nil, "", err)
	}
	if done.ResourceID != c.ResourceID { // another try of the same key was faster
		key = ""
	}
	return h.answer(ctx, o, done, key, nil)
}

// room refuses one webhook more than a tenant may have, where that can be seen
// already. It is the worker that keeps the limit.
func (h *hooks) room(ctx context.Context, tenant string) error {
	page, err := h.Store.List(ctx, webhook.Kind, store.Query{Tenant: tenant, Limit: webhook.MaxPerTenant})
	if err != nil {
		return err
	}
	if len(page.Items) >= webhook.MaxPerTenant {
		return fault.Conflict("too-many-webhooks", "a tenant has at most %d webhooks", webhook.MaxPerTenant)
	}
	return nil
}

func (h *hooks) update(ctx context.Context, in *updateInput) (*mutationOutput, error) {
	body, err := object(in.RawBody)
	if err != nil {
		return nil, err
	}
	if err := h.check(body); err != nil {
		return nil, err
	}
	return h.resources.update(ctx, in)
}

func (h *hooks) rotate(ctx context.Context, in *rotateInput) (*mutationOutput, error) {
	o, err := newOrder(ctx, in.MutationHeaders, webhook.ActionRotate, webhook.Kind.Name, in.ID, strconv.FormatInt(in.Overlap, 10))
	if err != nil {
		return nil, err
	}
	cond, err := conditions(ctx)
	if err != nil {
		return nil, err
	}
	if done, err := h.earlier(ctx, o); done != nil || err != nil {
		return h.answer(ctx, o, done, "", err)
	}
	row, err := h.load(ctx, o.caller, in.ID)
	if err != nil {
		return h.answer(ctx, o, nil, "", err)
	}
	key := h.Keys.Current()
	c := events.Command{Kind: webhook.Kind.Name, ResourceID: in.ID, Action: webhook.ActionRotate}
	if c.Body, err = json.Marshal(webhook.Rotation{SecretID: o.commandID, SecretKey: key, Overlap: in.Overlap}); err != nil {
		return nil, err
	}
	done, err := h.order(ctx, o, row, attrs(o.caller, h.def, row), c, cond, nil)
	if err != nil {
		return h.answer(ctx, o, nil, "", err)
	}
	return h.answer(ctx, o, done, key, nil)
}

// answer is resources.answer with the secret of a create or rotate: key is the
// seal key that it is derived from, "" where this request did not make it. Then
// it is shown if its row tells the key, for a short while.
func (h *hooks) answer(ctx context.Context, o *order, c *command, key string, err error) (*mutationOutput, error) {
	out, err := h.resources.answer(ctx, o, c, err)
	if err != nil {
		return nil, err
	}
	if c == nil { // found on the way, by its key
		if c, err = h.earlier(ctx, o); err != nil || c == nil {
			return out, err
		}
	}
	if c.Status.Final() && c.Status != events.StatusApplied {
		return out, nil
	}
	if c.Status == events.StatusApplied && (key != "" || time.Since(c.IssuedAt) < secretShown) {
		row, err := h.def.Parse(c.Result) // the command's own: it tells
		if err != nil {
			return nil, fmt.Errorf("read the result of command %s: %w", c.ID, err)
		}
		key = row.Value.(*webhook.Webhook).SecretKey
	}
	secret := ""
	if key != "" {
		if secret, err = webhook.Secret(h.Keys, key, c.ResourceID, o.commandID); err != nil {
			return nil, err
		}
	}
	switch body := out.Body.(type) {
	case kind.Row:
		out.Body = NewWebhook{Webhook: *body.Value.(*webhook.Webhook), Secret: secret}
	case Accepted:
		out.Body = AcceptedWebhook{Accepted: body, Secret: secret}
	}
	return out, nil
}

// with adds members to a JSON object.
func with(object json.RawMessage, more map[string]any) (json.RawMessage, error) {
	members := map[string]any{}
	if err := json.Unmarshal(object, &members); err != nil {
		return nil, err
	}
	for name, value := range more {
		members[name] = value
	}
	return json.Marshal(members)
}
