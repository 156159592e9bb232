// Package tenant is the resource kind tenant: what an installation knows of
// each of its tenants. Who is a member of one stands in the directory
// (pkg/kind/user), not here.
package tenant

import (
	"encoding/json"
	"fmt"
	"regexp"

	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
)

// Tenant is a tenant. Its id and its tenant are its key: it belongs to itself.
type Tenant struct {
	kind.Meta
	Key         string `json:"key" pattern:"^[a-z0-9][a-z0-9-]{0,62}$" maxLength:"63" doc:"As in Writ-Tenant; it never changes"`
	Name        string `json:"name" minLength:"1" maxLength:"200"`
	Description string `json:"description,omitempty" maxLength:"2000"`
}

// Kind registers tenants. Their rows are named by key, not by UUID, so they
// have routes of their own and are not in the registry of kinds. Whoever is in
// the default tenant may come upon all of them.
var Kind = kind.Define[Tenant]("tenant", kind.Search("key", "name"), kind.SeenFrom(user.DefaultTenant))

// Key is what a tenant's key looks like.
var Key = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// ActionMembers is the action of giving and taking memberships.
const ActionMembers = "members"

// Attrs gives the attributes of a tenant for a decision: owner is "" for one
// that does not exist.
func Attrs(key, owner string) map[string]any {
	attrs := map[string]any{"tenant": key}
	if owner != "" {
		attrs["owner_id"] = owner
	}
	return attrs
}

// Create is the body of a create command.
func Create(key, name, description string) (json.RawMessage, error) {
	return json.Marshal(map[string]string{"key": key, "name": name, "description": description})
}

// Check gives an error if the row that a command would leave behind is not the
// one that the command is about.
func Check(r kind.Row, id string) error {
	if t := r.Value.(*Tenant); t.Key != id {
		return fmt.Errorf("tenant %q cannot have the key %q", id, t.Key)
	}
	return nil
}
