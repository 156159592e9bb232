package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestStreamShowsWhatIsRecorded(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig) { r.limits.beat = 50 * time.Millisecond })
	r.copying()
	_, token := r.person("olive", in(user.DefaultTenant, "auditor"))
	r.record(made(nil)) // before: not shown
	r.covered()
	s := r.follow(t.Context(), "kind=contact&effect=deny", token)
	d := made(func(d *events.Decision) { d.Effect = events.Deny })
	r.record(made(nil), d)
	e := s.event(t, "decision")
	var it item
	must(t, json.Unmarshal(e.data, &it))
	if it.decision(t).ID != d.ID || e.id != it.ID {
		t.Fatalf("%+v %s", e, e.data)
	}
	r.record(made(nil)) // is passed over, and the next heartbeat tells how far
	last := need(r.ledger.Last(t.Context()))(t)
	for {
		e := need(s.next())(t)
		if e.name != "" || !e.comment {
			t.Fatalf("%+v", e)
		}
		if id, err := audit.ParseID(e.id); err == nil && events.SequenceOf(id.Sequence) >= last {
			break
		}
	}
	for query, status := range map[string]int{"to=2100-01-01T00:00:00Z": 422, "effect=no": 422, "tenant=acme": 403} {
		if a := r.get("/v1/decisions/stream?"+query, token); a.status != status {
			t.Errorf("%s: %d", query, a.status)
		}
	}
	for _, id := range []string{"x", "0-0", "-1-1", "9999999999999-999999999"} {
		if a := r.get("/v1/decisions/stream", token, "Last-Event-ID", id); a.status != http.StatusUnprocessableEntity {
			t.Errorf("Last-Event-ID %s: %d", id, a.status)
		}
	}
}

// TestStreamCutOffAHundredTimes disconnects a client at random moments, in the
// middle of events, too: it sees every decision exactly once and in order.
func TestStreamCutOffAHundredTimes(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig) { r.limits.beat = 20 * time.Millisecond })
	r.copying()
	_, token := r.person("olive", in(user.DefaultTenant, "auditor"))
	address := need(url.Parse(r.url))(t).Host
	proxy := testkit.NewProxy(t, address)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	const cuts = 100
	var mu sync.Mutex
	var want []string
	done := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() { // a load that goes on while the client comes and goes
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
			batch := make([]*events.Decision, 1+rand.IntN(40))
			for i := range batch {
				batch[i] = made(func(d *events.Decision) { d.Resource.Kind = []string{"contact", "video"}[rand.IntN(2)] })
			}
			r.record(batch...)
			mu.Lock()
			for _, d := range batch {
				if d.Resource.Kind == "contact" {
					want = append(want, d.ID)
				}
			}
			mu.Unlock()
		}
	})

	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, proxy.Addr())
		},
	}}
	var got []string
	last, streams := "", 0
	// once follows until the connection ends, or everything has come.
	once := func(until func() bool, cutAfter time.Duration) {
		one, stop := context.WithCancel(ctx)
		defer stop()
		headers := []string(nil)
		if last != "" {
			headers = []string{"Last-Event-ID", last}
		}
		res, err := client.Do(r.request(one, "/v1/decisions/stream?kind=contact&from=2020-01-01T00:00:00Z", token, headers...))
		if err != nil {
			return // cut off before the answer
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			b, _ := io.ReadAll(res.Body)
			t.Fatalf("%d %s", res.StatusCode, b)
		}
		streams++
		if cutAfter > 0 {
			cut := time.AfterFunc(cutAfter, proxy.Cut)
			defer cut.Stop()
		}
		s := &sse{res.Body, bufio.NewReader(res.Body)}
		for !until() {
			e, err := s.next()
			if err != nil {
				return
			}
			if e.id != "" {
				last = e.id
			}
			if e.name == "decision" {
				var it item
				must(t, json.Unmarshal(e.data, &it))
				got = append(got, it.decision(t).ID)
			}
		}
	}
	for i := 0; streams < cuts && ctx.Err() == nil; i++ {
		once(func() bool { return false }, time.Duration(1+rand.IntN(25))*time.Millisecond)
		proxy.Restore()
	}
	close(done)
	writing.Wait()
	once(func() bool { return len(got) >= len(want) }, 0)
	if streams < cuts+1 || len(want) < 100 {
		t.Fatalf("%d streams, %d decisions", streams, len(want))
	}
	for i, id := range want {
		if i >= len(got) || got[i] != id {
			t.Fatalf("%d of %d: %d came in %d streams", i, len(want), len(got), streams)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d came, %d were recorded", len(got), len(want))
	}
	t.Logf("%d decisions in %d streams", len(got), streams)
}

func TestStreamOfASlowReaderIsCutOffAndResumed(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig) { r.limits.write = 200 * time.Millisecond })
	const n = 8_000 // more than all buffers on the way hold
	r.fill(n, func(i int) *events.Decision {
		return made(func(d *events.Decision) { d.Policy.Reason = strings.Repeat("x", 4000) })
	})
	_, token := r.person("olive", in(user.DefaultTenant, "auditor"))
	got, streams := 0, 0
	last := ""
	read := func(pause bool) {
		headers := []string(nil)
		if last != "" {
			headers = []string{"Last-Event-ID", last}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		s := r.follow(ctx, "kind=contact&from=2020-01-01T00:00:00Z", token, headers...)
		defer s.body.Close()
		streams++
		for got < n {
			e, err := s.next()
			if err != nil {
				if ctx.Err() != nil {
					t.Fatal(err)
				}
				return
			}
			if e.name != "decision" {
				continue
			}
			var it item
			must(t, json.Unmarshal(e.data, &it))
			if it.Index != int64(got) {
				t.Fatalf("%d instead of %d", it.Index, got)
			}
			last = e.id
			if got++; pause && got%1000 == 1 { // does not read until the auditor has given up
				testkit.Eventually(t, soon, func() error {
					if open := r.server.streams.count(); open != 0 {
						return fmt.Errorf("%d streams are still open", open)
					}
					return nil
				})
			}
		}
	}
	for streams == 0 || got < n {
		read(streams < 3)
	}
	if streams < 4 {
		t.Fatalf("%d streams", streams)
	}
}

func TestStreamEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		what  func(r *rig, id, token string)
		code  string
		after int // of a new attempt; 0: not looked at
	}{
		"with the session":    {func(r *rig, _, token string) { must(r.t, r.id.Revoke(r.t.Context(), token)) }, "invalid-token", 401},
		"with the permission": {func(r *rig, id, _ string) { r.roles(id, "user") }, "denied", 403},
		"with the database":   {func(r *rig, _, _ string) { _ = r.store.Close() }, "", 0},
		"with the service":    {func(r *rig, _, _ string) { close(r.stopping) }, "stopping", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(r *rig) { r.limits.recheck, r.limits.beat = 50*time.Millisecond, 30*time.Millisecond })
			r.copying()
			id, token := r.person("olive", in(user.DefaultTenant, "auditor"))
			s := r.follow(t.Context(), "", token)
			for range 5 { // it goes on as long as nothing changes, and is recorded once
				_ = need(s.next())(t)
			}
			if looks := r.looks(); len(looks) != 1 || looks[0].Action != actionStream {
				t.Fatalf("%+v", looks)
			}
			c.what(r, id, token)
			var end event
			for end.name != "end" {
				end = need(s.next())(t)
			}
			var p struct{ Code string }
			if err := json.Unmarshal(end.data, &p); err != nil || c.code != "" && p.Code != c.code {
				t.Errorf("%v %s", err, end.data)
			}
			if _, err := s.next(); err != io.EOF {
				t.Errorf("then %v", err)
			}
			looks := r.looks()
			if denied := looks[len(looks)-1].Effect == events.Deny; denied != (c.code == "denied") {
				t.Errorf("recorded %+v", looks)
			}
			if c.after != 0 {
				if a := r.get("/v1/decisions/stream", token, "Last-Event-ID", "1-1"); a.status != c.after {
					t.Errorf("again: %d %s", a.status, a.body)
				}
			}
		})
	}
}

// TestStreamTellsThatRolesHaveChanged checks that a stream that may go on under
// another version of the principal is recorded once more.
func TestStreamRecordsWhatPermitsIt(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig) { r.limits.recheck = 20 * time.Millisecond })
	r.copying()
	id, token := r.person("olive", in(user.DefaultTenant, "auditor"))
	s := r.follow(t.Context(), "kind=audit", token)
	_ = s.event(t, "decision") // its own
	r.roles(id, "admin")
	var it item
	must(t, json.Unmarshal(s.event(t, "decision").data, &it))
	d := it.decision(t)
	if d.Action != actionStream || d.Effect != events.Allow || d.Principal.Version != 2 || d.Principal.Roles[0] != "admin" {
		t.Fatalf("%+v", d)
	}
}

func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.copying()
	r.server.streams = newPlaces("streams", 3, 2)
	_, olive := r.person("olive", in(user.DefaultTenant, "auditor"))
	_, ada := r.person("ada", in(user.DefaultTenant, "admin"))
	ctx, cancel := context.WithCancel(t.Context())
	r.follow(ctx, "", olive)
	r.follow(ctx, "", olive)
	if a := r.get("/v1/decisions/stream", olive); a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") == "" {
		t.Errorf("a third one: %d", a.status)
	}
	r.follow(ctx, "", ada)
	if a := r.get("/v1/decisions/stream", ada); a.status != http.StatusTooManyRequests {
		t.Errorf("a fourth one: %d", a.status)
	}
	cancel()
	testkit.Eventually(t, soon, func() error {
		if n := r.server.streams.count(); n != 0 {
			return fmt.Errorf("%d places are taken", n)
		}
		return nil
	})
}

func TestStreamBehindTheRetentionIsGone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const n = 3000
	r.fill(n, func(int) *events.Decision { return made(nil) })
	_, token := r.person("olive", in(user.DefaultTenant, "auditor"))
	first := r.list(token, "order=oldest&limit=3").Items
	cut := r.list(token, "order=newest&limit=1").Items[0]
	at := need(audit.ParseID(cut.ID))(t)
	a := audit.NewAppender(r.rdb, 0)
	for more := true; more; {
		var err error
		_, more, err = a.Trim(t.Context(), audit.Decisions, time.UnixMilli(int64(at.Ms-1000)))
		must(t, err)
	}
	if a := r.get("/v1/decisions/stream", token, "Last-Event-ID", first[0].ID); a.status != http.StatusGone || a.problem(t).Code != "trimmed" {
		t.Errorf("%d %s", a.status, a.body)
	}
	s := r.follow(t.Context(), "from=2020-01-01T00:00:00Z", token) // from what there is
	var it item
	must(t, json.Unmarshal(s.event(t, "decision").data, &it))
	if it.Index == 0 || it.Index > n-900 {
		t.Errorf("%d", it.Index)
	}
}

// TestStreamOutlivesTheServersDeadlines serves as the service does, with times
// for reading a request and for answering it that a stream exceeds.
func TestStreamOutlivesTheServersDeadlines(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig) { r.limits.beat = 100 * time.Millisecond })
	r.copying()
	web := httptest.NewUnstartedServer(r.handler)
	web.Config.ReadTimeout, web.Config.WriteTimeout = 300*time.Millisecond, 500*time.Millisecond
	web.Start()
	defer web.Close()
	_, token := r.person("olive", in(user.DefaultTenant, "auditor"))
	r.url = web.URL
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := r.follow(ctx, "kind=contact", token)
	for began := time.Now(); time.Since(began) < 2*time.Second; {
		_ = need(s.next())(t)
	}
	r.record(made(nil))
	s.event(t, "decision")
}
