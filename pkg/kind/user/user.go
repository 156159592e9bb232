// Package user is the directory: one row for everybody who can sign in, fed
// from Stytch's trusted_metadata. The api reads roles and attributes from it
// on every request, so that taking a role away counts at once.
package user

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
)

// DefaultTenant is the tenant of a request that names none.
const DefaultTenant = "default"

// Guest is the role of a principal who has no other: Cerbos wants at least one.
const Guest = "guest"

// Membership is what a user is in one tenant.
type Membership struct {
	Roles []string       `json:"roles"`
	Attr  map[string]any `json:"attr,omitempty"`
}

// User is a row of the directory. Its id is Stytch's user id and its version
// is the principal's version in decisions.
type User struct {
	kind.Meta
	Email     string `json:"email"`
	FirstName string `json:"first_name,omitempty"`
	LastName  string `json:"last_name,omitempty"`
	// Tenants are the user's memberships by tenant.
	Tenants map[string]Membership `json:"tenants"`
	// RolesCommand is the id of the command that wrote Tenants last; "" while
	// they are as Stytch had them at first sight.
	RolesCommand string `json:"roles_command,omitempty" readOnly:"true" doc:"The command that changed the roles last"`
	// Synced is the id of the command that last brought the row up to date with
	// Stytch, whether or not that changed anything; "" while none has.
	Synced string `json:"synced,omitempty" readOnly:"true" doc:"The command that was last told what Stytch says"`
}

// Kind is the directory's kind. Its rows change only by commands of their own
// (sync), so it is not in the registry of kinds with CRUD routes.
var Kind = kind.Define[User]("user", kind.Search("email", "first_name", "last_name"), kind.SharedBy("tenants"))

// In gives the user's roles and attributes in a tenant; never nil, and Guest
// where there are none.
func (u *User) In(tenant string) (roles []string, attr map[string]any) {
	m := u.Tenants[tenant]
	if len(m.Roles) == 0 {
		return []string{Guest}, map[string]any{}
	}
	attr = maps.Clone(m.Attr)
	if attr == nil {
		attr = map[string]any{}
	}
	return slices.Clone(m.Roles), attr
}

// Attributes that every principal has beside its own, whatever the directory says.
const (
	AttrTenant  = "tenant"  // the tenant that the request is about
	AttrRequest = "request" // {"ip": …, "time": RFC 3339}: where and when it was made
)

// Principal gives the user as policies see them for a request about a tenant.
// A user without a row (nil) is a guest.
func (u *User) Principal(id, tenant string, from events.RequestInfo, at time.Time) events.Principal {
	p := events.Principal{ID: id, Roles: []string{Guest}, Attr: map[string]any{}}
	if u != nil {
		p.Version = u.Version
		p.Roles, p.Attr = u.In(tenant)
	}
	p.Attr[AttrTenant] = tenant
	p.Attr[AttrRequest] = map[string]any{"ip": from.Remote, "time": at.UTC().Format(time.RFC3339)}
	return p
}

// ActionSync brings a directory row up to date with Stytch.
const ActionSync = "sync"

// Sync is the body of a sync command: what Stytch said of the user.
type Sync struct {
	Email     string                `json:"email"`
	FirstName string                `json:"first_name,omitempty"`
	LastName  string                `json:"last_name,omitempty"`
	Tenants   map[string]Membership `json:"tenants"`
	// RolesCommand is the command that had written Tenants when Stytch was asked.
	RolesCommand string `json:"roles_command,omitempty"`
	// Seen is the row's Synced before Stytch was asked, "" where there was no
	// row; nil from whoever does not tell.
	Seen *string `json:"seen,omitempty"`
	// Gone says that Stytch has no such user any more: the row goes, too.
	Gone bool `json:"gone,omitempty"`
}

// Apply gives the user's row after the sync, nil for none. row is nil for a new user. The
// version counts changes only: a sync that finds the row as it is returns it as it is.
//
// Memberships count only when Stytch and the row have them of the same command:
// else Stytch was asked before a role change, and they are old, or in the middle
// of one, whose command will write the row itself.
func (s Sync) Apply(row *kind.Row, id string, at time.Time) *kind.Row {
	return s.apply(row, id, at, row == nil || row.Value.(*User).RolesCommand == s.RolesCommand)
}

// ErrAskAgain says that a sync may be older than what the row says: another one
// has come between, and which of the two asked Stytch last cannot be told.
var ErrAskAgain = errors.New("another sync came between: Stytch is to be asked again")

// Take is Apply for the sync command of an id, which the row names from then on.
// The error is ErrAskAgain for news that another sync has come before. A sync
// that finds the row as it is tells none, and a user who is gone stays gone.
func (s Sync) Take(row *kind.Row, id, command string, at time.Time) (*kind.Row, error) {
	next := s.Apply(row, id, at)
	if next == nil {
		return nil, nil
	}
	if row != nil && next != row && s.Seen != nil && *s.Seen != row.Value.(*User).Synced {
		return nil, ErrAskAgain
	}
	return Synced(next, command), nil
}

// Synced gives the row with the command that last brought it up to date. That is
// no change that anybody sees: the version stays.
func Synced(row *kind.Row, command string) *kind.Row {
	next := Kind.New()
	u := next.Value.(*User)
	*u = *row.Value.(*User)
	u.Synced = command
	return &next
}

func (s Sync) apply(row *kind.Row, id string, at time.Time, memberships bool) *kind.Row {
	if s.Gone {
		return nil
	}
	next := Kind.New()
	u := next.Value.(*User)
	if row != nil {
		*u = *row.Value.(*User)
	} else {
		u.Meta = kind.Meta{ID: id, Tenant: DefaultTenant, OwnerID: id, CreatedAt: at.UTC().Truncate(time.Microsecond)}
	}
	before := *u
	u.Email, u.FirstName, u.LastName = s.Email, s.FirstName, s.LastName
	if memberships {
		u.Tenants, u.RolesCommand = s.Tenants, s.RolesCommand
	}
	if u.Tenants == nil {
		u.Tenants = map[string]Membership{}
	}
	if row != nil && same(before, *u) {
		return row
	}
	u.Version++
	if at = at.UTC().Truncate(time.Microsecond); at.After(u.UpdatedAt) { // time never runs backwards for a row
		u.UpdatedAt = at
	}
	return &next
}

// same compares users as SQL keeps them: attributes that are empty and
// attributes that are absent are one there.
func same(a, b User) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
