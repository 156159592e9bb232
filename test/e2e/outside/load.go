package outside

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
)

// Create is one contact that a client wants to exist once, and what the client was told.
type Create struct {
	try
	Mark string // the contact's last name, unique
	Done bool   // 201: the answer has the contact
}

// NewCreates makes n creates; most have a key, some wait.
func NewCreates(random *rand.Rand, mark string, n int) []*Create {
	all := make([]*Create, n)
	for i := range all {
		c := &Create{Mark: fmt.Sprintf("%s-%05d", mark, i)}
		c.Wait = random.IntN(5) < 2
		if random.IntN(5) < 3 {
			c.Key = fmt.Sprintf("key-%s-%d", c.Mark, random.Uint64())
		}
		all[i] = c
	}
	return all
}

func (c *Create) state() *try { return &c.try }

func (c *Create) request() (method, path, body string) {
	return http.MethodPost, "/v1/contacts", `{"first_name":"Load","last_name":"` + c.Mark + `"}`
}

func (c *Create) success(a Answer) (contactID string) {
	var contact Contact
	if json.Unmarshal(a.Body, &contact) == nil {
		c.Done = true
	}
	return contact.ID
}

// Tally is how the creates ended.
type Tally struct {
	Answered, Done, Unanswered int // by the clients' knowledge
	Contacts                   int // that exist
	Surprises                  int // of them, those that were never answered: sent without a key, then the connection broke
	Applied                    int // commands that their /v1/commands/{id} calls applied
}

// Check waits until all is applied and then compares what the clients were told with what there is: what was answered is
// there once, at version 1, its command applied; everything else is there at most once; and what has a key is answered.
func Check(t testing.TB, s *Stack, c *Client, creates []*Create) Tally {
	t.Helper()
	outcomes := Settled(t, s, time.Minute)
	marks := map[string][]Contact{}
	var tally Tally
	for _, contact := range c.All(t, "owner_id="+c.Me(t).Principal.ID) {
		marks[contact.LastName] = append(marks[contact.LastName], contact)
		tally.Contacts++
	}
	expected := 0
	for _, create := range creates {
		found := marks[create.Mark]
		expected += len(found)
		switch {
		case len(found) > 1:
			t.Errorf("%s is there %d times: %+v", create.Mark, len(found), found)
		case !create.Answered && create.Key != "":
			t.Errorf("%s has a key and was never answered in %d tries", create.Mark, create.Tries)
		case !create.Answered:
			tally.Unanswered++
			tally.Surprises += len(found)
		case len(found) == 0:
			t.Errorf("%s was accepted as command %s and is not there", create.Mark, create.CommandID)
		case found[0].ID != create.ContactID || found[0].Version != 1:
			t.Errorf("%s is %s at version %d, accepted as %s", create.Mark, found[0].ID, found[0].Version, create.ContactID)
		}
		if o := outcomes[create.CommandID]; create.Answered && (o.Status != events.StatusApplied || o.Version != 1 || o.ResourceID != create.ContactID) {
			t.Errorf("%s: the outcome of command %s on the ledger is %+v", create.Mark, create.CommandID, o)
		}
		if create.Answered {
			tally.Answered++
		}
		if create.Done {
			tally.Done++
		}
	}
	if expected != tally.Contacts {
		t.Errorf("%d contacts, %d of them were asked for", tally.Contacts, expected)
	}
	tally.Applied = checkCommands(t, c, creates)
	return tally
}

// checkCommands asks the API about every command that was accepted.
func checkCommands(t testing.TB, c *Client, creates []*Create) (applied int) {
	t.Helper()
	var count atomic.Int64
	var asking sync.WaitGroup
	slots := make(chan struct{}, 32)
	for _, create := range creates {
		if !create.Answered {
			continue
		}
		slots <- struct{}{}
		asking.Go(func() {
			defer func() { <-slots }()
			var command Command
			a, err := c.Try(t.Context(), http.MethodGet, "/v1/commands/"+create.CommandID, "")
			if err == nil {
				err = json.Unmarshal(a.Body, &command)
			}
			if err != nil || a.Status != http.StatusOK || command.Status != "applied" || command.Version != 1 || command.Resource.ID != create.ContactID {
				t.Errorf("%s: command %s: %v %d %s", create.Mark, create.CommandID, err, a.Status, a.Body)
				return
			}
			count.Add(1)
		})
	}
	asking.Wait()
	return int(count.Load())
}
