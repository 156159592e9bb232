package server

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/tenant"
	"github.com/writ-project/writ/pkg/kind/user"
)

// NewTenant is the body of POST /v1/tenants.
type NewTenant struct {
	Key         string `json:"key" pattern:"^[a-z0-9][a-z0-9-]{0,62}$" doc:"As in Writ-Tenant; it never changes"`
	Name        string `json:"name" minLength:"1" maxLength:"200"`
	Description string `json:"description,omitempty" maxLength:"2000"`
}

type createTenantInput struct {
	SubmitHeaders
	Body    NewTenant
	RawBody []byte
}

type tenantInput struct {
	Key         string `path:"key" pattern:"^[a-z0-9][a-z0-9-]{0,62}$" doc:"The tenant's key"`
	IfNoneMatch string `header:"If-None-Match" doc:"Answer 304 if the version is still this one" maxLength:"1024"`
	Include     string `query:"include" enum:"permissions" doc:"permissions: add what the caller may do with it"`
}

// ChangeTenant is the body of PATCH /v1/tenants/{key}.
type ChangeTenant struct {
	Name        string  `json:"name,omitempty" minLength:"1" maxLength:"200"`
	Description *string `json:"description,omitempty" maxLength:"2000" nullable:"true"`
}

type updateTenantInput struct {
	MutationHeaders
	Key     string `path:"key" pattern:"^[a-z0-9][a-z0-9-]{0,62}$" doc:"The tenant's key"`
	RawBody []byte
}

// Member is what a member is in a tenant: DELETE is for who is to be none.
type Member struct {
	Roles []string       `json:"roles" minItems:"1" maxItems:"20" uniqueItems:"true" enum:"admin,auditor,finance,guest,manager,user" doc:"All of them" example:"[\"manager\"]" nullable:"false"`
	Attr  map[string]any `json:"attr,omitempty" maxProperties:"20" doc:"All attributes that policies see: texts, numbers, booleans and lists of texts" example:"{\"region\":\"eu-east-1\"}"`
}

// MemberPath names a user in a tenant.
type MemberPath struct {
	Key  string `path:"key" pattern:"^[a-z0-9][a-z0-9-]{0,62}$" doc:"The tenant's key"`
	User string `path:"user" pattern:"^user-(test|live)-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$" doc:"The user's id: Stytch's"`
}

type putMemberInput struct {
	MutationHeaders
	MemberPath
	Body    Member
	RawBody []byte
}

type deleteMemberInput struct {
	MutationHeaders
	MemberPath
}

// companies serves tenants and who is in them.
type companies struct {
	*resources
	people *people
}

func (s *Server) registerTenants() {
	sc, users := schemasOf(s.api, tenant.Kind), schemasOf(s.api, user.Kind)
	t := &companies{&resources{Server: s, def: tenant.Kind, notNull: []string{"name"}}, &people{&resources{Server: s, def: user.Kind}}}
	patch := huma.SchemaFromType(s.api.OpenAPI().Components.Schemas, typeOf[ChangeTenant]())
	tags := []string{"tenants"}
	common := []int{400, 401, 403, 404, 409, 413, 415, 422, 503}

	register(s, huma.Operation{
		OperationID: "create-tenant", Method: http.MethodPost, Path: "/v1/tenants", Tags: tags, Summary: "Create a tenant",
		DefaultStatus: http.StatusAccepted, Errors: common,
		Responses: map[string]*huma.Response{"201": sc.resource("Created, and waited for"), "202": sc.accepted},
	}, t.create)
	register(s, huma.Operation{
		OperationID: "list-tenants", Method: http.MethodGet, Path: "/v1/tenants", Tags: tags, Summary: "List the tenants that you may see",
		Description: "An admin of the default tenant sees all of them, others their own.",
		Errors:      []int{401, 422, 503}, Responses: map[string]*huma.Response{"200": sc.page},
	}, t.list)
	register(s, huma.Operation{
		OperationID: "get-tenant", Method: http.MethodGet, Path: "/v1/tenants/{key}", Tags: tags, Summary: "Read a tenant",
		Errors:    []int{401, 404, 422, 503},
		Responses: map[string]*huma.Response{"200": sc.resource("The tenant"), "304": {Description: "Not modified"}},
	}, func(ctx context.Context, in *tenantInput) (*getOutput, error) {
		return t.get(ctx, &getInput{ID: in.Key, IfNoneMatch: in.IfNoneMatch, Include: in.Include})
	})
	register(s, huma.Operation{
		OperationID: "update-tenant", Method: http.MethodPatch, Path: "/v1/tenants/{key}", Tags: tags, Summary: "Change a tenant (RFC 7396 merge patch)",
		DefaultStatus: http.StatusAccepted, Errors: append(common, 412), RequestBody: jsonBody(patch, "application/json", "application/merge-patch+json"),
		Responses: map[string]*huma.Response{"200": sc.resource("Changed, and waited for"), "202": sc.accepted},
	}, t.update)
	register(s, huma.Operation{
		OperationID: "put-member", Method: http.MethodPut, Path: "/v1/tenants/{key}/members/{user}", Tags: tags, Summary: "Say what a user is in a tenant",
		Description:   "Two decisions: members of the tenant, and roles of the user.",
		DefaultStatus: http.StatusAccepted, Errors: append(common, 412),
		Responses: map[string]*huma.Response{"200": users.resource("Changed, and waited for"), "202": sc.accepted},
	}, t.putMember)
	register(s, huma.Operation{
		OperationID: "delete-member", Method: http.MethodDelete, Path: "/v1/tenants/{key}/members/{user}", Tags: tags, Summary: "Take a user out of a tenant",
		DefaultStatus: http.StatusAccepted, Errors: []int{400, 401, 403, 404, 409, 412, 422, 503},
		Responses: map[string]*huma.Response{"202": sc.accepted, "204": {Description: "Taken out, and waited for"}},
	}, t.deleteMember)
	for _, op := range []string{"create-tenant", "update-tenant", "put-member"} {
		dropBinary(s.api, op)
	}
}

func (t *companies) create(ctx context.Context, in *createTenantInput) (*mutationOutput, error) {
	body, err := object(in.RawBody)
	if err != nil {
		return nil, err
	}
	o, err := newOrder(ctx, MutationHeaders{SubmitHeaders: in.SubmitHeaders}, kind.ActionCreate, tenant.Kind.Name, string(body))
	if err != nil {
		return nil, err
	}
	if done, err := t.earlier(ctx, o); done != nil || err != nil {
		return t.answer(ctx, o, done, err)
	}
	c := events.Command{Kind: tenant.Kind.Name, ResourceID: in.Body.Key, Action: kind.ActionCreate}
	if c.Body, err = tenant.Create(in.Body.Key, in.Body.Name, in.Body.Description); err != nil {
		return nil, err
	}
	all, err := t.decide(ctx, o.caller, events.Resource{Kind: c.Kind, ID: c.ResourceID, Attr: tenant.Attrs(in.Body.Key, o.caller.ID)}, c.Action)
	if err != nil {
		return nil, err
	}
	if d := all[0]; d.Effect != events.Allow {
		return nil, t.refuse(ctx, d, denied(d))
	}
	switch _, err := t.Store.Get(ctx, tenant.Kind, c.ResourceID); {
	case err == nil:
		return nil, t.refuse(ctx, all[0], fault.Conflict("already-exists", "tenant %s exists already", c.ResourceID))
	case !fault.Is(err, fault.NotFound):
		return nil, err
	}
	done, err := t.submit(ctx, o, all[0], c)
	return t.answer(ctx, o, done, err)
}

func (t *companies) update(ctx context.Context, in *updateTenantInput) (*mutationOutput, error) {
	body, err := object(in.RawBody)
	if err != nil {
		return nil, err
	}
	if err := t.removable(body); err != nil {
		return nil, err
	}
	changes, err := kind.Names(body)
	if err != nil {
		return nil, fault.InvalidField("body", "%v", err)
	}
	return t.resources.change(ctx, in.MutationHeaders, events.Command{Kind: tenant.Kind.Name, ResourceID: in.Key, Action: kind.ActionUpdate, Body: body, Changes: changes})
}

func (t *companies) putMember(ctx context.Context, in *putMemberInput) (*mutationOutput, error) {
	body, err := object(in.RawBody)
	if err != nil {
		return nil, err
	}
	membership := NewMembership(in.Body)
	if err := membership.check(); err != nil {
		return nil, err
	}
	if len(in.Body.Roles) == 0 {
		return nil, fault.InvalidField("body.roles", "want one at least: DELETE takes a user out of a tenant")
	}
	return t.member(ctx, in.MutationHeaders, in.MemberPath, string(body), membership)
}

func (t *companies) deleteMember(ctx context.Context, in *deleteMemberInput) (*mutationOutput, error) {
	out, err := t.member(ctx, in.MutationHeaders, in.MemberPath, "", NewMembership{Roles: []string{}})
	if err == nil && out.Status == http.StatusOK {
		out = &mutationOutput{Status: http.StatusNoContent, Applied: out.Applied, Command: out.Command}
	}
	return out, err
}

// member decides about the tenant, records that, and then submits the change of
// the user's roles, which is decided by the policy about users.
func (t *companies) member(ctx context.Context, h MutationHeaders, at MemberPath, body string, m NewMembership) (*mutationOutput, error) {
	o, wanted, done, err := t.people.started(ctx, h, tenant.ActionMembers, at.Key, at.User, body)
	if err != nil {
		return nil, err
	}
	o.views = []string{o.caller.Tenant, at.Key}
	if done != nil {
		return t.people.answer(ctx, o, done, nil)
	}
	row, err := t.load(ctx, o.caller, at.Key)
	if err != nil {
		return nil, err
	}
	all, err := t.decide(ctx, o.caller, events.Resource{Kind: tenant.Kind.Name, ID: at.Key, Version: row.Version, Attr: attrs(o.caller, tenant.Kind, row)},
		tenant.ActionMembers, kind.ActionRead)
	if err != nil {
		return nil, err
	}
	if err := t.record(ctx, all[0]); err != nil {
		return nil, err
	}
	switch {
	case all[0].Effect == events.Allow:
	case all[1].Effect == events.Allow:
		return nil, denied(all[0])
	default:
		return nil, fault.Missing(tenant.Kind.Name, at.Key)
	}
	who, err := t.people.member(ctx, o.caller, at.User, at.Key)
	if err != nil {
		return nil, err
	}
	done, err = t.people.change(ctx, o, who, user.RolesChange{Tenant: at.Key, Roles: m.Roles, Attr: m.Attr}, wanted)
	return t.people.answer(ctx, o, done, err)
}
