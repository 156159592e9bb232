package roles

import (
	"context"
	"maps"
	"reflect"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
)

// create makes a user, or finds the one who has the address.
type create struct {
	user.New
	there *identity.User // who has the address, nil for nobody
	known user.User      // what is known of them
	is    identity.User  // what they are at Stytch afterwards
}

func (e *create) attrs(_ context.Context, _ *Worker, j *job) (map[string]any, error) {
	return user.Attrs(nil, j.event.Command.Tenant), nil
}

// done never tells: prepare finds what an earlier attempt has made.
func (e *create) done(context.Context, *Worker, *job) (bool, error) { return false, nil }

// prepare looks for the address. Whoever has it must not be changed by another
// command at the same time, so their lane is locked, too.
func (e *create) prepare(ctx context.Context, w *Worker, j *job) error {
	u, err := w.Stytch.UserByEmail(ctx, e.Email)
	if fault.Is(err, fault.NotFound) {
		e.there, j.synced = nil, ""
		return nil
	}
	if err != nil {
		return err
	}
	if j.found != u.ID {
		if !w.lock(u.ID) {
			return errBusy
		}
		if j.found != "" {
			w.unlock(j.found)
		}
		j.found = u.ID
	}
	row, err := w.load(ctx, u.ID)
	if err != nil {
		return err
	}
	j.synced = synced(row)
	if row != nil { // what the search found may be older than the row
		if u, err = w.Stytch.User(ctx, u.ID); err != nil {
			return err
		}
	}
	e.there, e.known = &u, user.User{FirstName: u.FirstName, LastName: u.LastName, Tenants: u.Tenants}
	if row != nil && u.RolesCommand != j.q.CommandID {
		e.known.Tenants = asUser(row).Tenants // the directory's count, as for every role change
	}
	return nil
}

func (e *create) endsAdmin() bool { return false }

func (e *create) act(ctx context.Context, w *Worker, j *job) (err error) {
	tenant := j.event.Command.Tenant
	if e.there == nil {
		first, last, tenants := e.After(nil, tenant)
		e.is, err = w.Stytch.CreateUser(ctx, identity.User{Email: e.Email, FirstName: first, LastName: last, Tenants: tenants, RolesCommand: j.q.CommandID})
		if fault.Is(err, fault.KindConflict) { // made since we looked
			return fault.Unreachable("stytch", err)
		}
		return err
	}
	first, last, tenants := e.After(&e.known, tenant)
	var up identity.Update
	if first != e.known.FirstName {
		up.FirstName = &first
	}
	if last != e.known.LastName {
		up.LastName = &last
	}
	same := func(a, b user.Membership) bool { return reflect.DeepEqual(a, b) }
	if !maps.EqualFunc(tenants, e.known.Tenants, same) {
		up.Tenants, up.RolesCommand = tenants, j.q.CommandID
	}
	if up.FirstName == nil && up.LastName == nil && up.Tenants == nil {
		e.is = *e.there
		return nil
	}
	e.is, err = w.Stytch.UpdateUser(ctx, e.there.ID, up)
	return err
}

// repeat finds the user; one who is gone by now has no row.
func (e *create) repeat(ctx context.Context, w *Worker, _ *job) error {
	u, err := w.Stytch.UserByEmail(ctx, e.Email)
	if err == nil {
		e.is = u
	}
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

func (e *create) user(*job) string { return e.is.ID }

func (e *create) row(row *kind.Row, j *job) *kind.Row {
	s := user.Sync{Email: e.is.Email, FirstName: e.is.FirstName, LastName: e.is.LastName, Tenants: e.is.Tenants, RolesCommand: e.is.RolesCommand}
	if e.is.RolesCommand == j.q.CommandID {
		return s.Becomes(row, e.is.ID, j.event.Command.IssuedAt)
	}
	return s.Apply(row, e.is.ID, j.event.Command.IssuedAt)
}
