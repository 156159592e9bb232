package user

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"github.com/writ-project/writ/pkg/kind"
)

// The actions that change a user at Stytch and then in the directory.
const (
	// ActionCreate makes a user or, where the address is known, sets the name;
	// the body is New. The resource is NewID of the address, because only Stytch
	// gives a user an id; the result is the user.
	ActionCreate = "create"
	// ActionRoles replaces what a user is in one tenant; the body is RolesChange.
	ActionRoles = "roles"
	// ActionBootstrap is the same change, decided under a rule of its own: the
	// first admin, whom WRIT_BOOTSTRAP_ADMIN names.
	ActionBootstrap = "bootstrap"
	// ActionDelete deletes a user and ends the sessions; no body.
	ActionDelete = "delete"
)

// RoleAdmin is the role of those who may change others' roles. Tenant default
// always keeps one.
const RoleAdmin = "admin"

// External reports whether an action on a user needs Stytch. Such a command is
// applied by the role worker, so that a slow Stytch holds up nothing else.
func External(action string) bool {
	switch action {
	case ActionCreate, ActionRoles, ActionBootstrap, ActionDelete:
		return true
	}
	return false
}

// New is the body of a create command.
type New struct {
	Email     string `json:"email"`
	FirstName string `json:"first_name,omitempty"`
	LastName  string `json:"last_name,omitempty"`
}

// RolesChange is the body of a roles command: what the user is in the tenant
// afterwards, in full. Without roles they are no member of it.
type RolesChange struct {
	Tenant string         `json:"tenant"` // "" for DefaultTenant
	Roles  []string       `json:"roles"`
	Attr   map[string]any `json:"attr,omitempty"`
}

// NewID is the resource id of a create command: commands about one address
// have one id and so apply in order. It is short on purpose, so that many
// addresses share one: it stands in the audit log, and must not tell there
// whose address it was made of.
func NewID(email string) string {
	sum := sha256.Sum256([]byte("writ new user\x00" + strings.ToLower(strings.TrimSpace(email))))
	return "new-" + hex.EncodeToString(sum[:2])
}

// Becomes gives the row of a user after a command that was applied at Stytch,
// which now has s. Unlike in Apply the memberships count whatever command the
// row has them of: this one came next.
func (s Sync) Becomes(row *kind.Row, id string, at time.Time) *kind.Row {
	return s.apply(row, id, at, true)
}
