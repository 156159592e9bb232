package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

// pausedEach lets each server hang: its connections stay open and nothing answers on them.
func pausedEach(t *testing.T, s *outside.Services) {
	client := outside.NewClient(t, s.API, s.SignIn(t, "patient@example.com"))
	for _, hanging := range []struct {
		name   string
		server *testkit.Process
		status int
	}{
		{"nats", s.NATSServer.Process, http.StatusServiceUnavailable},
		{"cerbos", s.Cerbos.Process, http.StatusServiceUnavailable},
		{"redis", s.RedisProc.Process, http.StatusAccepted},
		{"worker", s.WorkerProc, http.StatusAccepted},
	} {
		t.Run(hanging.name, func(t *testing.T) {
			create := func(headers ...string) (outside.Answer, time.Duration) {
				began := time.Now()
				a := client.Do(t, "POST", "/v1/contacts", `{"first_name":"Paused","last_name":"paused `+hanging.name+`"}`,
					append(headers, "Idempotency-Key", "paused-"+hanging.name)...)
				return a, time.Since(began)
			}
			hanging.server.Pause(t)
			stopped(t, hanging.server.Pid())
			a, took := create()
			if a.Status != hanging.status || a.Status == http.StatusServiceUnavailable && a.Header.Get("Retry-After") == "" {
				t.Errorf("while %s hung: %d %v %s", hanging.name, a.Status, a.Header, a.Body)
			}
			if took > 8*time.Second || a.Status == http.StatusAccepted && took > 2*time.Second {
				t.Errorf("while %s hung an answer took %s", hanging.name, took)
			}
			t.Logf("%d after %s", a.Status, took)
			hanging.server.Resume(t)
			// Whether it was stored or not: a retry with the key ends in one effect.
			outside.Until(t, func() error {
				if a, _ := create("Prefer", "wait=10"); a.Status != http.StatusCreated {
					return fmt.Errorf("%d %s", a.Status, a.Body)
				}
				return nil
			})
			var page outside.Page
			client.Want(t, http.StatusOK, &page, "GET", "/v1/contacts?q=paused+"+hanging.name, "")
			if len(page.Items) != 1 {
				t.Errorf("%d contacts: %+v", len(page.Items), page.Items)
			}
		})
	}
	outside.Audit(t, &s.Stack)
}

// stopped waits until every thread of a process that was sent SIGSTOP has stopped: on a busy machine one may go on for a
// moment. Where there is no /proc the moment has to be enough.
func stopped(t *testing.T, pid int) {
	t.Helper()
	outside.Until(t, func() error {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil {
			return err
		}
		for _, task := range tasks {
			stat, err := os.ReadFile(task)
			if errors.Is(err, os.ErrNotExist) {
				continue // the thread has ended
			}
			// pid (name) state …; the name may hold anything, see proc_pid_stat(5)
			if i := bytes.LastIndex(stat, []byte(") ")); err != nil || i < 0 || stat[i+2] != 'T' {
				return fmt.Errorf("%s: %s %v", task, stat, err)
			}
		}
		return nil
	})
}

// TestFullLedgerRefusesAndForgetsNothing fills the ledger until nothing can be recorded, so that nothing may be done, and
// then gives it more space.
func TestFullLedgerRefusesAndForgetsNothing(t *testing.T) {
	dir := t.TempDir()
	dev := outside.StartDev(t, dir, []string{"--seed=false", "--ledger-max", "400000"}, nil)
	client := outside.NewClient(t, dev.API, dev.SignIn(t, "filler@example.com"))
	var creates []*outside.Create
	full := false
	for i := 0; i < 1000 && !full; i++ {
		c := &outside.Create{Mark: fmt.Sprintf("full-%04d", i)}
		c.Key = fmt.Sprintf("full-%d", i)
		creates = append(creates, c)
		outside.Send(t, client, []*outside.Create{c}, outside.Sending{Workers: 1})
		full = !c.Answered
	}
	if !full {
		t.Fatal("the ledger takes everything")
	}
	last := outside.Last(t, dev.NATS, events.StreamLedger)
	for range 50 { // outcomes still come until there is no room for any message
		client.Do(t, "GET", "/v1/me", "")
	}
	for _, request := range [][2]string{{"GET", "/v1/me"}, {"GET", "/v1/contacts"}, {"POST", "/v1/contacts"}} {
		a := client.Do(t, request[0], request[1], map[string]string{"POST": `{"first_name":"No room"}`}[request[0]])
		if a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
			t.Errorf("on a full ledger: %s %s: %d %s", request[0], request[1], a.Status, a.Body)
		}
	}
	before := outside.Ledger(t, dev.NATS)
	if have := events.SequenceOf(before[len(before)-1].Address); have < last {
		t.Errorf("the ledger forgot: %d messages, there were %d", have, last)
	}
	interrupt(t, dev)

	roomy := outside.StartDev(t, dir, []string{"--seed=false"}, nil)
	client = outside.NewClient(t, roomy.API, roomy.SignIn(t, "filler@example.com"))
	outside.Send(t, client, creates, outside.Sending{Workers: 4, Retry: true})
	tally := outside.Check(t, &roomy.Stack, client, creates)
	audited := outside.Audit(t, &roomy.Stack)
	for i, r := range before {
		if again := audited.Ledger[i]; again.Event.ID != r.Event.ID || again.Address != r.Address {
			t.Fatalf("event %d was %s, is %s", r.Address, r.Event.ID, again.Event.ID)
		}
	}
	t.Logf("full after %d creates and %d events: %+v", len(creates), len(before), tally)
}
