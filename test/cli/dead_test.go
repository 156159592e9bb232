package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

type letter struct {
	ID, Code, Reason, Action, Unreplayable string
	PrincipalID                            string `json:"principal_id"`
	CommandID                              string `json:"command_id"`
	Believed                               bool
	Resource                               struct{ Kind, ID string }
}

// letters waits until writ dead list shows so many.
func letters(t testing.TB, dev *outside.Dev, n int, args ...string) []letter {
	t.Helper()
	var all []letter
	testkit.Eventually(t, within, func() error {
		all = nil
		r := writ(t, dev, append([]string{"dead", "list", "-o", "json"}, args...)...)
		if r.code != 0 {
			return fmt.Errorf("%d: %s", r.code, r.err)
		}
		for line := range strings.Lines(r.out) {
			var l letter
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				return err
			}
			all = append(all, l)
		}
		if len(all) != n {
			return fmt.Errorf("%d dead letters, want %d: %s", len(all), n, r.out)
		}
		return nil
	})
	return all
}

func TestDeadLetters(t *testing.T) {
	dev := outside.StartDev(t, t.TempDir(), []string{"--no-seed"}, nil)
	keys := outside.Seals(t, dev)
	client := outside.NewClient(t, dev.API, dev.SignIn(t, "sam@example.com"))
	sam := client.Me(t).Principal.ID
	if r := want(t, dev, 0, "dead", "list"); r.out != "" || !strings.Contains(r.err, "no dead letters") {
		t.Errorf("%+v", r)
	}

	_, contact := outside.Lapse(t, dev, keys, "default", sam, "Grace")
	one := letters(t, dev, 1)[0]
	if one.Code != "expired" || one.PrincipalID != sam || one.Action != "create" || one.Resource.ID != contact || one.Unreplayable != "" || !one.Believed {
		t.Errorf("%+v", one)
	}
	plain := want(t, dev, 0, "dead", "list")
	if !strings.Contains(plain.out, one.ID) || !strings.Contains(plain.out, "contact/"+contact) || strings.Contains(plain.out, "\x1b") {
		t.Errorf("%q", plain.out)
	}
	if r := atTerminal(t, dev, "", nil, "dead", "list"); r.code != 0 || !strings.Contains(r.out, "\x1b[31mexpired") {
		t.Errorf("%+v", r)
	}
	if r := atTerminal(t, dev, "", []string{"NO_COLOR=1"}, "dead", "list"); r.code != 0 || strings.Contains(r.out, "\x1b[") || !strings.Contains(r.out, "expired") {
		t.Errorf("%+v", r)
	}
	if r := want(t, dev, 0, "dead", "show", one.ID); !strings.Contains(r.out, "Grace") || !strings.Contains(r.out, sam) {
		t.Errorf("%s", r.out)
	}
	if e, err := events.Parse([]byte(want(t, dev, 0, "dead", "show", one.ID, "-o", "raw").out)); err != nil || e.Verify(keys, events.CommandSubject(0)) != nil {
		t.Errorf("the message is not the one that was buried: %v", err)
	}

	// A reason is needed, and a permission: to others it is not there.
	want(t, dev, 2, "dead", "replay", one.ID)
	want(t, dev, 2, "dead", "discard", one.ID)
	if r := want(t, dev, 1, "dead", "replay", one.ID, "--reason", "x", "--token", client.Token); !strings.Contains(r.err, "There is no dead letter") {
		t.Errorf("%+v", r)
	}
	if r := want(t, dev, 1, "dead", "replay", "worker.LEDGER.4711", "--reason", "x"); !strings.Contains(r.err, "There is no dead letter") {
		t.Errorf("%+v", r)
	}

	// Replayed, in sam's name, by alice.
	if r := want(t, dev, 0, "dead", "replay", one.ID, "--reason", "the worker was away"); !strings.Contains(r.out, "applied") {
		t.Errorf("%+v", r)
	}
	var made outside.Contact
	client.Want(t, 200, &made, "GET", "/v1/contacts/"+contact, "")
	if made.FirstName != "Grace" || made.OwnerID != sam || made.Version != 1 {
		t.Errorf("%+v", made)
	}
	letters(t, dev, 0)
	if r := want(t, dev, 0, "dead", "replay", one.ID, "--reason", "once more"); !strings.Contains(r.out, "applied") {
		t.Errorf("a second replay is the first: %+v", r)
	}
	asker, reason := "", ""
	for _, r := range outside.Ledger(t, dev.NATS) {
		if d := r.Event.Decision; r.Event.Type == events.TypeWrit && d.Resource.ID == contact {
			asker = d.Asker
		} else if d.Action == "replay" && d.Effect == events.Allow && d.Resource.ID == one.ID && reason == "" {
			reason, _ = d.Resource.Attr["reason"].(string)
		}
	}
	if asker == "" || asker == sam || reason != "the worker was away" {
		t.Errorf("asker %q, reason %q", asker, reason)
	}

	// More than one is asked about.
	for i := range 3 {
		outside.Lapse(t, dev, keys, "default", sam, fmt.Sprintf("Number %d", i))
	}
	letters(t, dev, 3)
	all := []string{"dead", "replay", "--all", "--code", "expired", "--reason", "the worker was away"}
	if r := want(t, dev, 1, all...); !strings.Contains(r.err, "Replay 3 dead letters?") || !strings.Contains(r.err, "--yes") {
		t.Errorf("%+v", r)
	}
	if r := atTerminal(t, dev, "no\n", nil, all...); r.code != 1 || !strings.Contains(r.out, "nothing was done") {
		t.Errorf("%+v", r)
	}
	letters(t, dev, 3)
	if r := atTerminal(t, dev, "y\n", nil, all...); r.code != 0 || strings.Count(r.out, "applied") != 3 {
		t.Errorf("%+v", r)
	}
	letters(t, dev, 0)

	// A forgery: the worker and the auditor refuse it, and nobody can bring it back.
	forger, err := events.ParseKeyring(events.GenerateKey("local-1"))
	if err != nil {
		t.Fatal(err)
	}
	outside.Lapse(t, dev, forger, "default", sam, "Mallory")
	for _, l := range letters(t, dev, 2) {
		if l.Believed || l.Code != "bad-seal" || l.PrincipalID != "" || l.Unreplayable == "" {
			t.Errorf("%+v", l)
		}
		if r := want(t, dev, 1, "dead", "replay", l.ID, "--reason", "x"); !strings.Contains(r.err, "cannot be replayed") {
			t.Errorf("%+v", r)
		}
	}
	if r := want(t, dev, 0, "dead", "discard", "--all", "--reason", "a forgery", "--yes"); strings.Count(r.out, "discarded") != 2 {
		t.Errorf("%+v", r)
	}
	letters(t, dev, 0)
}
