package roles

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
)

// effect is what a command does, at Stytch and then in the directory. Every
// method may be called again after a try that failed.
type effect interface {
	// attrs gives the attributes for a decision.
	attrs(ctx context.Context, w *Worker, j *job) (map[string]any, error)
	// done looks whether an earlier attempt has had its effect at Stytch.
	done(ctx context.Context, w *Worker, j *job) (bool, error)
	// prepare works out what Stytch is to be told.
	prepare(ctx context.Context, w *Worker, j *job) error
	// endsAdmin reports whether the user is no admin of tenant default afterwards.
	endsAdmin() bool
	// act has the effect at Stytch.
	act(ctx context.Context, w *Worker, j *job) error
	// repeat finds out what act did when the command was applied, before the
	// database was restored, without doing it again.
	repeat(ctx context.Context, w *Worker, j *job) error
	// user is the id of the directory's row; "" for none.
	user(j *job) string
	// row is the directory's row afterwards, nil for none.
	row(row *kind.Row, j *job) *kind.Row
}

// effectOf reads what a command does.
func effectOf(c *events.Command) (effect, error) {
	var err error
	switch c.Action {
	case user.ActionRoles, user.ActionBootstrap:
		e := &change{}
		if err = json.Unmarshal(c.Body, &e.RolesChange); err == nil && slices.Contains(e.Roles, "") {
			err = fmt.Errorf("a role without a name")
		}
		if err == nil {
			return e, nil
		}
	case user.ActionCreate:
		e := &create{}
		if err = json.Unmarshal(c.Body, &e.New); err == nil {
			return e, nil
		}
	case user.ActionDelete:
		return remove{}, nil
	case user.ActionSync:
		return &refresh{}, nil
	default:
		err = fmt.Errorf("there is no such action")
	}
	return nil, fmt.Errorf("decode %s of a user: %w", c.Action, err)
}

// change replaces what a user is in one tenant.
type change struct {
	user.RolesChange
	tenants map[string]user.Membership // all of them, as they will be
	unknown bool                       // what the command said is lost
}

func (e *change) attrs(ctx context.Context, w *Worker, j *job) (map[string]any, error) {
	c := &j.event.Command
	first := false
	if c.Action == user.ActionBootstrap {
		ids, err := w.Store.MayBeAdmins(ctx)
		if err != nil {
			return nil, err
		}
		first = true
		for _, id := range ids {
			row, err := w.load(ctx, id)
			if err != nil {
				return nil, err
			}
			first = first && (row == nil || !user.IsAdmin(*row, user.DefaultTenant))
		}
	}
	return user.RolesAttrs(asUser(j.resource), c.Tenant, e.RolesChange, first), nil
}

// done: the memberships at Stytch name the command that wrote them.
func (e *change) done(ctx context.Context, w *Worker, j *job) (bool, error) {
	u, err := w.Stytch.User(ctx, j.event.Command.ResourceID)
	if err != nil && !identity.Temporary(err) {
		return false, nil // whatever is wrong shows again when it is told to change
	}
	if err != nil || u.RolesCommand != j.q.CommandID {
		return false, err
	}
	e.tenants = u.Tenants
	return true, nil
}

func (e *change) prepare(_ context.Context, _ *Worker, j *job) error {
	e.tenants = e.after(asUser(j.resource))
	raw, err := json.Marshal(identity.EncodeMetadata(e.tenants, j.q.CommandID))
	if err != nil {
		return err
	}
	if len(raw) > identity.MaxMetadata {
		return fail("metadata-too-large", fmt.Sprintf("the user's roles and attributes in all tenants take %d bytes, Stytch keeps %d", len(raw), identity.MaxMetadata),
			fmt.Errorf("memberships of %d bytes", len(raw)))
	}
	return nil
}

// after is what a user is in all tenants after the change.
func (e *change) after(u *user.User) map[string]user.Membership {
	tenants := map[string]user.Membership{}
	if u != nil {
		maps.Copy(tenants, u.Tenants)
	}
	if len(e.Roles) == 0 {
		delete(tenants, e.In())
	} else {
		tenants[e.In()] = user.Membership{Roles: e.Roles, Attr: e.Attr}
	}
	return tenants
}

func (e *change) endsAdmin() bool {
	return e.In() == user.DefaultTenant && !slices.Contains(e.Roles, user.RoleAdmin)
}

func (e *change) act(ctx context.Context, w *Worker, j *job) error {
	u, err := w.Stytch.UpdateUser(ctx, j.event.Command.ResourceID, identity.Update{Tenants: e.tenants, RolesCommand: j.q.CommandID})
	if err == nil {
		e.tenants = u.Tenants // as Stytch has them
	}
	return err
}

func (e *change) repeat(ctx context.Context, w *Worker, j *job) error {
	if e.unknown {
		if done, err := e.done(ctx, w, j); done || err != nil {
			return err
		}
		row, err := w.load(ctx, j.event.Command.ResourceID) // a later command has changed them since
		if row != nil {
			e.tenants = asUser(row).Tenants
		}
		return err
	}
	row, err := w.load(ctx, j.event.Command.ResourceID)
	e.tenants = e.after(asUser(row))
	return err
}

func (e *change) user(j *job) string { return j.event.Command.ResourceID }

func (e *change) row(row *kind.Row, j *job) *kind.Row {
	if row == nil { // nobody but this worker deletes
		return nil
	}
	u := asUser(row)
	s := user.Sync{Email: u.Email, FirstName: u.FirstName, LastName: u.LastName, Tenants: e.tenants, RolesCommand: j.q.CommandID}
	return s.Becomes(row, u.ID, j.event.Command.IssuedAt)
}

// remove deletes a user.
type remove struct{}

func (remove) attrs(_ context.Context, _ *Worker, j *job) (map[string]any, error) {
	return user.Attrs(asUser(j.resource), j.event.Command.Tenant), nil
}

func (remove) done(ctx context.Context, w *Worker, j *job) (bool, error) {
	_, err := w.Stytch.User(ctx, j.event.Command.ResourceID)
	if fault.Is(err, fault.NotFound) {
		return true, nil
	}
	if identity.Temporary(err) {
		return false, err
	}
	return false, nil
}

func (remove) prepare(context.Context, *Worker, *job) error { return nil }
func (remove) endsAdmin() bool                              { return true }

func (remove) act(ctx context.Context, w *Worker, j *job) error {
	err := w.Stytch.DeleteUser(ctx, j.event.Command.ResourceID)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

func (remove) repeat(context.Context, *Worker, *job) error { return nil }
func (remove) user(j *job) string                          { return j.event.Command.ResourceID }
func (remove) row(*kind.Row, *job) *kind.Row               { return nil }

// nothing is what is known to be done of a command that is lost and has left no
// trace.
type nothing struct{ remove }

func (nothing) done(context.Context, *Worker, *job) (bool, error) { return false, nil }
func (nothing) user(*job) string                                  { return "" }
