package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

// stopWithin is what `writ dev` promises for Ctrl-C.
const stopWithin = 5 * time.Second

// pasted reads the two curl lines that writ dev prints.
var pasted = regexp.MustCompile(`curl -sS (?:-X (\w+) )?(\S+) -H 'Authorization: Bearer ([^']+)'.* -d '([^']+)'`)

func TestStateSurvivesRestarts(t *testing.T) {
	dev := outside.StartDev(t, t.TempDir(), nil, nil)
	t.Logf("ready in %s on an empty folder", dev.ReadyIn)
	output := dev.Output()
	for _, want := range []string{
		dev.API, dev.API + "/docs", dev.Auditor, dev.Mailbox + "/mailbox", strings.TrimPrefix(dev.Redis, "redis://"),
		strings.TrimPrefix(dev.NATS, "nats://"), dev.Dir, "alice@example.com", "fiona@example.com", "eu-east-1", "XRANGE writ:decisions - +",
	} {
		if !strings.Contains(output, want) {
			t.Errorf("writ dev does not print %s", want)
		}
	}

	// The printed lines do what they say.
	lines := pasted.FindAllStringSubmatch(output, -1)
	if len(lines) != 2 {
		t.Fatalf("found %d curl lines in:\n%s", len(lines), output)
	}
	paste := func(line []string) outside.Answer {
		method := line[1]
		if method == "" {
			method = "POST"
		}
		return outside.NewClient(t, "", line[3]).Do(t, method, line[2], line[4], "Prefer", wait)
	}
	if a := paste(lines[0]); a.Status != http.StatusCreated {
		t.Errorf("the create: %d %s", a.Status, a.Body)
	}
	var denied outside.Problem
	a := paste(lines[1])
	if a.Decode(t, &denied); a.Status != http.StatusForbidden || denied.DecisionID == "" {
		t.Errorf("the update: %d %s", a.Status, a.Body)
	}
	outside.Audit(t, &dev.Stack)
	if out, problem, err := dev.Writ(t, "audit", "tail"); err != nil || !strings.Contains(out, denied.DecisionID) {
		t.Errorf("writ audit tail does not show decision %s: %v %s\n%s", denied.DecisionID, err, problem, out)
	}

	sam := lines[0][3] // an opaque session token, good for an hour
	client := outside.NewClient(t, dev.API, sam)
	me, contacts := client.Me(t), client.All(t, "")
	if len(contacts) < 5 || me.Principal.Email != "sam@example.com" || me.Principal.Attr["region"] != "eu-east-1" {
		t.Errorf("%d contacts were seeded, sam is %+v", len(contacts), me)
	}
	private := readSecrets(t, dev)
	for _, stop := range []struct {
		how string
		do  func()
	}{
		{"Ctrl-C", func() { interrupt(t, dev) }},
		{"kill -9", dev.Kill},
	} {
		t.Run(stop.how, func(t *testing.T) {
			outside.Settled(t, &dev.Stack, settle)
			before := outside.Audit(t, &dev.Stack)
			stop.do()
			dev.Restart(t)
			t.Logf("ready in %s after %s", dev.ReadyIn, stop.how)
			client := outside.NewClient(t, dev.API, sam)
			if again := client.Me(t); !reflect.DeepEqual(again, me) {
				t.Errorf("the session was %+v, is %+v", me, again)
			}
			if again := client.All(t, ""); !reflect.DeepEqual(again, contacts) {
				t.Errorf("the contacts were %+v, are %+v", contacts, again)
			}
			if bySignIn := outside.NewClient(t, dev.API, dev.SignIn(t, "sam@example.com")).Me(t); !reflect.DeepEqual(bySignIn, me) {
				t.Errorf("sam was %+v, is %+v", me, bySignIn)
			}
			if again := readSecrets(t, dev); !bytes.Equal(again, private) {
				t.Error("the keys are others")
			}
			after := outside.Audit(t, &dev.Stack)
			for stream, pair := range map[string][2][]redis.XMessage{
				outside.Decisions: {before.Decisions, after.Decisions}, outside.Outcomes: {before.Outcomes, after.Outcomes},
			} {
				if n := len(pair[0]); n > len(pair[1]) || !reflect.DeepEqual(pair[0], pair[1][:n]) {
					t.Errorf("%s was not rebuilt to the same bytes", stream)
				}
			}
		})
	}
	if dev.ReadyIn > 20*time.Second {
		t.Errorf("ready in %s", dev.ReadyIn)
	}
}

// interrupt is Ctrl-C: exit code 0, in time, and nothing left that says that the stack runs.
func interrupt(t *testing.T, dev *outside.Dev) {
	t.Helper()
	started := time.Now()
	dev.Signal(t, syscall.SIGINT)
	if code := dev.Wait(t, stopWithin); code != 0 {
		t.Errorf("Ctrl-C ended it with %d: %s", code, dev.Output())
	}
	t.Logf("stopped in %s", time.Since(started))
	if _, problem, err := dev.Writ(t, "token", "sam@example.com"); err == nil || !strings.Contains(problem, "no local stack is running") {
		t.Errorf("writ token after the stop: %v %s", err, problem)
	}
}

func readSecrets(t *testing.T, dev *outside.Dev) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dev.Dir, "keys", "secrets.json"))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestEmptyFolderStaysEmptyWithoutSeedAndPortsGiveWay(t *testing.T) {
	// A taken port is replaced by a free one.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	args := []string{"--seed=false"}
	for _, flag := range []string{"api", "auditor", "worker", "mailbox", "nats", "redis"} {
		args = append(args, "--"+flag+"-addr", taken.Addr().String())
	}
	dev := outside.StartDev(t, t.TempDir(), args, nil)
	addresses := map[string]bool{}
	for _, address := range []string{dev.API, dev.Auditor, dev.Worker, dev.NATS, dev.Redis, dev.Mailbox} {
		u, err := url.Parse(address)
		if err != nil || u.Hostname() != "127.0.0.1" || u.Port() == "" || u.Host == taken.Addr().String() || addresses[u.Host] {
			t.Errorf("address %s: %v", address, err)
		}
		addresses[u.Host] = true
	}
	alice := outside.NewClient(t, dev.API, dev.SignIn(t, "alice@example.com"))
	if contacts := alice.All(t, ""); len(contacts) > 0 {
		t.Errorf("without seed there are %+v", contacts)
	}
	if roles := fmt.Sprint(alice.Me(t).Principal.Roles); roles != "[admin]" {
		t.Errorf("alice is %s", roles)
	}

	// A second stack on the same folder is refused and does not disturb the first.
	if _, problem, err := dev.Writ(t, "dev"); err == nil || !strings.Contains(problem, "another writ dev") {
		t.Errorf("a second stack: %v %s", err, problem)
	}
	alice.Me(t)
	// Attributes by the command line.
	if _, problem, err := dev.Writ(t, "token", "new@example.com", "--role", "user", "--role", "manager", "--attr", "region=eu-east-1"); err != nil {
		t.Errorf("%v %s", err, problem)
	}
	me := outside.NewClient(t, dev.API, dev.SignIn(t, "new@example.com")).Me(t).Principal
	if fmt.Sprint(me.Roles, me.Attr) != "[user manager] map[region:eu-east-1]" {
		t.Errorf("%+v", me)
	}
	interrupt(t, dev)
}

func TestPolicyEditsTakeEffectAndBrokenOnesDoNot(t *testing.T) {
	policies := t.TempDir()
	if err := os.CopyFS(policies, os.DirFS(outside.Policies(t))); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(policies, "contact.yaml")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write := func(content []byte) {
		t.Helper()
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dev := outside.StartDev(t, t.TempDir(), []string{"--cerbos", "embed:" + policies}, nil)
	sam, rim := outside.NewClient(t, dev.API, dev.SignIn(t, "sam@example.com")), outside.NewClient(t, dev.API, dev.SignIn(t, "rim@example.com"))
	var contact outside.Contact
	sam.Want(t, http.StatusCreated, &contact, "POST", "/v1/contacts", `{"first_name":"Seen"}`, "Prefer", wait)
	path := "/v1/contacts/" + contact.ID
	rim.Want(t, http.StatusOK, nil, "GET", path, "")

	// Whole rules are gone, and the file does not parse: if it took effect nobody could read.
	write(append(bytes.Replace(good, []byte("roles: [user]"), []byte("roles: [nobody]"), 1), []byte("\n  - broken: [\n")...))
	dev.WaitLine(t, 10*time.Second, "policies are broken")
	rim.Want(t, http.StatusOK, nil, "GET", path, "")
	rim.Want(t, http.StatusForbidden, nil, "PATCH", path, `{"notes":"x"}`)
	sam.Want(t, http.StatusOK, nil, "PATCH", path, `{"notes":"still served"}`, "Prefer", wait)
	outside.Ready(t, dev.API, "") // the last good policy is in force, so it is ready

	edited := bytes.Replace(good, []byte("actions: [read, list]\n      effect: EFFECT_ALLOW\n      roles: [user]"),
		[]byte("actions: [list]\n      effect: EFFECT_ALLOW\n      roles: [user]"), 1)
	if bytes.Equal(edited, good) {
		t.Fatal("contact.yaml is not what this test edits")
	}
	write(edited)
	testkit.Eventually(t, 10*time.Second, func() error {
		if a := rim.Do(t, "GET", path, ""); a.Status != http.StatusNotFound {
			return fmt.Errorf("%d", a.Status)
		}
		return nil
	})
	write(good)
	testkit.Eventually(t, 10*time.Second, func() error {
		if a := rim.Do(t, "GET", path, ""); a.Status != http.StatusOK {
			return fmt.Errorf("%d", a.Status)
		}
		return nil
	})
	revisions := map[string]events.Effect{}
	for _, r := range outside.Audit(t, &dev.Stack).Ledger {
		if d := r.Event.Decision; r.Event.Type == events.TypeDecision && d.Resource.ID == contact.ID && d.Action == "read" {
			if before, ok := revisions[d.Policy.Revision]; ok && before != d.Effect || d.Policy.Revision == "" {
				t.Errorf("revision %q says %s and %s", d.Policy.Revision, before, d.Effect)
			}
			revisions[d.Policy.Revision] = d.Effect
		}
	}
	if len(revisions) != 2 {
		t.Errorf("decisions name the revisions %v, want the two that were in force", revisions)
	}
}

// TestLocalStackListensEverywhere: an address without a host is every one of this machine, and what is told is one that works.
func TestLocalStackListensEverywhere(t *testing.T) {
	var args []string
	for _, server := range []string{"api", "auditor", "worker", "mailbox", "nats", "redis"} {
		args = append(args, "--"+server+"-addr", ":0")
	}
	dev := outside.StartDev(t, t.TempDir(), args, nil)
	for _, base := range []string{dev.API, dev.Auditor, dev.Worker, dev.Mailbox, dev.NATS} {
		if !strings.Contains(base, "//127.0.0.1:") {
			t.Errorf("dev.json tells %s, want an address of loopback", base)
		}
	}
	outside.NewClient(t, dev.API, dev.SignIn(t, "sam@example.com")).Want(t, http.StatusOK, nil, "GET", "/v1/me", "")
}

// TestEveryLineOfALogIsJSON, OpenTelemetry's too.
func TestEveryLineOfALogIsJSON(t *testing.T) {
	dev := outside.StartDev(t, t.TempDir(), nil, everything("http/protobuf", "http://127.0.0.1:1"))
	outside.NewClient(t, dev.API, dev.SignIn(t, "sam@example.com")).Want(t, http.StatusOK, nil, "GET", "/v1/me", "")
	dev.Stop(t, 10*time.Second)
	_, logs, _ := strings.Cut(dev.Output(), "Stopping …\n")
	told := false
	for line := range strings.Lines(logs) {
		if !json.Valid([]byte(line)) {
			t.Errorf("this is no JSON: %s", line)
		}
		told = told || strings.Contains(line, "127.0.0.1:1")
	}
	if !told {
		t.Errorf("the log does not tell that the collector is away: %s", dev.Output())
	}
}
