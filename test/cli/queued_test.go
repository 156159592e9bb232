package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

// verdicts are what a replay found, as far as this is looked at.
type verdicts struct {
	Read, Replayed, Changed, Narrowed int
	Changes                           []struct {
		Principal, Action, Kind, Resource, From, To string
		Queued                                      bool
	}
}

// Commands that wait, for the worker or for Stytch, are judged one by one; what is done is not.
func TestCommandsThatWaitAreJudged(t *testing.T) {
	s := outside.StartServices(t, "cli-1")
	stytch := outside.NewClient(t, s.Stytch, "")
	admin := outside.NewClient(t, s.API, s.SignIn(t, "alice@example.com", "admin"))
	sam := outside.NewClient(t, s.API, s.SignIn(t, "sam@example.com", "user"))
	rim := outside.NewClient(t, s.API, s.SignIn(t, "rim@example.com", "user"))
	contact := func(c *outside.Client, name string) (id string) {
		t.Helper()
		var made outside.Contact
		c.Want(t, http.StatusCreated, &made, "POST", "/v1/contacts", fmt.Sprintf(`{"first_name":%q}`, name), "Prefer", "wait=20")
		return made.ID
	}
	done, his, hers := contact(sam, "Done"), contact(sam, "His"), contact(admin, "Hers")
	sam.Want(t, http.StatusOK, nil, "PATCH", "/v1/contacts/"+done, `{"notes":"applied"}`, "Prefer", "wait=20")

	// Stytch first: the worker has moved past this command, and tries it again and again.
	stytch.Want(t, http.StatusNoContent, nil, "POST", "/faults", `{"kind":"500","path":"/v1/users/user-"}`)
	rims := rim.Me(t).Principal.ID
	role := admin.Want(t, http.StatusAccepted, nil, "PUT", "/v1/users/"+rims+"/roles", `{"roles":["user","manager"]}`).CommandID()
	testkit.Eventually(t, within, func() error {
		var c struct{ Status string }
		if a := admin.Do(t, "GET", "/v1/commands/"+role, ""); a.Status != http.StatusOK {
			return fmt.Errorf("%d %s", a.Status, a.Body)
		} else if a.Decode(t, &c); c.Status != "retrying" {
			return fmt.Errorf("it is %s", c.Status)
		}
		return nil
	})
	s.WorkerProc.Kill()
	sam.Want(t, http.StatusAccepted, nil, "PATCH", "/v1/contacts/"+his, `{"notes":"waits"}`)
	admin.Want(t, http.StatusAccepted, nil, "PATCH", "/v1/contacts/"+hers, `{"notes":"waits"}`)

	none := filepath.Join(t.TempDir(), "none.jsonl") // no recorded decisions: what follows is about the commands alone
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dev := &outside.Dev{Dir: t.TempDir()}
	judge := func(code int, dir string, more ...string) (queued verdicts) {
		t.Helper()
		r := want(t, dev, code, append([]string{"policy", "replay", "--candidate", dir, "--file", none, "--queued", "--fail-on-change",
			"-o", "json", "--url", s.Auditor, "--api-url", s.API, "--token", admin.Token}, more...)...)
		var report struct {
			Read   int
			Queued verdicts
		}
		if err := json.Unmarshal([]byte(r.out), &report); err != nil || report.Read != 0 {
			t.Fatalf("%v: %s", err, r.out)
		}
		return report.Queued
	}
	if q := judge(0, candidate(t, "", "", "")); q.Replayed != 3 || q.Changed != 0 {
		t.Errorf("with the policies in force: %+v", q)
	}
	for _, x := range []struct {
		file, from, to                    string
		principal, action, kind, resource string
	}{
		{"contact.yaml", "actions: [update, delete]\n      effect: EFFECT_ALLOW\n      derivedRoles: [owner]", "actions: [delete]\n      effect: EFFECT_ALLOW\n      derivedRoles: [owner]",
			sam.Me(t).Principal.ID, "update", "contact", his},
		{"user.yaml", "actions: [sync, read, list, create, update, delete, roles]", "actions: [sync, read, list, create, update, delete]",
			admin.Me(t).Principal.ID, "roles", "user", rims},
	} {
		dir := candidate(t, x.file, x.from, x.to)
		q := judge(1, dir)
		if q.Replayed != 3 || q.Changed != 1 || q.Narrowed != 1 || len(q.Changes) != 1 {
			t.Errorf("%s: %+v", x.file, q)
			continue
		}
		if c := q.Changes[0]; c.Principal != x.principal || c.Action != x.action || c.Kind != x.kind || c.Resource != x.resource || c.From != "allow" || c.To != "deny" || !c.Queued {
			t.Errorf("%s: %+v", x.file, c)
		}
		if q := judge(0, dir, "--kind", "video"); q.Read != 3 || q.Replayed != 0 {
			t.Errorf("%s, about videos: %+v", x.file, q)
		}
	}

	// Who is no admin is not told what waits.
	if r := want(t, dev, 1, "policy", "replay", "--candidate", candidate(t, "", "", ""), "--file", none, "--queued", "--api-url", s.API, "--token", sam.Token); r.out != "" {
		t.Errorf("%s%s", r.out, r.err)
	}

	stytch.Want(t, http.StatusNoContent, nil, "DELETE", "/faults", "")
	s.WorkerProc.Start(t)
	outside.Settled(t, &s.Stack, within)
	if q := judge(0, candidate(t, "contact.yaml", "derivedRoles: [owner]", "derivedRoles: [owner]\n      condition:\n        match:\n          expr: 'false'")); q.Read != 0 {
		t.Errorf("when all is done: %+v", q)
	}
}
