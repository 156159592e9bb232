package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

// denied makes a decision that denies and gives its id.
func denied(t testing.TB, api, jwt, contact string) string {
	t.Helper()
	var p outside.Problem
	outside.NewClient(t, api, jwt).Want(t, http.StatusForbidden, &p, "PATCH", "/v1/contacts/"+contact, `{"notes":"mine now"}`)
	return p.DecisionID
}

func TestAuditTail(t *testing.T) {
	dev := outside.StartDev(t, t.TempDir(), nil, nil)
	sam := outside.NewClient(t, dev.API, dev.SignIn(t, "sam@example.com"))
	rim := dev.SignIn(t, "rim@example.com")
	contact := sam.All(t, "")[0].ID
	id := denied(t, dev.API, rim, contact)
	recorded(t, dev)

	plain := want(t, dev, 0, "audit", "tail", "--effect", "deny", "--kind", "contact")
	line := regexp.MustCompile(`(?m)^\S+  deny   update         contact/` + contact + ` +user-test-\S+ +` + id + `  only the owner or an admin may change or delete a contact$`)
	if !line.MatchString(plain.out) || strings.Contains(plain.out, "\x1b") || strings.Contains(plain.out, "  allow  ") {
		t.Errorf("%q", plain.out)
	}
	if r := atTerminal(t, dev, "", nil, "audit", "tail", "--effect", "deny"); r.code != 0 || !strings.Contains(r.out, "\x1b[31mdeny ") {
		t.Errorf("%+v", r)
	}
	var d events.Decision
	if err := json.Unmarshal([]byte(want(t, dev, 0, "audit", "tail", "--effect", "deny", "--resource", contact, "-n", "1", "-o", "json").out), &d); err != nil || d.ID != id {
		t.Errorf("%+v, %v", d, err)
	}
	if r := want(t, dev, 0, "audit", "tail", "--since", "10m", "--action", "create", "-o", "json"); strings.Count(r.out, "\n") < 5 || strings.Contains(r.out, `"action":"list"`) {
		t.Errorf("%s", r.out)
	}
	if r := want(t, dev, 0, "audit", "tail", "-n", "3"); strings.Count(r.out, "\n") != 3 {
		t.Errorf("%s", r.out)
	}
	if r := want(t, dev, 1, "audit", "tail", "--token", rim); !strings.Contains(r.err, "only the roles auditor and admin") && !strings.Contains(r.err, "Only the roles auditor and admin") {
		t.Errorf("%+v", r)
	}
	if r := want(t, dev, 0, "audit", "tail", "--since", "10m", "-n", "2"); strings.Count(r.out, "\n") != 2 {
		t.Errorf("%s", r.out)
	}
	want(t, dev, 2, "audit", "tail", "--since", "yesterday")
	if r := want(t, dev, 2, "audit", "tail", "--effect", "maybe"); strings.Contains(r.err, `"",""`) {
		t.Errorf("%s", r.err)
	}
	if r := want(t, dev, 1, "audit", "show", "nonsense"); !strings.Contains(r.err, "path.id") {
		t.Errorf("%s", r.err)
	}
	want(t, dev, 2, "audit", "tail", "--effect", "perhaps")

	if r := want(t, dev, 0, "audit", "show", id); !strings.Contains(r.out, "only the owner or an admin") || !strings.Contains(r.out, "PATCH  /v1/contacts/{id}") {
		t.Errorf("%s", r.out)
	}
	if err := json.Unmarshal([]byte(want(t, dev, 0, "audit", "show", id, "-o", "json").out), &struct{}{}); err != nil {
		t.Error(err)
	}
	want(t, dev, 1, "audit", "show", "01900000-0000-7000-8000-000000000000")
}

func TestTailFollowsThroughARestart(t *testing.T) {
	dev := outside.StartDev(t, t.TempDir(), nil, nil)
	jwt := func(name string) string { return dev.SignIn(t, name+"@example.com") }
	contact := outside.NewClient(t, dev.API, jwt("sam")).All(t, "")[0].ID
	tail := start(t, dev, "audit", "tail", "-f", "--effect", "deny", "--resource", contact, "-o", "json")
	var ids []string
	deny := func() {
		ids = append(ids, denied(t, dev.API, jwt("rim"), contact))
		shows(t, tail, ids[len(ids)-1])
	}
	deny()
	for _, stop := range []func(){func() { interrupt(t, dev) }, dev.Kill} {
		stop()
		says(t, tail, "reconnecting")
		dev.Restart(t)
		deny()
		if !strings.Contains(tail.err.String(), "connected again") {
			t.Errorf("it does not say that it is connected again: %s", tail.err.String())
		}
	}
	if code := tail.stop(); code != 0 {
		t.Errorf("exit code %d: %s", code, tail.err.String())
	}
	var seen []string
	for line := range strings.Lines(tail.out.String()) {
		var d events.Decision
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			t.Fatal(err)
		}
		if d.Resource.ID == contact {
			seen = append(seen, d.ID)
		}
	}
	if fmt.Sprint(seen) != fmt.Sprint(ids) {
		t.Errorf("seen %v, want %v, each once", seen, ids)
	}
}

func interrupt(t testing.TB, dev *outside.Dev) {
	t.Helper()
	dev.Signal(t, os.Interrupt)
	if code := dev.Wait(t, within); code != 0 {
		t.Fatalf("Ctrl-C ended it with %d: %s", code, dev.Output())
	}
}

func TestVerifyNamesWhatIsWrong(t *testing.T) {
	dev := outside.StartDev(t, t.TempDir(), nil, nil)
	recorded(t, dev)
	key := strings.TrimSpace(want(t, dev, 0, "audit", "key").out)
	first := want(t, dev, 0, "audit", "verify")
	if !regexp.MustCompile(`^verified: [\d,]+ decisions and [\d,]+ outcomes, root \S+, ledger 1 to [\d,]+ without a gap, signed by writ/\S+ \S+ \(\S+\)\n$`).MatchString(first.out) || first.err != "" {
		t.Errorf("%q %q", first.out, first.err)
	}
	outside.NewClient(t, dev.API, dev.SignIn(t, "sam@example.com")).All(t, "")
	recorded(t, dev)
	if r := want(t, dev, 0, "audit", "verify", "--key", key); !strings.Contains(r.out, "continued") {
		t.Errorf("the checkpoint of the first time was not remembered: %q", r.out)
	}
	if r := atTerminal(t, dev, "", nil, "audit", "verify"); r.code != 0 || !strings.Contains(r.out, "100 %") || !strings.Contains(r.out, "\x1b[32mverified") {
		t.Errorf("%+v", r)
	}
	file := filepath.Join(t.TempDir(), "checkpoint.json")
	want(t, dev, 0, "audit", "verify", "--checkpoint", file)

	// A checkpoint of a log that this one does not continue.
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(b), `"decisions": "`, `"decisions": "x`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := writ(t, dev, "audit", "verify", "--checkpoint", file); r.code != 1 {
		t.Errorf("%+v", r)
	}
	other := strings.TrimSpace(want(t, dev, 0, "audit", "key", "--create", filepath.Join(t.TempDir(), "other.key"), "--name", "other").out)
	if r := want(t, dev, 1, "audit", "verify", "--key", other, "--checkpoint", filepath.Join(t.TempDir(), "none")); !strings.Contains(r.out, "NOT VERIFIED") {
		t.Errorf("%+v", r)
	}

	// An entry that is not what it was.
	entries := outside.Entries(t, dev.Redis, outside.Decisions)
	victim := entries[len(entries)/2]
	tamper(t, dev, victim)
	if r := want(t, dev, 1, "audit", "verify"); !strings.HasPrefix(r.out, "NOT VERIFIED: ") || !strings.Contains(r.out, victim.ID) {
		t.Errorf("the entry %s is not named: %+v", victim.ID, r)
	}
}

// tamper changes an entry in Redis as only somebody can who rewrites the stream.
func tamper(t testing.TB, dev *outside.Dev, victim redis.XMessage) {
	t.Helper()
	options, err := redis.ParseURL(dev.Redis)
	if err != nil {
		t.Fatal(err)
	}
	rdb := redis.NewClient(options)
	defer rdb.Close()
	ctx := t.Context()
	entries := outside.Entries(t, dev.Redis, outside.Decisions)
	pipe := rdb.TxPipeline()
	pipe.Del(ctx, outside.Decisions)
	for _, e := range entries {
		record := e.Values["decision"]
		if e.ID == victim.ID {
			record = strings.Replace(record.(string), `"effect":"`, `"effect": "`, 1)
		}
		pipe.XAdd(ctx, &redis.XAddArgs{Stream: outside.Decisions, ID: e.ID, Values: []any{"decision", record, "seal", e.Values["seal"]}})
	}
	if _, err := pipe.Exec(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestEvidenceIsCheckedOffline(t *testing.T) {
	dev := outside.StartDev(t, t.TempDir(), []string{"--no-seed"}, nil)
	sam := outside.NewClient(t, dev.API, dev.SignIn(t, "sam@example.com"))
	var made outside.Contact
	a := sam.Want(t, http.StatusCreated, &made, "POST", "/v1/contacts", `{"first_name":"Ada"}`, "Prefer", "wait=10")
	id := decisionOf(t, dev, a.CommandID())
	dir := t.TempDir()
	file, keyFile := filepath.Join(dir, "evidence.json"), filepath.Join(dir, "log.pub")
	// The outcome may be on its way still.
	testkit.Eventually(t, within, func() error {
		if r := writ(t, dev, "audit", "prove", id, "-o", file); r.code != 0 || !strings.Contains(r.err, "whole mutation") {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	key := want(t, dev, 0, "audit", "key").out
	if err := os.WriteFile(keyFile, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	interrupt(t, dev) // offline: nothing of writ runs
	r := want(t, dev, 0, "audit", "check", file, "--key", keyFile)
	for _, text := range []string{"proven: ", id, a.CommandID(), "allowed to create contact/" + made.ID, "the command was applied", "version 1"} {
		if !strings.Contains(r.out, text) {
			t.Errorf("%q is not in %q", text, r.out)
		}
	}
	want(t, dev, 0, "audit", "check", file, "--key", strings.TrimSpace(key))
	want(t, dev, 2, "audit", "check", file)

	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{`\"action\":\"create\"`, `\"action\":\"delete\"`},
		{`\"status\":\"applied\"`, `\"status\":\"failed\"`},
		{made.ID, "01900000-0000-7000-8000-000000000000"},
		{`"format": "writ-evidence/1"`, `"format": "writ-evidence/2"`},
		{"\\n\\n— ", "\\n\\n— x"},
	} {
		if !strings.Contains(string(good), change[0]) {
			t.Errorf("%s does not stand in the evidence: %s", change[0], good)
			continue
		}
		if err := os.WriteFile(file, []byte(strings.Replace(string(good), change[0], change[1], 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if r := writ(t, dev, "audit", "check", file, "--key", keyFile); r.code != 1 || strings.Contains(r.out, "\nproven") || strings.HasPrefix(r.out, "proven") {
			t.Errorf("changed %s: %+v", change[0], r)
		}
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	other := strings.TrimSpace(want(t, dev, 0, "audit", "key", "--create", filepath.Join(dir, "other.key")).out)
	if r := want(t, dev, 1, "audit", "check", file, "--key", other); !strings.Contains(r.out, "NOT PROVEN") {
		t.Errorf("%+v", r)
	}
}

// decisionOf finds the decision of a command.
func decisionOf(t testing.TB, dev *outside.Dev, command string) (id string) {
	t.Helper()
	testkit.Eventually(t, within, func() error {
		r := writ(t, dev, "audit", "tail", "-o", "json", "--action", "create")
		for line := range strings.Lines(r.out) {
			var d events.Decision
			if err := json.Unmarshal([]byte(line), &d); err == nil && d.Command != nil && d.Command.ID == command {
				id = d.ID
				return nil
			}
		}
		return errors.New("the decision is not there: " + r.err)
	})
	return id
}

func TestExportIsWholeOrNotThere(t *testing.T) {
	dev := outside.StartDev(t, t.TempDir(), nil, nil)
	recorded(t, dev)
	dir := t.TempDir()
	for _, format := range []string{"jsonl", "csv", "ocsf"} {
		file := filepath.Join(dir, "decisions."+format)
		want(t, dev, 0, "audit", "export", "--format", format, "--kind", "contact", "-o", file)
		b, err := os.ReadFile(file)
		if err != nil || len(b) == 0 {
			t.Errorf("%s: %d bytes, %v", format, len(b), err)
		}
		piped := want(t, dev, 0, "audit", "export", "--format", format, "--kind", "contact")
		if strings.Count(piped.out, "\n") != strings.Count(string(b), "\n") {
			t.Errorf("%s: %d lines in the file, %d in the pipe", format, strings.Count(string(b), "\n"), strings.Count(piped.out, "\n"))
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.part"))
	if err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}
