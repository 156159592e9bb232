package outside

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Mutation is a request of which a client wants one effect: a [Create] or an [Update].
type Mutation interface {
	state() *try
	request() (method, path, body string)
	// success reads an answer that has the contact, and gives the contact's id.
	success(a Answer) (contactID string)
}

// try is what a client knows of a mutation.
type try struct {
	Key  string // idempotency key; "" for none, then it is never sent twice
	Wait bool   // Prefer: wait

	Tries    int
	Answered bool // with success: 200, 201 or 202
	// CommandID and ContactID are from the first answer; later ones must agree.
	CommandID, ContactID string
}

// Sent is a mutation that was sent otherwise and answered with 202.
func Sent(mark string, a Accepted) *Create {
	return &Create{Mark: mark, try: try{Tries: 1, Answered: true, CommandID: a.Command.ID, ContactID: a.Resource.ID}}
}

// Sending says how requests are sent.
type Sending struct {
	Workers int
	// At is the number of answers after which Then is called, once, while the other requests go on.
	At   int
	Then func()
	// Retry repeats what has a key until it is answered. Without it everything is tried once, and nothing more is sent on a
	// connection that breaks, nor when Then has returned.
	Retry bool
}

// Send sends the mutations that have no answer yet, those without a key only if they have never been sent.
func Send[M Mutation](t testing.TB, c *Client, mutations []M, how Sending) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	jobs := make(chan M)
	stop := make(chan struct{})
	reached := make(chan struct{})
	var answers atomic.Int64
	var workers, giver sync.WaitGroup
	for range how.Workers {
		workers.Go(func() {
			for job := range jobs {
				for pause := 10 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
					result, err := send(ctx, c, job)
					if err != nil {
						t.Error(err) // an answer that must not be
					}
					if result == success && answers.Add(1) == int64(how.At) {
						close(reached)
					}
					if result == broken && !how.Retry {
						return
					}
					if result == success || err != nil || !how.Retry || job.state().Key == "" || ctx.Err() != nil {
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
	giver.Go(func() {
		defer close(jobs)
		for _, job := range mutations {
			if s := job.state(); s.Answered || s.Key == "" && s.Tries > 0 {
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
	})
	finished := make(chan struct{})
	go func() {
		workers.Wait()
		close(finished)
	}()
	defer func() {
		close(stop)
		<-finished
		giver.Wait()
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
	success result = iota // 200, 201 or 202
	refused               // 503, or an answer that must not be
	broken                // no answer: the connection broke
)

// send sends a mutation once. The error is for an answer that must not be.
func send(ctx context.Context, client *Client, m Mutation) (result, error) {
	c := m.state()
	c.Tries++
	var headers []string
	if c.Key != "" {
		headers = append(headers, "Idempotency-Key", c.Key)
	}
	if c.Wait {
		headers = append(headers, "Prefer", "wait=10")
	}
	method, path, body := m.request()
	a, err := client.Try(ctx, method, path, body, headers...)
	if err != nil {
		return broken, nil //nolint:nilerr // the process is being killed
	}
	command, contact := a.CommandID(), ""
	switch a.Status {
	case http.StatusOK, http.StatusCreated:
		contact = m.success(a)
	case http.StatusAccepted:
		var accepted Accepted
		if err := json.Unmarshal(a.Body, &accepted); err != nil || accepted.Command.ID != command {
			return refused, fmt.Errorf("%s %s: 202 of command %s with %s (%v)", method, path, command, a.Body, err)
		}
		contact = accepted.Resource.ID
	case http.StatusServiceUnavailable:
		if a.Header.Get("Retry-After") == "" {
			return refused, fmt.Errorf("%s %s: 503 without Retry-After: %s", method, path, a.Body)
		}
		return refused, nil
	default:
		return refused, fmt.Errorf("%s %s: %d %s", method, path, a.Status, a.Body)
	}
	if command == "" || contact == "" {
		return refused, fmt.Errorf("%s %s: %d names no command or no contact: %v %s", method, path, a.Status, a.Header, a.Body)
	}
	if c.Answered && (c.CommandID != command || c.ContactID != contact) {
		return refused, fmt.Errorf("command %s was about %s, its retry %s is about %s", c.CommandID, c.ContactID, command, contact)
	}
	c.Answered, c.CommandID, c.ContactID = true, command, contact
	return success, nil
}
