package outside

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
)

// Update is one change of a contact's notes that a client wants once.
type Update struct {
	try
	Of, Notes string
}

func (u *Update) state() *try { return &u.try }

func (u *Update) request() (method, path, body string) {
	return http.MethodPatch, "/v1/contacts/" + u.Of, `{"notes":"` + u.Notes + `"}`
}

func (u *Update) success(a Answer) (contactID string) {
	var contact Contact
	if json.Unmarshal(a.Body, &contact) != nil || contact.Notes != u.Notes {
		return "" // not the contact as it was after this very change
	}
	return contact.ID
}

// NewUpdates makes n changes, with keys, of contacts that exist.
func NewUpdates(random *rand.Rand, contacts []string, n int) []*Update {
	all := make([]*Update, n)
	for i := range all {
		u := &Update{Of: contacts[random.IntN(len(contacts))], Notes: fmt.Sprintf("change %d", i)}
		u.Wait, u.Key = random.IntN(4) == 0, fmt.Sprintf("update-%d-%d", i, random.Uint64())
		all[i] = u
	}
	return all
}

// CheckUpdates waits until all is applied. Then each update must be on the ledger and applied once, in the ledger's
// order (retried it may stand there again, which does nothing): the n-th makes version n+1, and the contact is what the last one made of it.
func CheckUpdates(t testing.TB, s *Stack, c *Client, updates []*Update) {
	t.Helper()
	outcomes := Settled(t, s, time.Minute)
	wanted := map[string]*Update{}
	for _, u := range updates {
		if !u.Answered {
			t.Errorf("%s of %s was not answered in %d tries", u.Notes, u.Of, u.Tries)
			continue
		}
		wanted[u.CommandID] = u
	}
	version, notes, found := map[string]int64{}, map[string]string{}, map[string]bool{}
	for _, r := range Ledger(t, s.NATS) {
		if r.Event.Type != events.TypeWrit || r.Event.Command.Action != "update" {
			continue
		}
		command := r.Event.Command
		u := wanted[command.ID]
		if u == nil {
			t.Errorf("command %s at %d: nobody has sent it", command.ID, r.Address)
			continue
		}
		if found[command.ID] {
			continue
		}
		found[command.ID] = true
		if version[u.Of] == 0 {
			version[u.Of] = 1
		}
		version[u.Of]++
		notes[u.Of] = u.Notes
		if o := outcomes[command.ID]; o.Status != events.StatusApplied || o.Version != version[u.Of] || o.ResourceID != u.Of {
			t.Errorf("%s of %s at %d should make version %d: %+v", u.Notes, u.Of, r.Address, version[u.Of], o)
		}
	}
	if len(found) != len(wanted) {
		t.Errorf("%d of %d updates are on the ledger", len(found), len(wanted))
	}
	for id, want := range version {
		var contact Contact
		if c.Want(t, http.StatusOK, &contact, "GET", "/v1/contacts/"+id, ""); contact.Version != want || contact.Notes != notes[id] {
			t.Errorf("contact %s is %q at version %d, want %q at %d", id, contact.Notes, contact.Version, notes[id], want)
		}
	}
}
