package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/tenant"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/kind/video"
	"github.com/writ-project/writ/pkg/problem"
	"github.com/writ-project/writ/pkg/request"
)

// SubmitHeaders are what every mutation takes.
type SubmitHeaders struct {
	Prefer         string `header:"Prefer" doc:"wait=N: answer when the command is done, or after N seconds (RFC 7240; at most 30)" example:"wait=5"`
	IdempotencyKey string `header:"Idempotency-Key" doc:"A retry with the same key and the same request is the same command" maxLength:"520"`
}

// MutationHeaders are what a mutation of something that exists takes.
type MutationHeaders struct {
	SubmitHeaders
	IfMatch string `header:"If-Match" doc:"The ETag of the version to change (RFC 9110, 13.1.1)" maxLength:"1024"`
}

type createInput struct {
	SubmitHeaders
	RawBody []byte
}

type updateInput struct {
	MutationHeaders
	ID      string `path:"id" format:"uuid"`
	RawBody []byte
}

type deleteInput struct {
	MutationHeaders
	ID string `path:"id" format:"uuid"`
}

// mutationOutput is the answer to a mutation: the resource when it was waited
// for, else the command.
type mutationOutput struct {
	Status   int
	Location string `header:"Location"`
	ETag     string `header:"ETag"`
	Applied  string `header:"Preference-Applied"`
	Command  string `header:"Writ-Command"`
	Body     any
}

type getInput struct {
	ID          string `path:"id" format:"uuid"`
	IfNoneMatch string `header:"If-None-Match" doc:"Answer 304 if the version is still this one" maxLength:"1024"`
	Include     string `query:"include" enum:"permissions" doc:"permissions: add what the caller may do with it"`
}

type getOutput struct {
	Status int
	ETag   string `header:"ETag"`
	Body   any
}

// resources serves one kind.
type resources struct {
	*Server
	def *kind.Definition
	// notNull are the fields that a merge patch cannot remove.
	notNull []string
}

func (k *resources) create(ctx context.Context, in *createInput) (*mutationOutput, error) {
	body, err := object(in.RawBody)
	if err != nil {
		return nil, err
	}
	o, err := newOrder(ctx, MutationHeaders{SubmitHeaders: in.SubmitHeaders}, "create", k.def.Name, string(body))
	if err != nil {
		return nil, err
	}
	if done, err := k.earlier(ctx, o); done != nil || err != nil {
		return k.answer(ctx, o, done, err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	c := events.Command{Kind: k.def.Name, ResourceID: id.String(), Action: kind.ActionCreate}
	if c.Changes, err = kind.Names(body); err != nil {
		return nil, fault.InvalidField("body", "%v", err)
	}
	if c.Body, err = k.complete(ctx, o.caller, body); err != nil {
		return nil, err
	}
	row, err := k.def.Create(c.ResourceID, o.caller.Tenant, o.caller.ID, c.Body, c.IssuedAt)
	if err != nil {
		return nil, fault.InvalidField("body", "%v", err)
	}
	attrs := k.def.ChangeAttrs(row, c.Changes)
	all, err := k.decide(ctx, o.caller, events.Resource{Kind: c.Kind, ID: c.ResourceID, Attr: attrs}, c.Action)
	if err != nil {
		return nil, err
	}
	if d := all[0]; d.Effect != events.Allow {
		return nil, k.refuse(ctx, d, denied(d))
	}
	if err := k.ownable(ctx, o.caller, row.OwnerID); err != nil {
		return k.answer(ctx, o, nil, k.refuse(ctx, all[0], err))
	}
	done, err := k.submit(ctx, o, all[0], c)
	return k.answer(ctx, o, done, err)
}

// ownable refuses an owner whom the tenant does not know: nobody could do anything
// with what is theirs. That somebody is known elsewhere is not told.
func (k *resources) ownable(ctx context.Context, c *gate.Caller, owner string) error {
	if owner == c.ID {
		return nil
	}
	row, err := k.Store.Get(ctx, user.Kind, owner)
	if fault.Is(err, fault.NotFound) || err == nil && !user.Kind.In(row, c.Tenant) {
		e := fault.Conflict("no-such-owner", "there is no such user in the tenant %s", c.Tenant) // of its form there is nothing wrong
		e.Fields = []fault.Field{{Location: "body.owner_id", Message: "there is no such user in the tenant"}}
		return e
	}
	return err
}

// complete fills in what a new row inherits from its owner: the caller, unless
// the body names another.
func (k *resources) complete(ctx context.Context, c *gate.Caller, body json.RawMessage) (json.RawMessage, error) {
	if len(k.def.Inherited) == 0 {
		return body, nil
	}
	owner := c.User
	var named struct {
		OwnerID string `json:"owner_id"`
	}
	if err := json.Unmarshal(body, &named); err != nil {
		return nil, fault.InvalidField("body", "%v", err)
	}
	if named.OwnerID != "" && named.OwnerID != c.ID {
		row, err := k.Store.Get(ctx, user.Kind, named.OwnerID)
		if fault.Is(err, fault.NotFound) {
			return body, nil // nobody to inherit from
		}
		if err != nil {
			return nil, err
		}
		owner = row.Value.(*user.User)
	}
	_, attr := owner.In(c.Tenant)
	return k.def.Complete(body, attr)
}

func (k *resources) update(ctx context.Context, in *updateInput) (*mutationOutput, error) {
	body, err := object(in.RawBody)
	if err != nil {
		return nil, err
	}
	if err := k.removable(body); err != nil {
		return nil, err
	}
	changes, err := kind.Names(body)
	if err != nil {
		return nil, fault.InvalidField("body", "%v", err)
	}
	return k.change(ctx, in.MutationHeaders, events.Command{Kind: k.def.Name, ResourceID: in.ID, Action: kind.ActionUpdate, Body: body, Changes: changes})
}

// removable refuses a patch that removes what a resource must have. The schema
// cannot: to huma a null is an absent member.
func (k *resources) removable(patch json.RawMessage) error {
	if !bytes.Contains(patch, []byte("null")) {
		return nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(patch, &members); err != nil {
		return fault.New(fault.Malformed, "malformed", "the body is not a JSON object")
	}
	for _, name := range k.notNull {
		if string(members[name]) == "null" {
			return fault.InvalidField("body."+name, "must not be removed")
		}
	}
	return nil
}

func (k *resources) delete(ctx context.Context, in *deleteInput) (*mutationOutput, error) {
	return k.change(ctx, in.MutationHeaders, events.Command{Kind: k.def.Name, ResourceID: in.ID, Action: kind.ActionDelete})
}

// act submits one of the kind's own actions.
func (k *resources) act(action string) func(context.Context, *deleteInput) (*mutationOutput, error) {
	return func(ctx context.Context, in *deleteInput) (*mutationOutput, error) {
		return k.change(ctx, in.MutationHeaders, events.Command{Kind: k.def.Name, ResourceID: in.ID, Action: action})
	}
}

// change decides about a command on a resource that exists and submits it.
func (k *resources) change(ctx context.Context, h MutationHeaders, c events.Command) (*mutationOutput, error) {
	o, err := newOrder(ctx, h, c.Action, c.Kind, c.ResourceID, string(c.Body))
	if err != nil {
		return nil, err
	}
	cond, err := conditions(ctx)
	if err != nil {
		return nil, err
	}
	if done, err := k.earlier(ctx, o); done != nil || err != nil {
		return k.answer(ctx, o, done, err)
	}
	row, err := k.load(ctx, o.caller, c.ResourceID)
	if err != nil {
		return k.answer(ctx, o, nil, err)
	}
	attr := attrs(o.caller, k.def, row)
	var possible func() error
	if c.Action == kind.ActionUpdate {
		next, err := k.def.Update(row, c.Body, row.UpdatedAt)
		if err != nil { // what the schema let through
			return nil, fault.InvalidField("body", "%v", err)
		}
		if next.OwnerID != row.OwnerID {
			possible = func() error { return k.ownable(ctx, o.caller, next.OwnerID) }
		}
		if k.def != tenant.Kind {
			attr = k.def.ChangeAttrs(row, c.Changes)
		}
	}
	done, err := k.order(ctx, o, row, attr, c, cond, possible)
	return k.answer(ctx, o, done, err)
}

// order decides about a command on a row with these attributes and submits it.
// possible, if there is one, may refuse what the policy allows.
func (k *resources) order(ctx context.Context, o *order, row kind.Row, attr map[string]any, c events.Command, cond request.Conditions, possible func() error) (*command, error) {
	all, err := k.decide(ctx, o.caller, events.Resource{Kind: c.Kind, ID: c.ResourceID, Version: row.Version, Attr: attr}, c.Action, kind.ActionRead)
	if err != nil {
		return nil, err
	}
	d := all[0]
	switch {
	case d.Effect == events.Allow:
	case all[1].Effect == events.Allow:
		return nil, k.refuse(ctx, d, denied(d))
	default: // not even to be known of: the same answer as for one that is not there
		return nil, k.refuse(ctx, d, fault.Missing(k.def.Name, c.ResourceID))
	}
	judge := judged
	if c.Action == video.ActionUpload {
		judge = judgedFile
	}
	unmet := false
	if c.IfMatch, unmet = judge(cond, row); unmet {
		return nil, k.refuse(ctx, d, stale(k.def, row))
	}
	if possible != nil {
		if err := possible(); err != nil {
			return nil, k.refuse(ctx, d, err)
		}
	}
	return k.submit(ctx, o, d, c)
}

// refuse records the decision and answers with cause, or says that it could
// not be recorded.
func (k *resources) refuse(ctx context.Context, d *events.Decision, cause error) error {
	if err := k.record(ctx, d); err != nil {
		return err
	}
	return cause
}

// load reads a resource of the caller's tenant.
func (k *resources) load(ctx context.Context, c *gate.Caller, id string) (kind.Row, error) {
	row, err := k.Store.Get(ctx, k.def, id)
	if err == nil && !k.def.In(row, c.Tenant) {
		err = fault.Missing(k.def.Name, id)
	}
	return row, err
}

// answer tells what became of a mutation.
func (k *resources) answer(ctx context.Context, o *order, c *command, err error) (*mutationOutput, error) {
	if err != nil && !fault.Is(err, fault.Unavailable) {
		// The first try of this key may have been applied since it was looked for,
		// and be the reason why there is no such resource or version now.
		if done, lookErr := k.earlier(ctx, o); done != nil && lookErr == nil {
			c, err = done, nil
		}
	}
	if err != nil {
		return nil, err
	}
	out := &mutationOutput{Command: c.ID}
	if !o.waits || o.wait <= 0 || !c.Status.Final() {
		out.Status, out.Location, out.Body = http.StatusAccepted, "/v1/commands/"+c.ID, c.accepted()
		return out, nil
	}
	out.Applied = "wait"
	if err := c.outcomeError(); err != nil {
		p := problem.From(ctx, k.Log, err)
		p.CommandID = c.ID
		return nil, p
	}
	switch c.Action {
	case kind.ActionDelete:
		out.Status = http.StatusNoContent
		return out, nil
	case kind.ActionCreate:
		out.Status = http.StatusCreated
	default:
		out.Status = http.StatusOK
	}
	row, err := k.def.Parse(c.Result)
	if err != nil {
		return nil, fmt.Errorf("read the result of command %s: %w", c.ID, err)
	}
	if out.Status == http.StatusCreated {
		out.Location = "/v1/" + k.def.Plural + "/" + row.ID // a user's id is Stytch's to give
		known := false
		if row, known = o.met(row, c.IssuedAt); known {
			out.Status = http.StatusOK
		}
	}
	shown, err := k.present(ctx, o.caller, []kind.Row{row}, false, o.views...)
	if err != nil {
		return nil, err
	}
	out.Body = shown[0]
	out.ETag, err = etag(row, shown[0])
	return out, err
}

func (k *resources) get(ctx context.Context, in *getInput) (*getOutput, error) {
	c := gate.CallerOf(ctx)
	row, err := k.load(ctx, c, in.ID)
	if err != nil {
		return nil, err
	}
	all, err := k.decide(ctx, c, events.Resource{Kind: k.def.Name, ID: in.ID, Version: row.Version, Attr: attrs(c, k.def, row)}, kind.ActionRead)
	if err != nil {
		return nil, err
	}
	if err := k.record(ctx, all[0]); err != nil {
		return nil, err
	}
	if all[0].Effect != events.Allow {
		return nil, fault.Missing(k.def.Name, in.ID)
	}
	shown, err := k.present(ctx, c, []kind.Row{row}, in.Include == includePermissions)
	if err != nil {
		return nil, err
	}
	out := &getOutput{Status: http.StatusOK, Body: shown[0]}
	out.ETag, err = etag(row, shown[0]) // whether the client has it is problem.Conditional's to tell
	return out, err
}

// object compacts a JSON body that huma has validated and refuses what not
// every database and reader can keep.
func object(raw []byte) (json.RawMessage, error) {
	if !utf8.Valid(raw) {
		return nil, fault.New(fault.Malformed, "malformed", "the body is not UTF-8")
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return nil, fault.New(fault.Malformed, "malformed", "the body is not JSON")
	}
	if bytes.Contains(b.Bytes(), []byte(`\u0000`)) { // PostgreSQL cannot keep it
		var members map[string]any
		if err := json.Unmarshal(b.Bytes(), &members); err != nil {
			return nil, fault.New(fault.Malformed, "malformed", "the body is not a JSON object")
		}
		for name, v := range members {
			if s, ok := v.(string); ok && bytes.ContainsRune([]byte(s), 0) {
				return nil, fault.InvalidField("body."+name, "must not hold the character U+0000")
			}
		}
	}
	return b.Bytes(), nil
}
