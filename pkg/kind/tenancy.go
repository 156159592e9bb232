package kind

import (
	"reflect"
	"slices"
)

// SharedBy says that a row is in every tenant that the field, a map by tenant,
// has a key for; one without keys is in its own tenant, Meta's. The store keeps
// the pairs in the table <plural>_tenants (tenant, id).
func SharedBy(field string) Option {
	return func(d *Definition) { d.shared = field }
}

// SeenFrom says that a row is in its own tenant and in this one, too.
func SeenFrom(tenant string) Option {
	return func(d *Definition) { d.seenFrom = tenant }
}

// Shared reports whether rows may be in several tenants (SharedBy).
func (d *Definition) Shared() bool { return d.shared != "" }

// AllIn reports whether every row of the kind is in the tenant (SeenFrom).
func (d *Definition) AllIn(tenant string) bool { return d.seenFrom != "" && d.seenFrom == tenant }

// Tenants names the tenants that a row is in, sorted; never none.
func (d *Definition) Tenants(r Row) []string {
	if d.shared == "" {
		if d.seenFrom != "" && d.seenFrom != r.Tenant {
			return []string{d.seenFrom, r.Tenant}
		}
		return []string{r.Tenant}
	}
	c, _ := d.Column(d.shared)
	var out []string
	for _, k := range reflect.ValueOf(r.Value).Elem().FieldByIndex(c.index).MapKeys() {
		out = append(out, k.String())
	}
	if len(out) == 0 {
		return []string{r.Tenant}
	}
	slices.Sort(out)
	return out
}

// In reports whether a row is in the tenant.
func (d *Definition) In(r Row, tenant string) bool { return slices.Contains(d.Tenants(r), tenant) }

// checkTenancy panics when the options about tenants do not fit.
func (d *Definition) checkTenancy() {
	if d.shared == "" {
		return
	}
	c, ok := d.Column(d.shared)
	if !ok || c.typ.Kind() != reflect.Map || c.typ.Key().Kind() != reflect.String {
		panic("kind " + d.Name + ": " + d.shared + " is no map by tenant")
	}
}
