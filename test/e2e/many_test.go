package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/test/e2e/outside"
)

// oneKeyAtOnce sends requests under one key at the same moment, to every API that there is.
func oneKeyAtOnce(t *testing.T, s *outside.Stack, clients ...*outside.Client) {
	const senders = 16
	send := func(key string, body func(i int) string) []outside.Answer {
		answers := make([]outside.Answer, senders)
		start := make(chan struct{})
		var all sync.WaitGroup
		for i := range senders {
			all.Go(func() {
				<-start
				var err error
				if answers[i], err = clients[i%len(clients)].Try(t.Context(), "POST", "/v1/contacts", body(i), "Idempotency-Key", key, "Prefer", wait); err != nil {
					t.Error(err)
				}
			})
		}
		close(start)
		all.Wait()
		return answers
	}

	same := send("at-once", func(int) string { return `{"first_name":"Once","last_name":"at once"}` })
	for _, a := range same {
		if a.Status != http.StatusCreated || a.CommandID() != same[0].CommandID() || string(a.Body) != string(same[0].Body) {
			t.Errorf("the same request at the same moment: %d %s %s, and %d %s %s", a.Status, a.CommandID(), a.Body, same[0].Status, same[0].CommandID(), same[0].Body)
		}
	}
	others := send("at-odds", func(i int) string { return fmt.Sprintf(`{"first_name":"Odd","last_name":"number %d"}`, i) })
	won := 0
	for _, a := range others {
		switch a.Status {
		case http.StatusCreated:
			won++
		case http.StatusUnprocessableEntity:
		default:
			t.Errorf("another request under the key at the same moment: %d %s", a.Status, a.Body)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d different requests under one key were accepted", won, senders)
	}
	found, me := map[string]int{}, clients[0].Me(t).Principal.ID
	for _, c := range clients[0].All(t, "owner_id="+me) {
		found[c.FirstName]++
	}
	if found["Once"] != 1 || found["Odd"] != 1 {
		t.Errorf("contacts: %v", found)
	}
	// All that was decided is on record: the writ, and for each of the others a decision to create, one to tell what became
	// of the command, or both. Those with another body may be refused before anybody has to decide.
	outside.Settled(t, s, settle)
	decided := 0
	for _, r := range outside.Audit(t, s).Ledger {
		if d := r.Event.Decision; r.Event.Type != events.TypeOutcome && d.Stage == events.StageRequest && d.Principal.ID == me &&
			(d.Action == "create" || d.Resource.Kind == "command") {
			decided++
		}
	}
	if decided < senders+1 || decided > 4*senders {
		t.Errorf("%d decisions on record for %d requests", decided, 2*senders)
	}
}

// TestTwoOfEach runs two instances of each service and stops and kills some of them under load.
func TestTwoOfEach(t *testing.T) {
	s := outside.StartServices(t, "e2e-2")
	worker2, _ := s.Another(t, "worker")
	auditor2, _ := s.Another(t, "auditor")
	api2, url2 := s.Another(t, "api")
	token := s.SignIn(t, "twin@example.com")
	one, two := outside.NewClient(t, s.API, token), outside.NewClient(t, url2, token)
	t.Run("one key at once", func(t *testing.T) { oneKeyAtOnce(t, &s.Stack, one, two) })

	random := rand.New(rand.NewPCG(seed(t), 3))
	load := one.With(s.SignIn(t, "twin.load@example.com"))
	creates := outside.NewCreates(random, "twins", 200)
	outside.Send(t, load, creates, outside.Sending{Workers: 16, Retry: true, At: 30 + random.IntN(100), Then: func() {
		s.WorkerProc.Kill()
		auditor2.Kill()
		s.WorkerProc.Start(t)
		// SIGTERM under load: exit 0 within 10 s.
		for name, process := range map[string]interface {
			Stop(testing.TB, time.Duration) int
		}{"worker": worker2, "auditor": s.AuditorProc, "api": api2} {
			if code := process.Stop(t, 10*time.Second); code != 0 {
				t.Errorf("%s ended with %d", name, code)
			}
		}
		s.AuditorProc.Start(t)
	}})
	outside.Check(t, &s.Stack, load, creates)
	// Another auditor that starts from nothing: Redis has lost everything.
	before := outside.Audit(t, &s.Stack)
	flush(t, s.Redis)
	load.Me(t)
	after := outside.Audit(t, &s.Stack)
	for stream, pair := range map[string][2][]redis.XMessage{
		outside.Decisions: {before.Decisions, after.Decisions}, outside.Outcomes: {before.Outcomes, after.Outcomes},
	} {
		if n := len(pair[0]); n > len(pair[1]) || !reflect.DeepEqual(pair[0], pair[1][:n]) {
			t.Errorf("%s was not rebuilt to the same bytes", stream)
		}
	}
	t.Run("answers under SIGTERM", func(t *testing.T) { drained(t, s, load) })
	settledAndSealed(t, s)
}

// drained stops the api while requests wait in it: each of them is answered.
func drained(t *testing.T, s *outside.Services, client *outside.Client) {
	s.WorkerProc.Pause(t) // so that they wait
	const waiting = 20
	creates := make([]*outside.Create, waiting)
	answers := make(chan error, waiting)
	before := events.End(outside.Last(t, s.NATS, events.StreamLedger))
	for i := range creates {
		creates[i] = &outside.Create{Mark: fmt.Sprintf("drained-%d", i)}
		go func() {
			a, err := client.Try(context.Background(), "POST", "/v1/contacts", `{"first_name":"Load","last_name":"`+creates[i].Mark+`"}`, "Prefer", "wait=30")
			if err == nil && a.Status != http.StatusAccepted && a.Status != http.StatusCreated {
				err = errors.New(string(a.Body))
			}
			answers <- err
		}()
	}
	outside.Until(t, func() error {
		if n := len(outside.LedgerAfter(t, s.NATS, before)); n < waiting {
			return fmt.Errorf("%d of %d are on the ledger", n, waiting)
		}
		return nil
	})
	if code := s.APIProc.Stop(t, 10*time.Second); code != 0 {
		t.Errorf("the api ended with %d", code)
	}
	for range waiting {
		if err := <-answers; err != nil {
			t.Errorf("a request that was in progress: %v", err)
		}
	}
	s.WorkerProc.Resume(t)
	s.APIProc.Start(t)
	outside.Settled(t, &s.Stack, settle)
	var names []string
	for _, c := range client.All(t, "q=drained") {
		names = append(names, c.LastName)
	}
	if slices.Sort(names); len(names) != waiting || len(slices.Compact(names)) != waiting {
		t.Errorf("contacts %v", names)
	}
}

func flush(t *testing.T, url string) {
	t.Helper()
	options, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(options)
	if err := errors.Join(client.FlushAll(t.Context()).Err(), client.Close()); err != nil {
		t.Fatal(err)
	}
}

func hasty(t *testing.T, s *outside.Stack, p people) {
	oneKeyAtOnce(t, s, p.owner.With(s.SignIn(t, "hasty@example.com")))
}
