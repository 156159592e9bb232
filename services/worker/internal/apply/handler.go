package apply

import (
	"encoding/json"
	"fmt"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
)

// Handler changes rows of one kind. It works in memory only: what it returns
// is written together with the rest of the batch, so a handler that fails or
// panics has changed nothing.
type Handler struct {
	Kind *kind.Definition
	// Creates is the action that makes a row; every other one needs it to exist.
	Creates string
	// External reports whether an action needs somebody outside. Such a command is
	// queued, for the role worker; nil means that none does.
	External func(action string) bool
	// Attrs gives the attributes for a decision about the command; row is nil
	// when there is none, not yet or no longer.
	Attrs func(row *kind.Row, c *events.Command) (map[string]any, error)
	// Apply gives the row after the command, nil when it is deleted. Errors of
	// pkg/fault reject the command; any other fails it.
	Apply func(row *kind.Row, c *events.Command) (*kind.Row, error)

	perTenant int // of AtMost, 0 for no limit
}

// CRUD handles create, update, delete and the kind's own actions.
func CRUD(d *kind.Definition) Handler {
	return Handler{
		Kind:    d,
		Creates: kind.ActionCreate,
		Attrs: func(row *kind.Row, c *events.Command) (map[string]any, error) {
			switch {
			case c.Action == kind.ActionCreate:
				r, err := d.Create(c.ResourceID, c.Tenant, c.PrincipalID, c.Body, c.IssuedAt)
				if err != nil {
					return nil, err
				}
				return d.ChangeAttrs(r, c.Changes), nil
			case row == nil:
				return map[string]any{"tenant": c.Tenant}, nil
			case c.Action == kind.ActionUpdate:
				return d.ChangeAttrs(*row, c.Changes), nil
			}
			return d.Attrs(*row), nil
		},
		Apply: func(row *kind.Row, c *events.Command) (*kind.Row, error) {
			var next kind.Row
			var err error
			switch c.Action {
			case kind.ActionCreate:
				if row != nil {
					return nil, fault.Conflict("already-exists", "%s %s exists already", d.Name, c.ResourceID)
				}
				next, err = d.Create(c.ResourceID, c.Tenant, c.PrincipalID, c.Body, c.IssuedAt)
			case kind.ActionUpdate:
				next, err = d.Update(*row, c.Body, c.IssuedAt)
			case kind.ActionDelete:
				return nil, nil
			default:
				next, err = d.Act(*row, c.Action, kind.By{PrincipalID: c.PrincipalID, At: c.IssuedAt, Body: c.Body})
			}
			return &next, err
		},
	}
}

// Directory handles sync, which brings a user's row up to date with what
// Stytch says of them. A sync that changes nothing leaves the version alone, so
// that decisions do not go stale for nothing. One that may be older than the row
// is left to the role worker, who asks Stytch again (user.ErrAskAgain).
func Directory() Handler {
	return Handler{
		Kind:     user.Kind,
		Creates:  user.ActionSync,
		External: user.External,
		Attrs: func(_ *kind.Row, c *events.Command) (map[string]any, error) {
			return map[string]any{"tenant": c.Tenant}, nil
		},
		Apply: func(row *kind.Row, c *events.Command) (*kind.Row, error) {
			if c.Action != user.ActionSync {
				return nil, fmt.Errorf("kind user has no action %q", c.Action)
			}
			var s user.Sync
			if err := json.Unmarshal(c.Body, &s); err != nil {
				return nil, fmt.Errorf("decode sync: %w", err)
			}
			return s.Take(row, c.ResourceID, c.ID, c.IssuedAt)
		},
	}
}
