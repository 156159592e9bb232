package apply

import (
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/tenant"
)

// Tenants handles create and update of tenants. A tenant's id is its key, and it
// belongs to itself, whoever makes it: policies see the key as its tenant.
func Tenants() Handler {
	h := CRUD(tenant.Kind)
	crud := h.Apply
	h.Attrs = func(row *kind.Row, c *events.Command) (map[string]any, error) {
		if row == nil {
			return tenant.Attrs(c.ResourceID, c.PrincipalID), nil
		}
		return tenant.Attrs(c.ResourceID, row.OwnerID), nil
	}
	h.Apply = func(row *kind.Row, c *events.Command) (*kind.Row, error) {
		if c.Action == kind.ActionDelete {
			return nil, fault.Conflict("not-possible", "tenants are not deleted")
		}
		next, err := crud(row, c)
		if err != nil {
			return nil, err
		}
		if err := tenant.Check(*next, c.ResourceID); err != nil {
			return nil, err
		}
		next.Tenant = c.ResourceID
		return next, nil
	}
	return h
}
