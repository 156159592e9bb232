package outside

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/testkit"
)

// Dev is a `writ dev` process and its data folder.
type Dev struct {
	*testkit.Process
	Stack
	Mailbox, Database string
	Dir               string
	// ReadyIn is the time from the last start of the process until it said that it is ready.
	ReadyIn time.Duration
}

// ready is the last line that writ dev prints before it waits.
const ready = "Ctrl-C stops it."

// StartDev starts `writ dev` on a data folder, on free ports, with the repository's policies. args and env are added.
func StartDev(t testing.TB, dir string, args, env []string) *Dev {
	t.Helper()
	d := &Dev{Dir: dir}
	all := []string{"dev", "--data", dir, "--cerbos", "embed:" + Policies(t)}
	for _, flag := range []string{"api", "auditor", "worker", "mailbox", "nats", "redis"} {
		all = append(all, "--"+flag+"-addr", "127.0.0.1:0")
	}
	spec := testkit.Spec{
		Name: "writ dev", Path: Binary(t, "writ"), Args: append(all, args...), Env: env, ReadyLine: ready,
	}
	started := time.Now()
	d.Process = testkit.StartProcess(t, spec)
	d.ReadyIn = time.Since(started)
	d.look(t)
	return d
}

// Restart starts the process again on the same folder. The ports are others.
func (d *Dev) Restart(t testing.TB) {
	t.Helper()
	started := time.Now()
	d.Process.Start(t)
	d.ReadyIn = time.Since(started)
	d.look(t)
}

// look reads which addresses are in use.
func (d *Dev) look(t testing.TB) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(d.Dir, "dev.json"))
	if err != nil {
		t.Fatal(err)
	}
	var local struct {
		API, Auditor, Worker, NATS, Redis, Mailbox, Database string
		PID                                                  int
	}
	if err := json.Unmarshal(content, &local); err != nil {
		t.Fatalf("dev.json: %v", err)
	}
	if local.PID != d.Pid() {
		t.Fatalf("dev.json names process %d, it is %d", local.PID, d.Pid())
	}
	d.Stack = Stack{
		API: local.API, Auditor: local.Auditor, Worker: local.Worker, NATS: local.NATS, Redis: local.Redis, SignIn: d.signIn,
	}
	d.Mailbox, d.Database = local.Mailbox, local.Database
}

// Writ runs another command of the CLI on the same data folder and returns what it printed on stdout and stderr.
func (d *Dev) Writ(t testing.TB, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), Binary(t, "writ"), append(args, "--data", d.Dir)...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err = cmd.Run()
	return out.String(), errOut.String(), err
}

func (d *Dev) signIn(t testing.TB, email string, roles ...string) string {
	t.Helper()
	args := []string{"token", email}
	for _, role := range roles {
		args = append(args, "--role", role)
	}
	out, problem, err := d.Writ(t, args...)
	if err != nil {
		t.Fatalf("writ token %s: %v: %s", email, err, problem)
	}
	if n := len(out); n < 2 || bytes.ContainsAny([]byte(out[:n-1]), " \n") || out[n-1] != '\n' {
		t.Fatalf("writ token must print the token alone: %q", out)
	}
	return out[:len(out)-1]
}
