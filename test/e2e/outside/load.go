package outside

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
)

// Create is one contact that a client wants to exist once, and what the client was told.
type Create struct {
	Mark string // the contact's last name, unique
	Key  string // idempotency key; "" for none, then it is never sent twice
	Wait bool   // Prefer: wait

	Tries    int
	Answered bool // 201 or 202
	Done     bool // 201: the answer has the contact
	// CommandID and ContactID are from the first answer; later ones must agree.
	CommandID, ContactID string
}

// NewCreates makes n creates; most have a key, some wait.
func NewCreates(random *rand.Rand, mark string, n int) []*Create {
	all := make([]*Create, n)
	for i := range all {
		c := &Create{Mark: fmt.Sprintf("%s-%05d", mark, i), Wait: random.IntN(5) < 2}
		if random.IntN(5) < 3 {
			c.Key = fmt.Sprintf("key-%s-%d", c.Mark, random.Uint64())
		}
		all[i] = c
	}
	return all
}

// Sending says how creates are sent.
type Sending struct {
	Workers int
	// At is the number of answers after which Then is called, once, while the other requests go on.
	At   int
	Then func()
	// Retry repeats what has a key until it is answered. Without it everything is tried once, and nothing more is sent on a
	// connection that breaks, nor when Then has returned.
	Retry bool
}

// Send sends the creates that have no answer yet, those without a key only if they have never been sent.
func Send(t testing.TB, c *Client, creates []*Create, how Sending) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	jobs := make(chan *Create)
	stop := make(chan struct{})
	reached := make(chan struct{})
	var answers atomic.Int64
	var workers sync.WaitGroup
	for range how.Workers {
		workers.Go(func() {
			for job := range jobs {
				for pause := 10 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
					result, err := job.try(ctx, c)
					if err != nil {
						t.Errorf("create %s: %v", job.Mark, err) // an answer that must not be
					}
					if result == success && answers.Add(1) == int64(how.At) {
						close(reached)
					}
					if result == broken && !how.Retry {
						return
					}
					if result == success || err != nil || !how.Retry || job.Key == "" || ctx.Err() != nil {
						break
					}
					timer := time.NewTimer(pause)
					select {
					case <-timer.C:
					case <-ctx.Done():
						timer.Stop()
					}
				}
			}
		})
	}
	go func() {
		defer close(jobs)
		for _, job := range creates {
			if job.Answered || job.Key == "" && job.Tries > 0 {
				continue
			}
			select {
			case jobs <- job:
			case <-stop:
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	finished := make(chan struct{})
	go func() {
		workers.Wait()
		close(finished)
	}()
	defer func() {
		close(stop)
		<-finished
	}()
	if how.Then == nil {
		<-finished
		return
	}
	select {
	case <-reached:
	case <-finished:
		if answers.Load() < int64(how.At) {
			t.Fatalf("%d answers only, too few to act after %d", answers.Load(), how.At)
		}
	}
	how.Then() // here and not in a goroutine: it may end the test
	if how.Retry {
		<-finished
	}
}

// result is what came of one try.
type result int

const (
	success result = iota // 201 or 202
	refused               // 503, or an answer that must not be
	broken                // no answer: the connection broke
)

// try sends the create. The error is for an answer that must not be.
func (c *Create) try(ctx context.Context, client *Client) (result, error) {
	c.Tries++
	var headers []string
	if c.Key != "" {
		headers = append(headers, "Idempotency-Key", c.Key)
	}
	if c.Wait {
		headers = append(headers, "Prefer", "wait=10")
	}
	a, err := client.Try(ctx, http.MethodPost, "/v1/contacts", `{"first_name":"Load","last_name":"`+c.Mark+`"}`, headers...)
	if err != nil {
		return broken, nil //nolint:nilerr // the process is being killed
	}
	var contact Contact
	var accepted Accepted
	switch a.Status {
	case http.StatusCreated:
		err = json.Unmarshal(a.Body, &contact)
		accepted.Command.ID, accepted.Resource.ID = a.CommandID(), contact.ID
		c.Done = true
	case http.StatusAccepted:
		err = json.Unmarshal(a.Body, &accepted)
	case http.StatusServiceUnavailable:
		if a.Header.Get("Retry-After") == "" {
			return refused, fmt.Errorf("503 without Retry-After: %s", a.Body)
		}
		return refused, nil
	default:
		return refused, fmt.Errorf("%d %s", a.Status, a.Body)
	}
	if err != nil || accepted.Command.ID == "" || accepted.Resource.ID == "" {
		return refused, fmt.Errorf("cannot read answer %d %s: %w", a.Status, a.Body, err)
	}
	if c.Answered && (c.CommandID != accepted.Command.ID || c.ContactID != accepted.Resource.ID) {
		return refused, fmt.Errorf("command %s made %s, its retry %s made %s", c.CommandID, c.ContactID, accepted.Command.ID, accepted.Resource.ID)
	}
	c.Answered, c.CommandID, c.ContactID = true, accepted.Command.ID, accepted.Resource.ID
	return success, nil
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

// Ready waits until a service says that it is ready, or, with a dependency named, that it is not because of that one.
func Ready(t testing.TB, url, without string) {
	t.Helper()
	c := NewClient(t, url, "")
	testkit.Eventually(t, 30*time.Second, func() error {
		a, err := c.Try(t.Context(), http.MethodGet, "/readyz?verbose", "")
		if err != nil {
			return err
		}
		switch {
		case without == "" && a.Status == http.StatusOK, without != "" && a.Status == http.StatusServiceUnavailable && bytes.Contains(a.Body, []byte("[-]"+without)):
			return nil
		}
		return fmt.Errorf("%d %s", a.Status, a.Body)
	})
}
