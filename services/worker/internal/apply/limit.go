package apply

import (
	"context"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/store"
)

// AtMost is h for a kind of which a tenant has at most n resources. One more is
// rejected, whoever decided about it and when: here they become more, one
// transaction after the other.
func AtMost(n int, h Handler) Handler {
	h.perTenant = n
	return h
}

// counts are how many resources of a limited kind tenants have, as far as
// commands of the batch make some.
type counts map[*kind.Definition]map[string]int

// loadCounts counts for the tenants for which items make resources.
func loadCounts(ctx context.Context, tx *store.Tx, items []*item) (counts, error) {
	tenants := map[*kind.Definition][]string{}
	for _, it := range items {
		if it.refused == nil && it.handler.limits(&it.event.Command) {
			tenants[it.handler.Kind] = append(tenants[it.handler.Kind], it.event.Command.Tenant)
		}
	}
	out := counts{}
	for d, names := range tenants {
		var err error
		if out[d], err = tx.Count(ctx, d, names); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// limits reports whether a command makes a resource of a limited kind.
func (h Handler) limits(c *events.Command) bool { return h.perTenant > 0 && c.Action == h.Creates }

// room is the error of a command that makes one more than there may be.
func (n counts) room(h Handler, c *events.Command) error {
	if h.limits(c) && n[h.Kind][c.Tenant] >= h.perTenant {
		return fault.Conflict("too-many-"+h.Kind.Plural, "a tenant has at most %d %s", h.perTenant, h.Kind.Plural)
	}
	return nil
}

// changed counts what a command has made or taken away; rows are nil when there
// is none.
func (n counts) changed(d *kind.Definition, before, after *kind.Row) {
	if before != nil {
		if of := n[d]; of != nil {
			of[before.Tenant]--
		}
	}
	if after != nil {
		if of := n[d]; of != nil {
			of[after.Tenant]++
		}
	}
}
