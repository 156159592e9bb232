package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/writ-project/writ/pkg/kind"
)

// Count tells how many rows of a kind each of the tenants has. Nobody else is
// told of the same until the end of the transaction, so a limit that is kept by
// it is exact: on PostgreSQL by advisory locks, taken in one order and after
// Positions; on SQLite the whole transaction already excludes it.
func (t *Tx) Count(ctx context.Context, def *kind.Definition, tenants []string) (map[string]int, error) {
	out := make(map[string]int, len(tenants))
	err := error(nil)
	for _, tenant := range slices.Compact(slices.Sorted(slices.Values(tenants))) {
		if !storable(tenant) {
			continue // no row has such a tenant
		}
		var n int
		if n, err = t.count(ctx, def, tenant); err != nil {
			break
		}
		out[tenant] = n
	}
	return out, t.keep(ctx, "count "+def.Plural, err)
}

func (t *Tx) count(ctx context.Context, def *kind.Definition, tenant string) (n int, err error) {
	if t.store.dialect == Postgres {
		name := fmt.Sprintf("writ count %s %s", def.Plural, tenant)
		err := t.query(ctx, "SELECT pg_advisory_xact_lock(hashtextextended(?, 0))", []any{name}, func(rows resultSet) error {
			return each(rows, func() error { return nil })
		})
		if err != nil {
			return 0, err
		}
	}
	table := t.store.table(def)
	where, args := table.within(def, tenant)
	err = t.query(ctx, "SELECT COUNT(*) FROM "+table.name+" WHERE "+where, args, func(rows resultSet) error {
		return each(rows, func() error { return rows.Scan(&n) })
	})
	return n, err
}
