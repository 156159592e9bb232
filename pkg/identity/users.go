package identity

import (
	"context"
	"strings"

	"github.com/stytchauth/stytch-go/v16/stytch/consumer/users"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind/user"
)

// User is a user as Stytch has it.
type User struct {
	ID    string // user-test-<uuid>
	Email string // the first one
	// EmailVerified says that the user has proven that the address is theirs. Who
	// signed in by another way than a mailed link may not have.
	EmailVerified bool
	FirstName     string
	LastName      string
	// Tenants are the memberships in trusted_metadata, by tenant.
	Tenants map[string]user.Membership
	// RolesCommand is the id of the command that wrote Tenants last, "" if none did.
	RolesCommand string
}

// Update changes a user; nil leaves a part as it is.
type Update struct {
	// FirstName and LastName: stytch-go cannot send an empty one.
	FirstName, LastName *string
	// Tenants replaces all memberships, so that repeating it changes nothing.
	Tenants map[string]user.Membership
	// RolesCommand is the id of the command that replaces them. Without one the
	// change counts as made to what the last command left.
	RolesCommand string
}

// User finds a user by id. Errors: fault.NotFound, fault.Unavailable, and
// fault.Internal for trusted_metadata that cannot be read.
func (c *Client) User(ctx context.Context, id string) (User, error) {
	if err := checkUserID(id); err != nil {
		return User{}, err
	}
	res, err := call(ctx, c.credentials, "get user "+id, func(ctx context.Context) (*users.GetResponse, error) {
		return c.api.Users.Get(ctx, &users.GetParams{UserID: id})
	})
	if err != nil {
		return User{}, missing(err, id)
	}
	return userFrom(&users.User{UserID: res.UserID, Emails: res.Emails, Name: res.Name, TrustedMetadata: res.TrustedMetadata})
}

// UserByEmail finds a user by address, whatever its case. Stytch allows 150
// such searches a minute: not for sign-in. Errors as for User.
func (c *Client) UserByEmail(ctx context.Context, email string) (User, error) {
	email = strings.ToLower(email)
	params := &users.SearchParams{Limit: 2, Query: &users.SearchUsersQuery{
		Operator: users.SearchUsersQueryOperatorAND,
		Operands: []map[string]any{{"filter_name": "email_address", "filter_value": []string{email}}},
	}}
	res, err := call(ctx, c.credentials, "find user by e-mail", func(ctx context.Context) (*users.SearchResponse, error) {
		return c.api.Users.Search(ctx, params)
	})
	if err != nil {
		return User{}, err
	}
	for i := range res.Results {
		for _, m := range res.Results[i].Emails {
			if strings.EqualFold(m.Email, email) {
				return userFrom(&res.Results[i])
			}
		}
	}
	return User{}, fault.New(fault.NotFound, "not-found", "there is no user with this e-mail address")
}

// CreateUser makes a user of u; u.ID is not used. Errors: fault.KindConflict
// with the code duplicate-email, fault.Invalid, fault.Unavailable. After the
// last it may have been made all the same: ask UserByEmail before trying again.
func (c *Client) CreateUser(ctx context.Context, u User) (User, error) {
	params := &users.CreateParams{
		Email: u.Email, Name: &users.Name{FirstName: u.FirstName, LastName: u.LastName},
		TrustedMetadata: EncodeMetadata(u.Tenants, u.RolesCommand),
	}
	for k, v := range params.TrustedMetadata {
		if v == nil {
			delete(params.TrustedMetadata, k)
		}
	}
	res, err := call(ctx, c.credentials, "create user", func(ctx context.Context) (*users.CreateResponse, error) {
		return c.api.Users.Create(ctx, params)
	})
	if err != nil {
		return User{}, err
	}
	return userFrom(&res.User)
}

// UpdateUser changes a user and gives what it is then. It can be repeated.
// Errors: fault.NotFound, fault.Invalid (memberships over 4 KB),
// fault.Unavailable.
func (c *Client) UpdateUser(ctx context.Context, id string, up Update) (User, error) {
	if err := checkUserID(id); err != nil {
		return User{}, err
	}
	params := &users.UpdateParams{UserID: id}
	if up.FirstName != nil || up.LastName != nil {
		// Stytch does not say whether half a name replaces the whole one.
		name, err := c.wholeName(ctx, id, up)
		if err != nil {
			return User{}, err
		}
		params.Name = name
	}
	if up.Tenants != nil {
		params.TrustedMetadata = EncodeMetadata(up.Tenants, up.RolesCommand)
	}
	res, err := call(ctx, c.credentials, "update user "+id, func(ctx context.Context) (*users.UpdateResponse, error) {
		return c.api.Users.Update(ctx, params)
	})
	if err != nil {
		return User{}, missing(err, id)
	}
	return userFrom(&res.User)
}

func (c *Client) wholeName(ctx context.Context, id string, up Update) (*users.Name, error) {
	res, err := call(ctx, c.credentials, "get user "+id, func(ctx context.Context) (*users.GetResponse, error) {
		return c.api.Users.Get(ctx, &users.GetParams{UserID: id})
	})
	if err != nil {
		return nil, missing(err, id)
	}
	name := &users.Name{}
	if res.Name != nil {
		*name = *res.Name
	}
	if up.FirstName != nil {
		name.FirstName = *up.FirstName
	}
	if up.LastName != nil {
		name.LastName = *up.LastName
	}
	return name, nil
}

// DeleteUser deletes a user, with the sessions. One that does not exist is
// fault.NotFound.
func (c *Client) DeleteUser(ctx context.Context, id string) error {
	if err := checkUserID(id); err != nil {
		return err
	}
	_, err := call(ctx, c.credentials, "delete user "+id, func(ctx context.Context) (*users.DeleteResponse, error) {
		return c.api.Users.Delete(ctx, &users.DeleteParams{UserID: id})
	})
	if err != nil {
		return missing(err, id)
	}
	of := func(_ digest, s Session) bool { return s.UserID == id }
	c.verified.dropIf(of)
	c.opaque.dropIf(of)
	return nil
}

// checkUserID keeps an empty id from becoming another route of the API.
func checkUserID(id string) error {
	if id == "" || len(id) > 200 {
		return fault.Missing("user", id[:min(len(id), 200)])
	}
	return nil
}

// missing words what Stytch says of an id that it does not know, or that is
// none of its.
func missing(err error, id string) error {
	if fault.Is(err, fault.NotFound) || code(err) == "invalid-user-id" {
		out := fault.Missing("user", id)
		out.Err = err
		return out
	}
	return err
}

func userFrom(u *users.User) (User, error) {
	if u.UserID == "" {
		return User{}, unreadable("read user")
	}
	tenants, err := DecodeMetadata(u.TrustedMetadata)
	if err != nil {
		out := fault.New(fault.Internal, "unreadable-metadata", "the memberships of user %s cannot be read", u.UserID)
		out.Err = err
		return User{}, out
	}
	out := User{ID: u.UserID, Tenants: tenants, RolesCommand: commandIn(u.TrustedMetadata)}
	if len(u.Emails) > 0 {
		out.Email, out.EmailVerified = u.Emails[0].Email, u.Emails[0].Verified
	}
	if u.Name != nil {
		out.FirstName, out.LastName = u.Name.FirstName, u.Name.LastName
	}
	return out, nil
}
