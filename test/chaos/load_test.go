package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

// sent is one mutation that a client wants done once: it is repeated under its key until it is answered.
type sent struct {
	method, path, body, key string
	tries                   int
	status                  int
	command                 string // the command that it became
	resource                string
}

// load is many clients that send a mix of everything until they are told to stop.
type load struct {
	s       *outside.Services
	clients [][]*outside.Client // by client, by instance of the api
	seed    uint64
	shared  []string // contacts that all of them change

	answers  atomic.Int64
	reads    atomic.Int64
	refused  atomic.Int64 // 429 and 503
	broken   atomic.Int64 // connections
	slowest  atomic.Int64 // nanoseconds
	mu       sync.Mutex
	sent     []*sent
	problems []string
	running  sync.WaitGroup
}

// longest is the most that a request may take: the api's own 10 s, the 5 s that some ask to wait, and what a process is
// paused or started again for.
const longest = 20 * time.Second

func newLoad(t *testing.T, s *outside.Services, bases []string, seed uint64) *load {
	t.Helper()
	l := &load{s: s, seed: seed}
	for i := range stormClients {
		// Every fourth is an admin, who may approve expenses; JWTs would be too old before the end.
		role := "user"
		if i%4 == 3 {
			role = "admin"
		}
		token := s.SessionToken(t, fmt.Sprintf("storm-%02d@example.com", i), role)
		var of []*outside.Client
		for _, base := range bases {
			of = append(of, outside.NewClient(t, base, token))
		}
		l.clients = append(l.clients, of)
	}
	admin := l.clients[3][0]
	for i := range 6 {
		var c outside.Contact
		admin.Want(t, http.StatusCreated, &c, "POST", "/v1/contacts", fmt.Sprintf(`{"first_name":"Shared","last_name":"%d"}`, i), "Prefer", "wait=10")
		l.shared = append(l.shared, c.ID)
	}
	return l
}

func (l *load) start(ctx context.Context) {
	for i := range l.clients {
		l.running.Go(func() { l.run(ctx, i, rand.New(rand.NewPCG(l.seed, uint64(100+i)))) })
	}
}

// run is one client. What it has begun it finishes after the end, too.
func (l *load) run(ctx context.Context, i int, random *rand.Rand) {
	var contacts, expenses, videos []string // that it made
	for n := 0; ctx.Err() == nil; n++ {
		m := &sent{key: fmt.Sprintf("storm-%d-%d-%d", l.seed, i, n)}
		pick := func(of []string) string { return of[random.IntN(len(of))] }
		keep := func(ids *[]string) { *ids = append(*ids, m.resource) }
		after := func() {}
		switch what := random.IntN(100); {
		case what < 20:
			m.method, m.path, m.body = "POST", "/v1/contacts", fmt.Sprintf(`{"first_name":"Storm","last_name":"%d-%d"}`, i, n)
			after = func() { keep(&contacts) }
		case what < 28:
			m.method, m.path, m.body = "POST", "/v1/videos", fmt.Sprintf(`{"title":"Storm %d-%d"}`, i, n)
			after = func() { keep(&videos) }
		case what < 36:
			m.method, m.path, m.body = "POST", "/v1/expenses", fmt.Sprintf(`{"vendor":"Storm %d-%d","amount":%d}`, i, n, 1+n)
			after = func() { keep(&expenses) }
		case what < 50 && len(contacts) > 0:
			m.method, m.path, m.body = "PATCH", "/v1/contacts/"+pick(contacts), fmt.Sprintf(`{"notes":"own %d"}`, n)
		case what < 60 && i%4 == 3:
			m.method, m.path, m.body = "PATCH", "/v1/contacts/"+pick(l.shared), fmt.Sprintf(`{"notes":"%d-%d"}`, i, n)
		case what < 64 && len(expenses) > 0:
			m.method, m.path, m.body = "PATCH", "/v1/expenses/"+pick(expenses), fmt.Sprintf(`{"amount":%d}`, 1000+n)
		case what < 68 && len(contacts) > 3:
			at := random.IntN(len(contacts))
			m.method, m.path = "DELETE", "/v1/contacts/"+contacts[at]
			contacts = append(contacts[:at], contacts[at+1:]...)
		default:
			l.read(i, []string{"/v1/contacts?limit=10", "/v1/videos?limit=5", "/v1/me", "/v1/contacts/" + pick(l.shared), "/v1/expenses?include=permissions&limit=3"}[random.IntN(5)])
			continue
		}
		// What is created is waited for, or it could not be changed next.
		l.send(i, m, m.method == "POST" || random.IntN(3) == 0)
		if m.status == http.StatusCreated {
			after()
		}
	}
}

// read asks once; the answer must be one of those that an outage allows.
func (l *load) read(i int, path string) {
	a, err := l.try(i, 0, "GET", path, "")
	switch {
	case err != nil:
		l.broken.Add(1)
	case a.Status == http.StatusOK:
		l.reads.Add(1)
	case a.Status == http.StatusServiceUnavailable && a.Header.Get("Retry-After") != "":
		l.refused.Add(1)
	default:
		l.problem("GET %s: %d %s", path, a.Status, a.Body)
	}
}

// send repeats a mutation until it is answered, on one instance of the api and on the other.
func (l *load) send(i int, m *sent, wait bool) {
	headers := []string{"Idempotency-Key", m.key}
	if wait {
		headers = append(headers, "Prefer", "wait=5")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	for pause := 10 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 250*time.Millisecond) {
		m.tries++
		a, err := l.try(i, m.tries, m.method, m.path, m.body, headers...)
		switch {
		case err != nil:
			l.broken.Add(1)
		case a.Status == http.StatusServiceUnavailable && a.Header.Get("Retry-After") != "":
			l.refused.Add(1)
		case a.Status/100 == 2, a.Status == http.StatusNotFound && a.CommandID() != "", a.Status == http.StatusConflict && a.CommandID() != "":
			m.status, m.command, m.resource = a.Status, a.CommandID(), resourceOf(a)
			l.answers.Add(1)
			l.mu.Lock()
			l.sent = append(l.sent, m)
			l.mu.Unlock()
			return
		default:
			l.problem("try %d of %s %s %s: %d %s", m.tries, m.method, m.path, m.body, a.Status, a.Body)
			return
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	l.problem("%s %s was not answered in %d tries", m.method, m.path, m.tries)
}

func (l *load) try(i, n int, method, path, body string, headers ...string) (outside.Answer, error) {
	began := time.Now()
	a, err := l.clients[i][(i+n)%len(l.clients[i])].Try(context.Background(), method, path, body, headers...)
	took := time.Since(began)
	for {
		before := l.slowest.Load()
		if int64(took) <= before || l.slowest.CompareAndSwap(before, int64(took)) {
			break
		}
	}
	if took > longest {
		l.problem("%s %s took %s (%v, %d)", method, path, took.Round(time.Millisecond), err, a.Status)
	}
	return a, err
}

// resourceOf is the id of the resource that an answer is about.
func resourceOf(a outside.Answer) string {
	var body struct {
		ID       string
		Resource struct{ ID string }
	}
	if json.Unmarshal(a.Body, &body) != nil { // 204 has none
		return ""
	}
	if body.Resource.ID != "" {
		return body.Resource.ID
	}
	return body.ID
}

func (l *load) problem(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.problems) < 20 {
		l.problems = append(l.problems, fmt.Sprintf(format, args...))
	}
}

// progress waits until n more mutations have been answered.
func (l *load) progress(t *testing.T, n int64) {
	t.Helper()
	want := l.answers.Load() + n
	testkit.Eventually(t, 2*time.Minute, func() error {
		if have := l.answers.Load(); have < want {
			return fmt.Errorf("%d answers, waiting for %d", have, want)
		}
		return nil
	})
}

// finish waits for the clients, who finish what they have begun.
func (l *load) finish(t *testing.T) {
	t.Helper()
	l.running.Wait()
	for _, p := range l.problems {
		t.Error(p)
	}
}
