package signin

import (
	"time"

	"github.com/writ-project/writ/pkg/kind/user"
)

// Account is who somebody is, what they may do, and what was lately decided
// about them.
type Account struct {
	ID        string         `json:"id"`
	Email     string         `json:"email"`
	FirstName string         `json:"first_name,omitempty"`
	LastName  string         `json:"last_name,omitempty"`
	Tenant    string         `json:"tenant" doc:"The tenant that roles, attr, may and decisions are about"`
	Roles     []string       `json:"roles"`
	Attr      map[string]any `json:"attr"`
	// Tenants are all memberships.
	Tenants map[string]user.Membership `json:"tenants"`
	Session AccountSession             `json:"session"`
	May     []AccountKind              `json:"may" doc:"For each kind, what the policies say of its actions"`
	// Decisions are the latest first.
	Decisions []AccountDecision `json:"decisions" doc:"The latest decisions about the user in this tenant, newest first: at most 20, found among the last 4,096 messages of the ledger; without the query plans that tell what one may do"`
	// Looked is how much of the ledger was looked at.
	Looked int `json:"looked_at" doc:"How many of the ledger's messages were looked at for the decisions"`
}

// AccountSession is the session that the request proves.
type AccountSession struct {
	ID        string    `json:"id"`
	ExpiresAt time.Time `json:"expires_at"`
}

// AccountKind is what somebody may do with one kind of resource.
type AccountKind struct {
	Kind    string          `json:"kind"`
	Actions []AccountAction `json:"actions"`
}

// AccountAction is one of a kind's actions.
type AccountAction struct {
	Action string `json:"action"`
	Extent string `json:"extent" enum:"allow,deny,conditional" doc:"conditional: it depends on the resource"`
	// Own and Others tell more where it depends on whose the resource is.
	Own    string `json:"own,omitempty" enum:"allow,deny,conditional" doc:"For the caller's own, where the extent is conditional"`
	Others string `json:"others,omitempty" enum:"allow,deny,conditional" doc:"For somebody else's, where the extent is conditional"`
	// Cerbos is how that came about, in this order.
	Cerbos []AccountCerbos `json:"cerbos" doc:"What Cerbos was asked, and answered: about any resource, and where that depends about one's own and somebody else's"`
}

// AccountCerbos is what Cerbos was asked and what it answered.
type AccountCerbos struct {
	DecisionID string          `json:"decision_id" doc:"The decision as it stands on the ledger"`
	Asked      AccountQuestion `json:"asked"`
	Answered   AccountAnswer   `json:"answered"`
}

// AccountQuestion is a request to Cerbos.
type AccountQuestion struct {
	Principal AccountPrincipal `json:"principal"`
	Action    string           `json:"action"`
	Resource  AccountResource  `json:"resource"`
}

// AccountPrincipal is the caller as Cerbos was told.
type AccountPrincipal struct {
	ID    string         `json:"id"`
	Roles []string       `json:"roles"`
	Attr  map[string]any `json:"attr"`
}

// AccountResource is what Cerbos was told of a resource. The caller may not be
// one to see it, so of most attributes there is only the name.
type AccountResource struct {
	Kind     string         `json:"kind"`
	ID       string         `json:"id,omitempty"`
	Scope    string         `json:"scope,omitempty"`
	Attr     map[string]any `json:"attr" doc:"Attributes whose value is the caller's own: their id, the tenant, what they asked to change"`
	Withheld []string       `json:"withheld,omitempty" doc:"The names of the others that Cerbos was told"`
}

// AccountAnswer is what Cerbos said.
type AccountAnswer struct {
	CallID       string   `json:"call_id,omitempty" doc:"Cerbos' own id of the call"`
	Effect       string   `json:"effect" enum:"allow,deny"`
	Policy       string   `json:"policy,omitempty"`
	Scope        string   `json:"scope,omitempty" doc:"The scope in which it matched"`
	DerivedRoles []string `json:"derived_roles,omitempty" doc:"Where it was allowed"`
	Reason       string   `json:"reason,omitempty"`
	Revision     string   `json:"revision,omitempty" doc:"The digest of the policy files"`
	Filter       any      `json:"filter,omitempty" doc:"The query plan, where Cerbos was asked about all resources of a kind"`
}

// AccountDecision is a decision as the one it is about sees it.
type AccountDecision struct {
	ID         string    `json:"id"`
	At         time.Time `json:"at"`
	Action     string    `json:"action"`
	Kind       string    `json:"kind"`
	ResourceID string    `json:"resource_id,omitempty"`
	Effect     string    `json:"effect" enum:"allow,deny"`
	Reason     string    `json:"reason,omitempty"`
	Policy     string    `json:"policy,omitempty"`
	Stage      string    `json:"stage" enum:"request,apply"`
	Method     string    `json:"method,omitempty"`
	Route      string    `json:"route,omitempty"`
	Remote     string    `json:"remote,omitempty" doc:"Where the request came from"`
	// Cerbos is nil where somebody else asked: what they told is theirs.
	Cerbos *AccountCerbos `json:"cerbos,omitempty" doc:"What Cerbos was asked, and answered; not where somebody else asked"`
	// Asker is who asked about the user, where somebody else did (AuthZEN).
	Asker string `json:"asker,omitempty"`
}
