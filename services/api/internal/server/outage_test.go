package server

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
)

// everything asks for one of each.
func everything(r *rig, api, token, contact string) map[string]answer {
	return map[string]answer{
		"create": r.do("POST", api+"/v1/contacts", token, `{"first_name":"a"}`),
		"update": r.do("PATCH", api+"/v1/contacts/"+contact, token, `{"notes":"a"}`),
		"delete": r.do("DELETE", api+"/v1/contacts/"+contact, token, ""),
		"read":   r.do("GET", api+"/v1/contacts/"+contact, token, ""),
		"list":   r.do("GET", api+"/v1/contacts", token, ""),
		"me":     r.do("GET", api+"/v1/me", token, ""),
	}
}

func unavailable(t *testing.T, all map[string]answer) {
	t.Helper()
	for name, a := range all {
		if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %v %s", name, a.status, a.header, a.body)
		}
	}
}

// Not in parallel with others: it counts goroutines.
func TestLedgerDownIs503(t *testing.T) {
	var server *testkit.NATSServer
	r := newRig(t, func(r *rig) { server = testkit.NATS(t); r.nats = server.URL() })
	api := r.api()
	sam, token := r.person("sam", "admin")
	mine := r.contact(sam)
	if a := r.do("GET", api+"/v1/contacts/"+mine, token, ""); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	before := need(r.ledger.Last(t.Context()))(t)
	server.Stop(t)
	goroutines := runtime.NumGoroutine()
	started := time.Now()
	for range 5 {
		unavailable(t, everything(r, api, token, mine))
	}
	if took := time.Since(started); took > 30*appendTimeout {
		t.Fatalf("30 requests took %s", took)
	}
	if now := runtime.NumGoroutine(); now > goroutines+20 {
		t.Fatalf("%d goroutines, before %d", now, goroutines)
	}
	server.Start(t)
	testkit.Eventually(t, soon, func() error {
		if a := r.do("GET", api+"/v1/contacts/"+mine, token, ""); a.status != 200 {
			return fmt.Errorf("%d %s", a.status, a.body)
		}
		return nil
	})
	testkit.Eventually(t, soon, func() error { return r.ledger.Ready(t.Context()) }) // the test's own connection
	for _, e := range r.events()[before:] {                                          // what was answered with 503 was not done later
		if e.Type == events.TypeWrit {
			t.Fatalf("a command of the outage is on the ledger: %+v", e.Command)
		}
	}
}

// The acknowledgement is lost: 503, and a retry with the same key is the same
// command whether or not the first was stored.
func TestLostAckThenRetryIsOneCommand(t *testing.T) {
	t.Parallel()
	var proxy *testkit.Proxy
	r := newRig(t, func(r *rig) {
		r.direct = testkit.NATS(t).URL()
		proxy = testkit.NewProxy(t, strings.TrimPrefix(r.direct, "nats://"))
		r.nats = "nats://" + proxy.Addr()
	})
	api := r.api()
	_, token := r.person("sam", "user")
	proxy.Stall()
	a := r.do("POST", api+"/v1/contacts", token, `{"first_name":"a"}`, "Idempotency-Key", "k")
	if a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	proxy.Restore()
	testkit.Eventually(t, soon, func() error {
		if a = r.do("POST", api+"/v1/contacts", token, `{"first_name":"a"}`, "Idempotency-Key", "k"); a.status != 202 {
			return fmt.Errorf("%d %s", a.status, a.body)
		}
		return nil
	})
	commands, resources := map[string]bool{}, map[string]bool{}
	for _, e := range r.events() {
		if e.Type == events.TypeWrit { // once or twice: the worker takes the first
			commands[e.Command.ID], resources[e.Command.ResourceID] = true, true
		}
	}
	if len(commands) != 1 || len(resources) != 1 {
		t.Fatalf("%d commands about %d contacts are on the ledger, want one about one", len(commands), len(resources))
	}
}

func TestCerbosDownIs503(t *testing.T) {
	t.Parallel()
	pdp := testkit.CerbosServer(t, "../../../../policies")
	r := newRig(t, func(r *rig) {
		az := need(authz.Open(t.Context(), "grpc:"+pdp.GRPCAddr(), authz.WithTimeout(300*time.Millisecond)))(t)
		t.Cleanup(func() { _ = az.Close() })
		r.authz = az
	})
	api := r.api()
	sam, token := r.person("sam", "admin")
	mine := r.contact(sam)
	if a := r.do("GET", api+"/v1/contacts/"+mine, token, ""); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	before := need(r.ledger.Last(t.Context()))(t)
	pdp.Kill()
	unavailable(t, everything(r, api, token, mine))
	if after := need(r.ledger.Last(t.Context()))(t); after != before {
		t.Fatal("something was recorded although nothing was decided")
	}
}

func TestDatabaseDownIs503(t *testing.T) {
	t.Parallel()
	pg := testkit.PostgresServer(t)
	r := newRig(t, func(r *rig) { r.open(pg.Database(t)) })
	api := r.api()
	sam, token := r.person("sam", "admin")
	mine := r.contact(sam)
	pg.Kill()
	unavailable(t, everything(r, api, token, mine))
	if last := need(r.ledger.Last(t.Context()))(t); last != 0 {
		t.Fatal("something was published")
	}
}

// A drain does not wait for outcomes: who waits is told that it is accepted.
func TestDrainEndsTheWait(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stopping := make(chan struct{})
	r.stopping = stopping
	api := r.api()
	_, token := r.person("sam", "user")
	answered := make(chan answer)
	go func() {
		answered <- r.do("POST", api+"/v1/contacts", token, `{"first_name":"a"}`, "Prefer", "wait=30")
	}()
	testkit.Eventually(t, soon, func() error {
		if len(r.events()) == 0 {
			return fmt.Errorf("not accepted yet")
		}
		return nil
	})
	close(stopping)
	select {
	case a := <-answered:
		if a.status != 202 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	case <-time.After(soon):
		t.Fatal("it still waits")
	}
}
