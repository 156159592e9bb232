package roles

import (
	"context"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
)

// refresh brings a row up to date with Stytch, for a sync of which the apply loop
// could not tell whether it is older than the row: what it was told counts for
// nothing, and Stytch is asked again.
type refresh struct {
	is   identity.User
	gone bool // Stytch has no such user any more
}

func (e *refresh) attrs(_ context.Context, _ *Worker, j *job) (map[string]any, error) {
	return map[string]any{"tenant": j.event.Command.Tenant}, nil // as the apply loop has it
}

// done never tells: to ask once more does no harm.
func (e *refresh) done(context.Context, *Worker, *job) (bool, error) { return false, nil }

func (e *refresh) prepare(ctx context.Context, w *Worker, j *job) error {
	u, err := w.Stytch.User(ctx, j.event.Command.ResourceID)
	e.is, e.gone = u, fault.Is(err, fault.NotFound)
	if e.gone {
		return nil
	}
	return err
}

func (e *refresh) endsAdmin() bool                          { return false }
func (e *refresh) act(context.Context, *Worker, *job) error { return nil }
func (e *refresh) user(j *job) string                       { return j.event.Command.ResourceID }

func (e *refresh) repeat(ctx context.Context, w *Worker, j *job) error { return e.prepare(ctx, w, j) }

func (e *refresh) row(row *kind.Row, j *job) *kind.Row {
	s := user.Sync{Email: e.is.Email, FirstName: e.is.FirstName, LastName: e.is.LastName, Tenants: e.is.Tenants, RolesCommand: e.is.RolesCommand}
	if row == nil {
		return nil
	}
	return s.Apply(row, row.ID, j.event.Command.IssuedAt)
}
