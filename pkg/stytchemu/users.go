package stytchemu

import (
	"net/http"
	"net/mail"
	"strings"

	"github.com/stytchauth/stytch-go/v16/stytch/consumer/users"
)

// parseEmail lowers an address as Stytch does; it must be an address alone.
func parseEmail(s string) (string, error) {
	a, err := mail.ParseAddress(s)
	if err != nil || a.Address != s || a.Name != "" || len(s) > 320 {
		return "", errEmail
	}
	return strings.ToLower(s), nil
}

// newUser makes a user; pending until the first sign-in if so.
func (e *Emulator) newUser(email string, pending bool) *users.User {
	now := e.now()
	u := &users.User{
		UserID:            e.newID("user"),
		Emails:            []users.Email{{EmailID: e.newID("email"), Email: email}},
		Status:            "active",
		Name:              &users.Name{},
		CreatedAt:         &now,
		TrustedMetadata:   map[string]any{},
		UntrustedMetadata: map[string]any{},
	}
	if pending {
		u.Status = "pending"
	}
	return u
}

func (e *Emulator) createUser(r *http.Request) (any, error) {
	in, err := decode[users.CreateParams](r)
	if err != nil {
		return nil, err
	}
	email, err := parseEmail(in.Email)
	if err != nil {
		return nil, err
	}
	u := e.newUser(email, in.CreateUserAsPending)
	u.ExternalID, u.Roles = in.ExternalID, in.Roles
	if in.Name != nil {
		u.Name = in.Name
	}
	if u.TrustedMetadata, err = mergeMetadata(nil, in.TrustedMetadata); err != nil {
		return nil, err
	}
	if u.UntrustedMetadata, err = mergeMetadata(nil, in.UntrustedMetadata); err != nil {
		return nil, err
	}
	if err := e.addUser(u); err != nil {
		return nil, err
	}
	e.changed("create", u.UserID)
	return users.CreateResponse{UserID: u.UserID, EmailID: u.Emails[0].EmailID, Status: u.Status, User: *u}, nil
}

func (e *Emulator) addUser(u *users.User) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, taken := e.state.userByEmail[u.Emails[0].Email]; taken {
		return errDuplicateEmail
	}
	return e.state.commit(e.now(), put("user", u.UserID, u))
}

// user finds a user by id or external id. The caller holds the mutex.
func (e *Emulator) user(id string) (*users.User, error) {
	if u, ok := e.state.users[id]; ok {
		return u, nil
	}
	if strings.HasPrefix(id, "user-"+e.env+"-") {
		return nil, errUser
	}
	for _, u := range e.state.users {
		if u.ExternalID == id && id != "" {
			return u, nil
		}
	}
	return nil, errUserID
}

func (e *Emulator) getUser(r *http.Request) (any, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.user(r.PathValue("id"))
}

func (e *Emulator) updateUser(r *http.Request) (any, error) {
	in, err := decode[users.UpdateParams](r)
	if err != nil {
		return nil, err
	}
	u, err := e.changeUser(r.PathValue("id"), in)
	if err != nil {
		return nil, err
	}
	e.changed("update", u.UserID)
	return users.UpdateResponse{UserID: u.UserID, Emails: u.Emails, User: *u}, nil
}

func (e *Emulator) changeUser(id string, in users.UpdateParams) (*users.User, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	old, err := e.user(id)
	if err != nil {
		return nil, err
	}
	u := *old
	if in.Name != nil {
		u.Name = in.Name
	}
	if in.ExternalID != "" {
		u.ExternalID = in.ExternalID
	}
	if in.Roles != nil {
		u.Roles = *in.Roles
	}
	if u.TrustedMetadata, err = mergeMetadata(old.TrustedMetadata, in.TrustedMetadata); err != nil {
		return nil, err
	}
	if u.UntrustedMetadata, err = mergeMetadata(old.UntrustedMetadata, in.UntrustedMetadata); err != nil {
		return nil, err
	}
	return &u, e.state.commit(e.now(), put("user", u.UserID, &u))
}

// deleteUser also ends the user's sessions and forgets the links.
func (e *Emulator) deleteUser(r *http.Request) (any, error) {
	id, err := e.removeUser(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	e.changed("delete", id)
	return users.DeleteResponse{UserID: id}, nil
}

func (e *Emulator) removeUser(id string) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	u, err := e.user(id)
	if err != nil {
		return "", err
	}
	changes := []change{del("user", u.UserID)}
	for id, s := range e.state.session {
		if s.UserID == u.UserID {
			changes = append(changes, del("session", id))
		}
	}
	for id, l := range e.state.links {
		if l.UserID == u.UserID {
			changes = append(changes, del("link", id))
		}
	}
	return u.UserID, e.state.commit(e.now(), changes...)
}
