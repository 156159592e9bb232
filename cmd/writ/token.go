package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind/user"
)

// tokenCmd prints a session JWT.
type tokenCmd struct {
	Email string            `arg:"" help:"The user's e-mail address."`
	Role  []string          `help:"A role of the user; replaces those that a known user has." sep:"none"`
	Attr  map[string]string `help:"An attribute, k=v; replaces a known user's attribute of that name." mapsep:"none"`
}

// Run makes or changes the user in the local emulator and prints a JWT alone.
func (c *tokenCmd) Run(a *app) error {
	for _, role := range c.Role {
		if !slices.Contains(user.Roles, role) {
			return fmt.Errorf("--role: there is no role %q: want %s", role, strings.Join(user.Roles, ", "))
		}
	}
	l, err := readLocal(a.data)
	if err != nil {
		return err
	}
	keys, err := readSecrets(a.data)
	if err != nil {
		return fmt.Errorf("local keys: %w", err)
	}
	id, err := identityClient(a.ctx, l.Mailbox, keys)
	if err != nil {
		return err
	}
	defer id.Close()
	u, err := c.user(a.ctx, id)
	if err != nil {
		return err
	}
	in, err := signIn(a.ctx, id, u.ID)
	if err != nil {
		return err
	}
	// The directory is what counts: bring it up to date before anybody uses the token.
	if _, err := call(a.ctx, http.MethodPost, l.API+"/v1/me/sync", in.JWT, nil, nil); err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.out, in.JWT)
	return err
}

func (c *tokenCmd) user(ctx context.Context, id *identity.Client) (identity.User, error) {
	found, err := id.UserByEmail(ctx, c.Email)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return found, err
	}
	fresh := err != nil
	m := user.Membership{Roles: []string{"user"}}
	if !fresh {
		m = found.Tenants[user.DefaultTenant]
	}
	if len(c.Role) > 0 {
		m.Roles = c.Role
	}
	if len(c.Attr) > 0 {
		attr := maps.Clone(m.Attr)
		if attr == nil {
			attr = map[string]any{}
		}
		for k, v := range c.Attr {
			if k == "" {
				return found, errors.New("--attr wants k=v")
			}
			attr[k] = v
		}
		m.Attr = attr
	}
	if fresh {
		return id.CreateUser(ctx, identity.User{Email: c.Email, Tenants: map[string]user.Membership{user.DefaultTenant: m}})
	}
	if len(c.Role) == 0 && len(c.Attr) == 0 {
		return found, nil
	}
	tenants := maps.Clone(found.Tenants)
	if tenants == nil {
		tenants = map[string]user.Membership{}
	}
	tenants[user.DefaultTenant] = m
	return id.UpdateUser(ctx, found.ID, identity.Update{Tenants: tenants})
}
