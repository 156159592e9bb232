package server

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/tenant"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/request"
)

// Limits of what a user may be in a tenant. Stytch keeps 4 KB of metadata for
// all of a user's tenants.
const (
	maxAttrs    = 20
	maxAttrText = 200 // characters
	maxAttrSize = 2048
)

// NewMembership is what a user is in a tenant.
type NewMembership struct {
	Roles []string       `json:"roles" maxItems:"20" uniqueItems:"true" enum:"admin,auditor,finance,guest,manager,user" doc:"All of them; none: no member" example:"[\"manager\"]" nullable:"false"`
	Attr  map[string]any `json:"attr,omitempty" maxProperties:"20" doc:"All attributes that policies see: texts, numbers, booleans and lists of texts" example:"{\"region\":\"eu-east-1\"}"`
}

// SetRoles is the body of PUT /v1/users/{id}/roles.
type SetRoles struct {
	Tenant string `json:"tenant,omitempty" pattern:"^[a-z0-9][a-z0-9-]{0,62}$" doc:"Writ-Tenant if it is not given; another one only for an admin of the default tenant"`
	NewMembership
}

type setRolesInput struct {
	MutationHeaders
	ID      string `path:"id" pattern:"^user-(test|live)-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$" doc:"The user's id: Stytch's"`
	Body    SetRoles
	RawBody []byte
}

func (p *people) setRoles(ctx context.Context, in *setRolesInput) (*mutationOutput, error) {
	body, err := object(in.RawBody)
	if err != nil {
		return nil, err
	}
	if err := in.Body.check(); err != nil {
		return nil, err
	}
	o, m, done, err := p.started(ctx, in.MutationHeaders, user.ActionRoles, user.Kind.Name, in.ID, string(body))
	if err != nil {
		return nil, err
	}
	change := user.RolesChange{Tenant: in.Body.Tenant, Roles: in.Body.Roles, Attr: in.Body.Attr}
	if change.Tenant == "" {
		change.Tenant = o.caller.Tenant
	}
	o.views = []string{o.caller.Tenant, change.Tenant}
	if done != nil {
		return p.answer(ctx, o, done, nil)
	}
	row, err := p.load(ctx, o.caller, in.ID)
	if err != nil {
		return p.answer(ctx, o, nil, err)
	}
	done, err = p.change(ctx, o, row, change, m)
	return p.answer(ctx, o, done, err)
}

// change submits what a user is to be in a tenant.
func (p *people) change(ctx context.Context, o *order, row kind.Row, change user.RolesChange, m request.Conditions) (*command, error) {
	body, err := json.Marshal(change)
	if err != nil {
		return nil, fmt.Errorf("encode roles of %s: %w", row.ID, err)
	}
	c := events.Command{Kind: user.Kind.Name, ResourceID: row.ID, Action: user.ActionRoles, Body: body}
	attr := user.RolesAttrs(row.Value.(*user.User), o.caller.Tenant, change, false)
	return p.order(ctx, o, row, attr, c, m, func() error {
		if change.Tenant != o.caller.Tenant { // whose admins are there without a row
			if _, err := p.Store.Get(ctx, tenant.Kind, change.Tenant); fault.Is(err, fault.NotFound) {
				return fault.InvalidField("body.tenant", "there is no tenant %s", change.Tenant)
			} else if err != nil {
				return err
			}
		}
		if change.Tenant != user.DefaultTenant {
			return nil
		}
		return p.keepsAnAdmin(ctx, row, change.Roles)
	})
}

// check refuses roles that no policy knows, and attributes that policies could
// not compare or that Stytch could not keep.
func (m NewMembership) check() error {
	for i, r := range m.Roles {
		if !slices.Contains(user.Roles, r) {
			return fault.InvalidField(fmt.Sprintf("body.roles[%d]", i), "no policy knows this role: want one of %s", strings.Join(user.Roles, ", "))
		}
	}
	if len(m.Attr) > maxAttrs {
		return fault.InvalidField("body.attr", "at most %d attributes", maxAttrs)
	}
	for name, v := range m.Attr {
		if name == user.AttrTenant || name == user.AttrRequest {
			return fault.InvalidField("body.attr."+name, "every principal has this attribute, of the request")
		}
		if !plainText(name) || name == "" || !plainAttr(v) {
			return fault.InvalidField("body.attr", "want names and texts of at most %d characters, numbers, booleans or lists of texts", maxAttrText)
		}
		if _, isText := v.(string); !isText && (name == "region" || name == "department") {
			return fault.InvalidField("body.attr."+name, "want a text")
		}
	}
	if b, err := json.Marshal(m.Attr); err != nil || len(b) > maxAttrSize {
		return fault.InvalidField("body.attr", "at most %d bytes", maxAttrSize)
	}
	return nil
}

func plainAttr(v any) bool {
	switch v := v.(type) {
	case string:
		return plainText(v)
	case bool, float64:
		return true
	case []any:
		return len(v) <= maxAttrs && !slices.ContainsFunc(v, func(e any) bool { s, ok := e.(string); return !ok || !plainText(s) })
	}
	return false
}

// plainText reports whether s is short and holds nothing that a database cannot keep.
func plainText(s string) bool {
	return len([]rune(s)) <= maxAttrText && !strings.ContainsRune(s, 0)
}
