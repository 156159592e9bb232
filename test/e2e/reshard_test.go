package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

// TestReshard changes the number of shards as docs/runbook.md says, up and down again: what was sent before, what is sent
// after and what is retried is applied once and in its resource's order; who counts otherwise does not start.
func TestReshard(t *testing.T) {
	s := outside.StartServices(t, "reshard-1")
	random := rand.New(rand.NewPCG(seed(t), 5))
	token := s.SessionToken(t, "resharded@example.com")
	client := outside.NewClient(t, s.API, token)
	creates := outside.NewCreates(random, "before", 20)
	outside.Send(t, client, creates, outside.Sending{Workers: 4, Retry: true})
	var contacts []string
	for _, c := range creates {
		contacts = append(contacts, c.ContactID)
	}
	var updates []*outside.Update
	change := func(n int) {
		t.Helper()
		updates = append(updates, outside.NewUpdates(random, contacts, n)...)
		outside.Send(t, client, updates, outside.Sending{Workers: 8, Retry: true})
	}
	change(60)
	outside.Settled(t, &s.Stack, settle)

	// While commands wait it is refused, and nothing has changed.
	stop(t, s.WorkerProc)
	waiting := outside.NewUpdates(random, contacts, 1)
	waiting[0].Wait = false
	outside.Send(t, client, waiting, outside.Sending{Workers: 1, Retry: true})
	if out, err := reshard(t, s, "4"); err == nil || !strings.Contains(out, "not applied") {
		t.Errorf("with a command that waits: %v %s, want a refusal", err, out)
	}
	s.WorkerProc.Start(t)
	updates = append(updates, waiting...)
	outside.Settled(t, &s.Stack, settle)

	for _, shards := range []string{"4", "2"} {
		stop(t, s.APIProc)
		outside.Settled(t, &s.Stack, settle) // as writ_apply_lag tells
		stop(t, s.WorkerProc)
		stop(t, s.AuditorProc)
		if out, err := reshard(t, s, shards); err != nil || !strings.Contains(out, "WRIT_LEDGER_SHARDS="+shards) {
			t.Fatalf("%v %s", err, out)
		}
		if out, err := reshard(t, s, shards); err != nil { // its answer was lost
			t.Fatalf("once more: %v %s", err, out)
		}
		for _, service := range []string{"api", "worker", "auditor"} {
			env := map[string]string{"WRIT_" + strings.ToUpper(service) + "_ADDR": "127.0.0.1:0"}
			for _, setting := range s.Settings() {
				name, value, _ := strings.Cut(setting, "=")
				env[name] = value
			}
			refuses(t, service, "WRIT_LEDGER_SHARDS", env) // it has the old number
		}
		s.Restart(t, "WRIT_LEDGER_SHARDS="+shards)
		client = outside.NewClient(t, s.API, token)
		// What was applied before is known, under its key.
		if a := client.Do(t, http.MethodPatch, "/v1/contacts/"+updates[0].Of, `{"notes":"`+updates[0].Notes+`"}`, "Idempotency-Key", updates[0].Key); a.CommandID() != updates[0].CommandID {
			t.Errorf("a retry from before is command %s, want %s: %d %s", a.CommandID(), updates[0].CommandID, a.Status, a.Body)
		}
		change(60)
		outside.Settled(t, &s.Stack, settle)
	}
	outside.CheckUpdates(t, &s.Stack, client, updates)
	outside.Audit(t, &s.Stack)
	on := map[string]bool{}
	for _, r := range outside.Ledger(t, s.NATS) {
		if r.Event.Type == events.TypeWrit {
			on[r.Subject] = true
		}
	}
	if len(on) != 4 {
		t.Errorf("commands stood on %v, want four shards in the course of it", on)
	}
}

// stop ends a service as an operator does.
func stop(t *testing.T, p *testkit.Process) {
	t.Helper()
	if code := p.Stop(t, 10*time.Second); code != 0 {
		t.Fatalf("it ended with %d", code)
	}
}

// reshard runs writ ledger reshard.
func reshard(t *testing.T, s *outside.Services, shards string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), outside.Binary(t, "writ"), "ledger", "reshard", shards)
	cmd.Env = append(cmd.Environ(), "WRIT_NATS_URL="+s.NATS, "WRIT_DATABASE_URL="+s.Database)
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(fmt.Errorf("writ ledger reshard: %w", err))
	}
	return string(out), err
}
