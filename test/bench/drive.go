package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// operation is what a request does.
type operation int

const (
	create operation = iota
	update
	denied // an update of another user's contact
	read
	operations
)

// Each operation's name and the one status that it may be answered with.
var (
	names    = [operations]string{"create", "update", "denied update", "read"}
	expected = [operations]int{http.StatusAccepted, http.StatusAccepted, http.StatusForbidden, http.StatusOK}
)

// newHistogram takes microseconds up to a minute, exact to three digits.
func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, 60_000_000, 3) }

func record(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(d.Microseconds(), 1), 60_000_000)) // never out of range
}

// result is what one drive saw.
type result struct {
	elapsed  time.Duration
	answered [operations]*hdrhistogram.Histogram
	statuses [operations]map[int]int // 0 is a request without an answer
	problem  string                  // the first unexpected answer
}

func newResult() *result {
	r := &result{}
	for op := range operations {
		r.answered[op], r.statuses[op] = newHistogram(), map[int]int{}
	}
	return r
}

func (r *result) add(o *result) {
	for op := range operations {
		r.answered[op].Merge(o.answered[op])
		for status, n := range o.statuses[op] {
			r.statuses[op][status] += n
		}
	}
	if r.problem == "" {
		r.problem = o.problem
	}
}

func (r *result) requests() (n int64) {
	for op := range operations {
		n += r.answered[op].TotalCount()
	}
	return n
}

// commands are the ones that were accepted.
func (r *result) commands() int64 {
	return int64(r.statuses[create][expected[create]] + r.statuses[update][expected[update]])
}

// rows is how many contacts a connection has to itself. It changes them in turn, so that a row is left alone until its
// last change is applied: otherwise the worker would decide again, which is right but not what is measured.
const rows = 32

// lane is one connection's work.
type lane struct {
	user int
	own  []string // ids of contacts that it reads and updates
	next int
	rand *rand.Rand
}

// load is a closed loop: each connection sends its next request when the last one is answered.
type load struct {
	o      options
	url    string
	client *http.Client
	tokens *tokens
	lanes  []*lane
}

// maxUsers is how many users the connections share.
const maxUsers = 8

func newLoad(ctx context.Context, o options, s *stack) (*load, error) {
	n := max(o.connections, 2) // somebody else's contacts are needed
	users := min(n, maxUsers)
	if s.bin == "" {
		users = len(s.given)
	}
	t, err := newTokens(ctx, s, users)
	if err != nil {
		return nil, err
	}
	l := &load{o: o, url: s.url, tokens: t, client: &http.Client{
		Transport: &http.Transport{MaxIdleConns: n, MaxIdleConnsPerHost: n, MaxConnsPerHost: n, DisableCompression: true},
		Timeout:   30 * time.Second,
	}}
	for i := range n {
		l.lanes = append(l.lanes, &lane{user: i % users, rand: rand.New(rand.NewPCG(1, uint64(i)))})
	}
	failed := make([]error, n)
	var seeding sync.WaitGroup
	for i, ln := range l.lanes {
		seeding.Go(func() { failed[i] = l.seed(ctx, ln) })
	}
	seeding.Wait()
	return l, errors.Join(failed...)
}

func (l *load) close() {
	l.client.CloseIdleConnections()
	_ = l.tokens.close() // a failure shows as 401s
}

// seed makes a lane's contacts and waits until they are there.
func (l *load) seed(ctx context.Context, ln *lane) error {
	for range rows {
		status, body, err := l.send(ctx, ln, http.MethodPost, "/v1/contacts", contactJSON(ln.rand), "wait=20")
		if err != nil {
			return err
		}
		var made struct{ ID string }
		if status != http.StatusCreated || json.Unmarshal(body, &made) != nil || made.ID == "" {
			return fmt.Errorf("create a contact: %d %s", status, body)
		}
		ln.own = append(ln.own, made.ID)
	}
	return nil
}

// drive sends requests for a time and waits for the last answers.
func (l *load) drive(ctx context.Context, d time.Duration) (*result, error) {
	start := time.Now()
	parts := make([]*result, l.o.connections)
	var connections sync.WaitGroup
	for i := range parts {
		parts[i] = newResult()
		connections.Go(func() {
			for time.Since(start) < d && ctx.Err() == nil {
				l.one(ctx, i, parts[i])
			}
		})
	}
	connections.Wait()
	all := newResult()
	all.elapsed = time.Since(start)
	for _, p := range parts {
		all.add(p)
	}
	return all, ctx.Err()
}

// one sends one request of the mix and records its answer.
func (l *load) one(ctx context.Context, i int, into *result) {
	ln := l.lanes[i]
	op := l.pick(ln.rand)
	method, path, body := http.MethodPatch, "/v1/contacts/", []byte(nil)
	switch op {
	case create:
		method, path, body = http.MethodPost, "/v1/contacts", contactJSON(ln.rand)
	case update:
		path += ln.own[ln.next%rows]
		ln.next++
		body = patch(ln.rand)
	case denied:
		path += l.other(i).own[ln.rand.IntN(rows)]
		body = patch(ln.rand)
	default:
		method = http.MethodGet
		path += ln.own[ln.rand.IntN(rows)]
	}
	start := time.Now()
	status, answer, err := l.send(ctx, ln, method, path, body, "")
	if ctx.Err() != nil {
		return // we were told to stop: no answer to count
	}
	record(into.answered[op], time.Since(start))
	into.statuses[op][status]++
	if status != expected[op] && into.problem == "" {
		into.problem = fmt.Sprintf("%s: %d %s", names[op], status, bytes.TrimSpace(answer))
		if err != nil {
			into.problem += " " + err.Error()
		}
	}
}

// other finds the next lane of another user.
func (l *load) other(i int) *lane {
	for n := 1; ; n++ {
		if o := l.lanes[(i+n)%len(l.lanes)]; o.user != l.lanes[i].user {
			return o
		}
	}
}

func (l *load) pick(r *rand.Rand) operation {
	sum := 0
	for _, n := range l.o.mix {
		sum += n
	}
	at := r.IntN(sum)
	for op := range operations {
		if at -= l.o.mix[op]; at < 0 {
			return op
		}
	}
	return read
}

func (l *load) send(ctx context.Context, ln *lane, method, path string, body []byte, prefer string) (int, []byte, error) {
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, l.url+path, r)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+l.tokens.of(ln.user))
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if prefer != "" {
		req.Header.Set("Prefer", prefer)
	}
	res, err := l.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	answer, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	return res.StatusCode, answer, errors.Join(err, res.Body.Close())
}

// contactJSON is a new contact, about 300 bytes of JSON.
func contactJSON(r *rand.Rand) []byte {
	n := r.Uint64N(1 << 40)
	return fmt.Appendf(nil, `{"first_name":"First %x","last_name":"Last %x","email":"first.%x@example.com","phone":"+1 555 %07d",`+
		`"company":"Company %d","notes":"Met at the fair of spring %d; wants the long version of the catalogue, by mail and not by phone.","marketing_opt_in":%t}`,
		n, n>>8, n, n%10_000_000, n%1000, 1990+n%36, n%2 == 0)
}

func patch(r *rand.Rand) []byte {
	n := r.Uint64N(1 << 40)
	return fmt.Appendf(nil, `{"phone":"+1 555 %07d","notes":"Called on day %d: not before noon, please."}`, n%10_000_000, n%366)
}
