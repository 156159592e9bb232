package authz

import "github.com/writ-project/writ/pkg/kind/user"

// TenantScope is the scope of a tenant's own policies. Where a tenant has none
// for a kind, Cerbos falls back to the root policy (lenient scope search).
func TenantScope(tenant string) string {
	if tenant == user.DefaultTenant {
		return ""
	}
	return tenant
}
