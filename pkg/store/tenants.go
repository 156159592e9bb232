package store

import (
	"slices"

	"github.com/writ-project/writ/pkg/kind"
)

// within is the condition that a row is in the tenant, with its arguments.
//
// A page of a kind whose rows are in several tenants costs all rows of the
// tenant: which they are stands in a table of its own, and their order in this.
func (t *table) within(def *kind.Definition, tenant string) (string, []any) {
	switch {
	case def.AllIn(tenant):
		return "TRUE", nil
	case def.Shared():
		return `"id" IN (SELECT "id" FROM ` + t.members.name + ` WHERE "tenant" = ?)`, []any{tenant}
	}
	return `"tenant" = ?`, []any{tenant}
}

// pair is a row of the table that says which tenants a row is in.
type pair struct{ tenant, id string }

// putTenants replaces what the table says of the rows.
func (s *Store) putTenants(def *kind.Definition, rows []kind.Row) ([]operation, error) {
	members := s.table(def).members
	var pairs []pair
	ids := make([]string, len(rows))
	for i, r := range rows {
		ids[i] = r.ID
		for _, tenant := range def.Tenants(r) {
			pairs = append(pairs, pair{tenant, r.ID})
		}
	}
	slices.Sort(ids)
	inserts, err := inserting(s, pairs, func(p pair) []any { return []any{p.tenant, p.id} }, members.insertRows, members, nil)
	return append(s.byID(members.deleteRows, ids, nil), inserts...), err
}
