package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind/user"
)

// demoUser is one of the people that a new local stack knows.
type demoUser struct {
	name, lastName, role string
	attr                 map[string]any
	contacts             []string // JSON bodies
}

var demoUsers = []demoUser{
	{"alice", "Adams", "admin", nil, []string{
		`{"first_name":"Ada","last_name":"Lovelace","email":"ada@example.com","company":"Analytical Engines","marketing_opt_in":true}`}},
	{"sam", "Stone", "user", map[string]any{"region": "eu-east-1"}, []string{
		`{"first_name":"Grace","last_name":"Hopper","email":"grace@example.com","company":"Navy"}`,
		`{"first_name":"Alan","last_name":"Turing","email":"alan@example.com","company":"Bletchley Park","notes":"Prefers long walks"}`,
		`{"first_name":"Edsger","last_name":"Dijkstra","email":"edsger@example.com","is_active":false}`}},
	{"rim", "Reyes", "user", map[string]any{"region": "us-east-1"}, []string{
		`{"first_name":"Barbara","last_name":"Liskov","email":"barbara@example.com","company":"MIT"}`,
		`{"first_name":"Donald","last_name":"Knuth","email":"donald@example.com","phone":"+1 555 0100"}`}},
	{"john", "Jansen", "manager", map[string]any{"region": "eu-east-1"}, nil},
	{"clark", "Chen", "manager", map[string]any{"region": "us-east-1"}, nil},
	{"olive", "Okafor", "auditor", nil, nil},
	{"fiona", "Fischer", "user", map[string]any{"department": "finance"}, []string{
		`{"first_name":"Luca","last_name":"Pacioli","email":"luca@example.com","company":"Summa"}`}},
}

func (u demoUser) email() string { return u.name + "@example.com" }

// welcome makes the demo users, seeds an empty folder and prints what there is
// to know.
func (s *stack) welcome(ctx context.Context, out io.Writer) error {
	id, err := identityClient(ctx, s.local.Mailbox, s.keys)
	if err != nil {
		return err
	}
	defer id.Close()
	marker := filepath.Join(s.data, "seeded")
	_, err = os.Stat(marker)
	fresh := errors.Is(err, os.ErrNotExist)
	for i, u := range demoUsers {
		if fresh {
			if err := s.introduce(ctx, id, u, i); err != nil {
				return fmt.Errorf("seed %s: %w", u.email(), err)
			}
		}
	}
	if fresh {
		if err := writeFile(marker, nil); err != nil {
			return err
		}
	}
	return s.print(ctx, id, out)
}

// introduce makes a demo user and their contacts. After a crash it is done
// again with the same keys, so nothing is there twice.
func (s *stack) introduce(ctx context.Context, id *identity.Client, u demoUser, n int) error {
	found, err := id.UserByEmail(ctx, u.email())
	if fault.Is(err, fault.NotFound) {
		found, err = id.CreateUser(ctx, identity.User{
			Email: u.email(), FirstName: strings.ToUpper(u.name[:1]) + u.name[1:], LastName: u.lastName,
			Tenants: map[string]user.Membership{user.DefaultTenant: {Roles: []string{u.role}, Attr: u.attr}},
		})
	}
	if err != nil {
		return err
	}
	in, err := signIn(ctx, id, found.ID)
	if err != nil {
		return err
	}
	if _, err := call(ctx, http.MethodGet, s.local.API+"/v1/me", in.JWT, nil, nil); err != nil { // the directory's row
		return err
	}
	if !s.cmd.Seed {
		return nil
	}
	for i, body := range u.contacts {
		key := fmt.Sprintf("seed-%d-%d", n, i)
		if _, err := call(ctx, http.MethodPost, s.local.API+"/v1/contacts", in.JWT, []byte(body),
			http.Header{"Idempotency-Key": {key}, "Prefer": {"wait=10"}}); err != nil {
			return err
		}
	}
	return nil
}

// signIn opens a session without a mail: Stytch's embeddable magic links.
func signIn(ctx context.Context, id *identity.Client, userID string) (identity.SignedIn, error) {
	token, err := id.CreateToken(ctx, userID)
	if err != nil {
		return identity.SignedIn{}, err
	}
	return id.AuthenticateMagicLink(ctx, token, "", "")
}

// call asks the API and gives the answer's body; a status over 299 is an error.
func call(ctx context.Context, method, url, token string, body []byte, header http.Header) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return nil, err
	}
	if res.StatusCode > 299 {
		return nil, fmt.Errorf("%s %s: %s: %s", method, url, res.Status, bytes.TrimSpace(answer))
	}
	return answer, nil
}

func (s *stack) print(ctx context.Context, id *identity.Client, out io.Writer) error {
	token := func(name string) (string, error) {
		u, err := id.UserByEmail(ctx, name+"@example.com")
		if err != nil {
			return "", err
		}
		in, err := signIn(ctx, id, u.ID)
		return in.Token, err // the session token: a JWT lives for five minutes only
	}
	sam, err := token("sam")
	if err != nil {
		return err
	}
	rim, err := token("rim")
	if err != nil {
		return err
	}
	contact, err := s.someContact(ctx, sam)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nwrit is ready.\n\nServices")
	for _, row := range [][2]string{
		{"API", s.local.API}, {"docs page", s.local.API + "/docs"}, {"auditor", s.local.Auditor}, {"worker", s.local.Worker},
		{"mailbox", s.local.Mailbox + "/mailbox"}, {"Redis", strings.TrimPrefix(s.local.Redis, "redis://")}, {"NATS", strings.TrimPrefix(s.local.NATS, "nats://")},
	} {
		fmt.Fprintf(w, "  %s\t%s\n", row[0], row[1])
	}
	fmt.Fprintf(w, "\nState\n  folder\t%s\n  policies\t%s\n\nUsers\n", s.data, s.cmd.Cerbos)
	for _, u := range demoUsers {
		var attr []string
		for k, v := range u.attr {
			attr = append(attr, fmt.Sprintf("%s %v", k, v))
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\n", u.email(), u.role, strings.Join(attr, ", "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, port, _ := strings.Cut(strings.TrimPrefix(s.local.Redis, "redis://"), ":")
	_, err = fmt.Fprintf(out, `
Try it: a create that is accepted (sam), an update that is denied (rim), a look at the audit stream
  curl -sS %[1]s/v1/contacts -H 'Authorization: Bearer %[2]s' -H 'Prefer: wait=5' -H 'Content-Type: application/json' -d '{"first_name":"Katherine","last_name":"Johnson"}'
  curl -sS -X PATCH %[1]s/v1/contacts/%[4]s -H 'Authorization: Bearer %[3]s' -H 'Content-Type: application/json' -d '{"notes":"mine now"}'
  %[5]s --data %[6]s audit tail    # or: redis-cli -p %[7]s XRANGE writ:decisions - +

Ctrl-C stops it.
`, s.local.API, sam, rim, contact, os.Args[0], s.data, port)
	return err
}

// someContact finds a contact of sam's for the example, or makes one.
func (s *stack) someContact(ctx context.Context, token string) (string, error) {
	me, err := call(ctx, http.MethodGet, s.local.API+"/v1/me", token, nil, nil)
	if err != nil {
		return "", err
	}
	var who struct {
		Principal struct{ ID string }
	}
	if err := json.Unmarshal(me, &who); err != nil {
		return "", err
	}
	b, err := call(ctx, http.MethodGet, s.local.API+"/v1/contacts?limit=1&owner_id="+who.Principal.ID, token, nil, nil)
	if err != nil {
		return "", err
	}
	var page struct{ Items []struct{ ID string } }
	if err := json.Unmarshal(b, &page); err != nil {
		return "", err
	}
	if len(page.Items) == 0 {
		return "ID", nil // nothing was seeded: a placeholder
	}
	return page.Items[0].ID, nil
}
