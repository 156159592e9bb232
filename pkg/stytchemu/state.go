package stytchemu

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stytchauth/stytch-go/v16/stytch/consumer/sessions"
	"github.com/stytchauth/stytch-go/v16/stytch/consumer/users"
)

const (
	maxMail  = 200    // mails that the mailbox keeps
	maxLinks = 10_000 // links that wait to be clicked; the oldest give way
	// rewriteAfter is how many lines the journal may have more than objects.
	rewriteAfter = 20_000
	sweepEvery   = time.Minute
)

// session is a session with its opaque token.
type session struct {
	sessions.Session
	Token string `json:"token"`
}

// link is a magic link that waits to be clicked.
type link struct {
	Token     string    `json:"token"`
	UserID    string    `json:"user_id"`
	Email     string    `json:"email,omitempty"` // "" for an embeddable one
	Challenge string    `json:"challenge,omitempty"`
	SentAt    time.Time `json:"sent_at"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Mail is a sent link as the mailbox shows it, newest first.
type Mail struct {
	Seq    int64     `json:"seq"` // counts the mails ever sent
	To     string    `json:"to"`
	URL    string    `json:"url"` // the link to click
	SentAt time.Time `json:"sent_at"`
}

// state is everything that survives a restart, with the indexes that calls
// need. The Emulator's mutex guards it; values are replaced, never changed.
type state struct {
	journal *journal // nil in memory
	closed  bool
	keys    map[string]json.RawMessage
	users   map[string]*users.User
	session map[string]*session
	links   map[string]*link
	mail    map[string]*Mail

	userByEmail    map[string]string
	sessionByToken map[string]string
	lastMail       int64
	swept          time.Time
}

func openState(dir string, now time.Time) (*state, error) {
	s := &state{
		keys: map[string]json.RawMessage{}, users: map[string]*users.User{}, session: map[string]*session{},
		links: map[string]*link{}, mail: map[string]*Mail{},
		userByEmail: map[string]string{}, sessionByToken: map[string]string{}, swept: now,
	}
	if dir == "" {
		return s, nil
	}
	j, err := openJournal(dir, s.apply)
	if err != nil {
		return nil, err
	}
	s.journal = j
	s.drop(now)
	if err := j.rewrite(s.live()); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *state) close() error {
	if s.journal == nil || s.closed {
		return nil
	}
	s.closed = true
	return s.journal.file.Close()
}

// put and del make changes for commit.
func put(kind, id string, value any) change {
	raw, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("stytchemu: encode %s: %v", kind, err)) // a defect: the types are ours
	}
	return change{Kind: kind, ID: id, Value: raw}
}

func del(kind, id string) change { return change{Kind: kind, ID: id} }

// commit makes the changes durable and then visible, all or none.
func (s *state) commit(now time.Time, changes ...change) error {
	if s.closed {
		return errors.New("stytchemu: closed")
	}
	if s.journal != nil {
		if err := s.journal.append(changes); err != nil {
			return err
		}
	}
	for _, c := range changes {
		if err := s.apply(c); err != nil {
			return err
		}
	}
	if now.Sub(s.swept) >= sweepEvery || len(s.links) > maxLinks || len(s.mail) > 2*maxMail {
		s.drop(now)
	}
	if s.journal != nil && s.journal.lines > s.objects()+rewriteAfter {
		return s.journal.rewrite(s.live())
	}
	return nil
}

func (s *state) objects() int {
	return len(s.keys) + len(s.users) + len(s.session) + len(s.links) + len(s.mail)
}

// drop forgets what has expired or is too much. It is not written down: the
// next start or rewrite comes to the same end.
func (s *state) drop(now time.Time) {
	s.swept = now
	for id, x := range s.session {
		if !now.Before(*x.ExpiresAt) {
			delete(s.session, id)
			delete(s.sessionByToken, x.Token)
		}
	}
	maps.DeleteFunc(s.links, func(_ string, l *link) bool { return !now.Before(l.ExpiresAt) })
	if over := len(s.links) - maxLinks; over > 0 {
		oldest := slices.SortedFunc(maps.Values(s.links), func(a, b *link) int { return a.SentAt.Compare(b.SentAt) })
		for _, l := range oldest[:over] {
			delete(s.links, l.Token)
		}
	}
	maps.DeleteFunc(s.mail, func(_ string, m *Mail) bool { return m.Seq <= s.lastMail-maxMail })
}

// live gives every object as a change, in an order that does not vary.
func (s *state) live() []change {
	var out []change
	for id, v := range s.keys {
		out = append(out, change{Kind: "key", ID: id, Value: v})
	}
	for id, v := range s.users {
		out = append(out, put("user", id, v))
	}
	for id, v := range s.session {
		out = append(out, put("session", id, v))
	}
	for id, v := range s.links {
		out = append(out, put("link", id, v))
	}
	for id, v := range s.mail {
		out = append(out, put("mail", id, v))
	}
	slices.SortFunc(out, func(a, b change) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.ID, b.ID))
	})
	return out
}

func (s *state) apply(c change) error {
	switch c.Kind {
	case "key":
		s.keys[c.ID] = c.Value
		return nil
	case "user":
		return s.applyUser(c)
	case "session":
		return s.applySession(c)
	case "link":
		return set(s.links, c)
	case "mail":
		if err := set(s.mail, c); err != nil {
			return err
		}
		if m, ok := s.mail[c.ID]; ok {
			s.lastMail = max(s.lastMail, m.Seq)
		}
		return nil
	}
	return fmt.Errorf("unknown kind of object")
}

func (s *state) applyUser(c change) error {
	if old, ok := s.users[c.ID]; ok {
		for _, m := range old.Emails {
			delete(s.userByEmail, m.Email)
		}
	}
	if err := set(s.users, c); err != nil {
		return err
	}
	if u, ok := s.users[c.ID]; ok {
		for _, m := range u.Emails {
			s.userByEmail[m.Email] = c.ID
		}
	}
	return nil
}

func (s *state) applySession(c change) error {
	if old, ok := s.session[c.ID]; ok {
		delete(s.sessionByToken, old.Token)
	}
	if err := set(s.session, c); err != nil {
		return err
	}
	if x, ok := s.session[c.ID]; ok {
		if x.ExpiresAt == nil {
			return errors.New("a session without an end")
		}
		s.sessionByToken[x.Token] = c.ID
	}
	return nil
}

func set[T any](m map[string]*T, c change) error {
	if c.Value == nil {
		delete(m, c.ID)
		return nil
	}
	v := new(T)
	if err := json.Unmarshal(c.Value, v); err != nil {
		return err
	}
	m[c.ID] = v
	return nil
}
