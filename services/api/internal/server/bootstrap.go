package server

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
)

// sameAddress compares e-mail addresses whatever the case of their ASCII letters.
// strings.EqualFold would take ſ for s and the Kelvin sign for k.
func sameAddress(a, b string) bool {
	return lowerASCII(a) == lowerASCII(strings.TrimSpace(b))
}

// bootstrap makes the user whom WRIT_BOOTSTRAP_ADMIN names an admin of the
// default tenant, if they have just signed in and it has none: by a command of
// the system's own, decided and recorded like any other. It is decided again
// when it is applied, so only the first of several makes an admin.
//
// found is what Stytch says of them now. An address that is not verified there
// makes nobody an admin: a password or another way to sign in that the project
// has, too, gives a session to whoever merely knows the address.
func (s *Server) bootstrap(ctx context.Context, row kind.Row, found identity.User) error {
	u := row.Value.(*user.User)
	if s.BootstrapAdmin == "" || !found.EmailVerified || !sameAddress(found.Email, s.BootstrapAdmin) || user.IsAdmin(row, user.DefaultTenant) {
		return nil
	}
	if found, err := s.anyAdmin(ctx, ""); found || err != nil {
		return err
	}
	change := user.RolesChange{Tenant: user.DefaultTenant, Roles: []string{user.RoleAdmin}, Attr: u.Tenants[user.DefaultTenant].Attr}
	body, err := json.Marshal(change)
	if err != nil {
		return fmt.Errorf("encode roles of %s: %w", u.ID, err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make a command id: %w", err)
	}
	o := &order{caller: s.system(ctx), commandID: id.String()}
	all, err := s.decide(ctx, o.caller, events.Resource{
		Kind: user.Kind.Name, ID: u.ID, Version: u.Version, Attr: user.RolesAttrs(u, o.caller.Tenant, change, true),
	}, user.ActionBootstrap)
	if err != nil {
		return err
	}
	if d := all[0]; d.Effect != events.Allow {
		if err := s.record(ctx, d); err != nil {
			return err
		}
		return denied(d)
	}
	_, err = s.submit(ctx, o, all[0], events.Command{Kind: user.Kind.Name, ResourceID: u.ID, Action: user.ActionBootstrap, Body: body})
	return err
}
