package server

import (
	"context"
	"encoding/json"
	"net/http"
	"net/mail"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/request"
	"github.com/writ-project/writ/pkg/store"
)

// NewUser is the body of POST /v1/users.
type NewUser struct {
	Email     string `json:"email" format:"email" maxLength:"254"`
	FirstName string `json:"first_name,omitempty" maxLength:"200" doc:"Left as it is if it is not given"`
	LastName  string `json:"last_name,omitempty" maxLength:"200" doc:"Left as it is if it is not given"`
}

type createUserInput struct {
	SubmitHeaders
	Body    NewUser
	RawBody []byte
}

type userInput struct {
	ID          string `path:"id" pattern:"^user-(test|live)-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$" doc:"The user's id: Stytch's"`
	IfNoneMatch string `header:"If-None-Match" doc:"Answer 304 if the version is still this one" maxLength:"1024"`
	Include     string `query:"include" enum:"permissions" doc:"permissions: add what the caller may do with them"`
}

type deleteUserInput struct {
	MutationHeaders
	ID string `path:"id" pattern:"^user-(test|live)-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$" doc:"The user's id: Stytch's"`
}

// people serves the directory. A tenant sees and manages its members only;
// whoever is in no tenant is in the default one. Users change at Stytch first,
// so the worker that talks to Stytch applies these commands.
type people struct{ *resources }

func (s *Server) registerUsers() {
	sc := schemasOf(s.api, user.Kind)
	p := &people{&resources{Server: s, def: user.Kind}}
	tags := []string{"users"}
	mutation := []int{400, 401, 403, 404, 409, 412, 413, 415, 422, 503}

	found := sc.resource("Known to the tenant, brought up to date, and waited for")
	found.Headers["Location"] = text("The user")
	register(s, huma.Operation{
		OperationID: "create-user", Method: http.MethodPost, Path: "/v1/users", Tags: tags, Summary: "Make a user, or set the name of the one with this address",
		Description:   "The user becomes a guest of the request's tenant if they are not in it. The name of somebody who is in other tenants, too, changes for an admin of the default tenant only.",
		DefaultStatus: http.StatusAccepted, Errors: []int{400, 401, 403, 409, 413, 415, 422, 503},
		Responses: map[string]*huma.Response{"200": found, "201": sc.resource("Made, and waited for"), "202": sc.accepted},
	}, p.create)
	register(s, huma.Operation{
		OperationID: "list-users", Method: http.MethodGet, Path: "/v1/users", Tags: tags, Summary: "List the users of the tenant that you may see",
		Errors: []int{401, 422, 503}, Responses: map[string]*huma.Response{"200": sc.page},
	}, p.list)
	register(s, huma.Operation{
		OperationID: "get-user", Method: http.MethodGet, Path: "/v1/users/{id}", Tags: tags, Summary: "Read a user",
		Errors:    []int{401, 404, 422, 503},
		Responses: map[string]*huma.Response{"200": sc.resource("The user"), "304": {Description: "Not modified"}},
	}, func(ctx context.Context, in *userInput) (*getOutput, error) {
		return p.get(ctx, &getInput{ID: in.ID, IfNoneMatch: in.IfNoneMatch, Include: in.Include})
	})
	register(s, huma.Operation{
		OperationID: "delete-user", Method: http.MethodDelete, Path: "/v1/users/{id}", Tags: tags, Summary: "Delete a user and end the sessions",
		DefaultStatus: http.StatusAccepted, Errors: []int{400, 401, 403, 404, 409, 412, 422, 503},
		Responses: map[string]*huma.Response{"202": sc.accepted, "204": {Description: "Deleted, and waited for"}},
	}, p.delete)
	register(s, huma.Operation{
		OperationID: "set-roles", Method: http.MethodPut, Path: "/v1/users/{id}/roles", Tags: tags, Summary: "Say what a user is in a tenant",
		Description:   "In full: what is not named is taken away. Nobody changes their own roles, and the default tenant keeps an admin.",
		DefaultStatus: http.StatusAccepted, Errors: mutation,
		Responses: map[string]*huma.Response{"200": sc.resource("Changed, and waited for"), "202": sc.accepted},
	}, p.setRoles)
	dropBinary(s.api, "create-user")
	dropBinary(s.api, "set-roles")
}

func (p *people) create(ctx context.Context, in *createUserInput) (*mutationOutput, error) {
	body, err := object(in.RawBody)
	if err != nil {
		return nil, err
	}
	if a, err := mail.ParseAddress(in.Body.Email); err != nil || a.Address != in.Body.Email {
		return nil, fault.InvalidField("body.email", "want an address, without a name")
	}
	o, err := newOrder(ctx, MutationHeaders{SubmitHeaders: in.SubmitHeaders}, "create", user.Kind.Name, string(body))
	if err != nil {
		return nil, err
	}
	o.asked = &user.New{Email: in.Body.Email, FirstName: in.Body.FirstName, LastName: in.Body.LastName}
	if done, err := p.earlier(ctx, o); done != nil || err != nil {
		return p.answer(ctx, o, done, err)
	}
	c := events.Command{Kind: user.Kind.Name, ResourceID: user.NewID(in.Body.Email), Action: user.ActionCreate}
	if c.Body, err = json.Marshal(o.asked); err != nil {
		return nil, err
	}
	all, err := p.decide(ctx, o.caller, events.Resource{Kind: c.Kind, ID: c.ResourceID, Attr: user.Attrs(nil, o.caller.Tenant)}, c.Action)
	if err != nil {
		return nil, err
	}
	if d := all[0]; d.Effect != events.Allow {
		return nil, p.refuse(ctx, d, denied(d))
	}
	if o.member, err = p.isMember(ctx, o.caller.Tenant, in.Body.Email); err != nil {
		return nil, p.refuse(ctx, all[0], err)
	}
	done, err := p.submit(ctx, o, all[0], c)
	return p.answer(ctx, o, done, err)
}

// isMember reports whether the tenant knows somebody with an address.
func (p *people) isMember(ctx context.Context, tenant, email string) (bool, error) {
	page, err := p.Store.List(ctx, user.Kind, store.Query{
		Tenant: tenant, Limit: 1, Where: store.Where{SQL: `lower("email") = ? AND "email" <> ''`, Args: []any{lowerASCII(email)}}, // as the unique index has it
	})
	return len(page.Items) > 0, err
}

// met gives the row of a user whom a create command made or found as its tenant
// may be told of them, and whether the tenant knew them before. Whoever it did not
// know is told of as if they were new: else an address would be enough to learn
// from any tenant who is known in another, and under what name.
func (o *order) met(row kind.Row, issued time.Time) (kind.Row, bool) {
	u, ok := row.Value.(*user.User)
	if !ok || o.asked == nil {
		return row, false
	}
	if o.member || row.UpdatedAt.Before(issued.Truncate(time.Microsecond)) { // nothing was changed: they were a member
		return row, true
	}
	shown := *u
	shown.FirstName, shown.LastName, shown.CreatedAt = o.asked.FirstName, o.asked.LastName, u.UpdatedAt
	return kind.Row{Meta: &shown.Meta, Value: &shown}, false
}

func (p *people) delete(ctx context.Context, in *deleteUserInput) (*mutationOutput, error) {
	o, m, done, err := p.started(ctx, in.MutationHeaders, user.ActionDelete, user.Kind.Name, in.ID)
	if err != nil {
		return nil, err
	}
	if done != nil {
		return p.answer(ctx, o, done, nil)
	}
	row, err := p.load(ctx, o.caller, in.ID)
	if err != nil {
		return p.answer(ctx, o, nil, err)
	}
	c := events.Command{Kind: user.Kind.Name, ResourceID: in.ID, Action: user.ActionDelete}
	done, err = p.order(ctx, o, row, attrs(o.caller, user.Kind, row), c, m, func() error { return p.keepsAnAdmin(ctx, row, nil) })
	return p.answer(ctx, o, done, err)
}

// started reads the headers of a mutation and finds the command that its key
// stands for already.
func (p *people) started(ctx context.Context, h MutationHeaders, parts ...string) (*order, request.Conditions, *command, error) {
	o, err := newOrder(ctx, h, parts...)
	if err != nil {
		return nil, request.Conditions{}, nil, err
	}
	cond, err := conditions(ctx)
	if err != nil {
		return nil, cond, nil, err
	}
	done, err := p.earlier(ctx, o)
	return o, cond, done, err
}

// keepsAnAdmin refuses to take the role away from the last admin of the default
// tenant: roles are what the user has there afterwards. The worker has the last
// word; this spares a command that cannot succeed.
func (p *people) keepsAnAdmin(ctx context.Context, row kind.Row, roles []string) error {
	if !user.IsAdmin(row, user.DefaultTenant) || slices.Contains(roles, user.RoleAdmin) {
		return nil
	}
	found, err := p.anyAdmin(ctx, row.ID)
	if err == nil && !found {
		err = fault.Conflict("last-admin", "user %s is the last admin of the tenant default", row.ID)
	}
	return err
}

// anyAdmin reports whether the default tenant has an admin beside this user.
func (s *Server) anyAdmin(ctx context.Context, beside string) (bool, error) {
	for q := (store.Query{Tenant: user.DefaultTenant, Limit: store.MaxLimit, Where: store.Where{SQL: `"tenants" LIKE '%"admin"%'`}}); ; {
		page, err := s.Store.List(ctx, user.Kind, q)
		if err != nil {
			return false, err
		}
		for _, r := range page.Items { // what the text finds too much is not one
			if r.ID != beside && user.IsAdmin(r, user.DefaultTenant) {
				return true, nil
			}
		}
		if q.Cursor = page.NextCursor; q.Cursor == "" {
			return false, nil
		}
	}
}

// member reads a user whom a tenant's admins may name: one of the caller's
// tenant, or of the one that the request is about if the caller may do
// something about that one.
func (p *people) member(ctx context.Context, c *gate.Caller, id, of string) (kind.Row, error) {
	row, err := p.Store.Get(ctx, user.Kind, id)
	if err == nil && !user.Kind.In(row, c.Tenant) && (of == "" || !user.Kind.In(row, of)) {
		err = fault.Missing(user.Kind.Name, id)
	}
	return row, err
}
