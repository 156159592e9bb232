package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

func TestPolicyReplay(t *testing.T) {
	dev := outside.StartDev(t, t.TempDir(), nil, nil)
	sam := outside.NewClient(t, dev.API, dev.SignIn(t, "sam@example.com"))
	me := sam.Me(t).Principal.ID
	contacts := sam.All(t, "owner_id="+me)
	rim := outside.NewClient(t, dev.API, dev.SignIn(t, "rim@example.com"))
	for _, c := range contacts {
		rim.Want(t, 403, nil, "PATCH", "/v1/contacts/"+c.ID, `{"notes":"mine now"}`)
	}
	recorded(t, dev)

	same := candidate(t, "", "", "")
	if r := want(t, dev, 0, "policy", "replay", "--candidate", same, "--fail-on-change"); !strings.Contains(r.out, "nothing would change") ||
		strings.Contains(r.out, "a second") || strings.Contains(r.out, "\x1b") { // a rate of so few says nothing
		t.Errorf("%s%s", r.out, r.err)
	}

	// Everybody may change every contact.
	wider := candidate(t, "contact.yaml", "    - name: owner-changes\n", "    - name: anybody-changes\n      actions: [update]\n      effect: EFFECT_ALLOW\n      roles: [user]\n\n    - name: owner-changes\n")
	path := filepath.Join(wider, "contact.yaml")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(b), "    - name: only-the-owner-changes\n      actions: [update, delete]\n", "    - name: only-the-owner-changes\n      actions: [delete]\n", 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := want(t, dev, 0, "policy", "replay", "--candidate", wider, "--queued")
	if !strings.Contains(r.out, "update contact/"+contacts[0].ID) || !strings.Contains(r.out, "resource.contact.vdefault#anybody-changes") ||
		!strings.Contains(r.out, "would change") || !strings.Contains(r.out, "0 commands wait") {
		t.Errorf("%s%s", r.out, r.err)
	}
	want(t, dev, 1, "policy", "replay", "--candidate", wider, "--fail-on-change")
	want(t, dev, 0, "policy", "replay", "--candidate", wider, "--fail-on-change", "--kind", "video")

	var report struct {
		Read, Replayed, Changed, Widened int
		Changes                          []struct {
			Action, From, To string
			Rules            []string
		}
		Rate float64 `json:"decisions_per_second"`
	}
	r = want(t, dev, 1, "policy", "replay", "--candidate", wider, "--fail-on-change", "--kind", "contact", "-o", "json")
	if err := json.Unmarshal([]byte(r.out), &report); err != nil {
		t.Fatal(err)
	}
	if report.Widened < len(contacts) || len(report.Changes) == 0 || report.Rate <= 0 || report.Replayed < report.Changed {
		t.Errorf("%s", r.out)
	}

	// From a file, as an export or as tail wrote it, and at a terminal.
	file := filepath.Join(t.TempDir(), "decisions.jsonl")
	want(t, dev, 0, "audit", "export", "-o", file)
	if r := atTerminal(t, dev, "", nil, "policy", "replay", "--candidate", wider, "--file", file, "--kind", "contact"); r.code != 0 ||
		!strings.Contains(r.out, "\x1b[32mallow") || !strings.Contains(r.out, "would be allowed more") {
		t.Errorf("%+v", r)
	}
	tail := want(t, dev, 0, "audit", "tail", "--since", "1h", "-o", "json")
	if err := os.WriteFile(file, []byte(tail.out), 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, dev, 1, "policy", "replay", "--candidate", wider, "--file", file, "--fail-on-change")
	if err := os.WriteFile(file, []byte(tail.out[:len(tail.out)-20]), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := want(t, dev, 1, "policy", "replay", "--candidate", same, "--file", file); !strings.Contains(r.err, "cut off") {
		t.Errorf("%+v", r)
	}

	// What is not known is no yes for CI; nothing at all is.
	for _, x := range []struct {
		text, kind string
		code       int
		says       string
	}{
		{"", "contact", 0, "there is nothing to replay: no decision about contact is recorded since"},
		{`{"checkpoint":"…","entries":0,"unreadable":0}` + "\n", "contact", 0, "there is nothing to replay"},
		{tail.out, "unheard-of", 0, "about other kinds"},
		{"rubbish\n{}\n", "contact", 1, "of 2 recorded decisions none could be replayed"},
	} {
		if err := os.WriteFile(file, []byte(x.text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := want(t, dev, x.code, "policy", "replay", "--candidate", same, "--file", file, "--kind", x.kind, "--fail-on-change")
		if !strings.Contains(r.out+r.err, x.says) {
			t.Errorf("%q: %s%s", x.says, r.out, r.err)
		}
	}

	// Policies that do not compile are an error that names the file.
	broken := candidate(t, "contact.yaml", "R.attr.owner_id == P.id", "R.attr.owner_id ==")
	if r := want(t, dev, 1, "policy", "replay", "--candidate", broken); !strings.Contains(r.err, "contact.yaml") {
		t.Errorf("%+v", r)
	}
}

// recorded waits until the audit log has what is on the ledger now, and a checkpoint covers it.
func recorded(t testing.TB, dev *outside.Dev) {
	t.Helper()
	last := events.At(outside.Last(t, dev.NATS, events.StreamLedger), 0)
	olive := outside.NewClient(t, dev.Auditor, dev.SignIn(t, "olive@example.com"))
	testkit.Eventually(t, within, func() error {
		var c struct{ Sequence uint64 }
		a := olive.Do(t, "GET", "/v1/checkpoint", "")
		if a.Status != 200 {
			return fmt.Errorf("%d: %s", a.Status, a.Body)
		}
		if a.Decode(t, &c); c.Sequence < last {
			return fmt.Errorf("the checkpoint covers the ledger up to %d, not to %d", c.Sequence, last)
		}
		return nil
	})
}
