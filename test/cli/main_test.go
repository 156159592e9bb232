// Package cli tests the operators' commands from outside, on a running `writ dev`: what they print at a terminal and
// into a pipe, and how they end.
package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// within is how long a test waits for what must happen.
const within = 30 * time.Second

// result is what a command printed and how it ended.
type result struct {
	out, err string
	code     int
}

// writ runs a command of the CLI on the stack's folder, without a terminal.
func writ(t testing.TB, dev *outside.Dev, args ...string) result {
	t.Helper()
	out, errOut, err := dev.Writ(t, args...)
	return result{out, errOut, exitCode(t, err)}
}

func exitCode(t testing.TB, err error) int {
	t.Helper()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	t.Fatal(err)
	return -1
}

// want runs a command that must end with a code.
func want(t testing.TB, dev *outside.Dev, code int, args ...string) result {
	t.Helper()
	r := writ(t, dev, args...)
	if r.code != code {
		t.Fatalf("writ %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.out, r.err)
	}
	return r
}

// buffer is an output that is read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// running is a command that goes on.
type running struct {
	out, err buffer
	stop     func() int // interrupts it and gives its exit code
}

// start starts a command that goes on until it is stopped, at the latest by the test's end.
func start(t testing.TB, dev *outside.Dev, args ...string) *running {
	t.Helper()
	r := &running{}
	cmd := exec.CommandContext(context.Background(), outside.Binary(t, "writ"), append(args, "--data", dev.Dir)...)
	cmd.Stdout, cmd.Stderr = &r.out, &r.err
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.stop = sync.OnceValue(func() int {
		_ = cmd.Process.Signal(syscall.SIGINT) // it may have ended
		return exitCode(t, cmd.Wait())
	})
	t.Cleanup(func() { r.stop() })
	return r
}

// shows waits until a running command has printed a text, says until it has said one on stderr.
func shows(t testing.TB, r *running, text string) { t.Helper(); r.holds(t, &r.out, text) }
func says(t testing.TB, r *running, text string)  { t.Helper(); r.holds(t, &r.err, text) }

func (r *running) holds(t testing.TB, b *buffer, text string) {
	t.Helper()
	testkit.Eventually(t, within, func() error {
		if !strings.Contains(b.String(), text) {
			return fmt.Errorf("%q was not printed, but %d bytes and: %s", text, len(r.out.String()), r.err.String())
		}
		return nil
	})
}

// atTerminal runs a command with a pseudo terminal for input and output, types a text, and gives what it showed.
func atTerminal(t testing.TB, dev *outside.Dev, typed string, env []string, args ...string) result {
	t.Helper()
	ours, theirs := openPTY(t)
	cmd := exec.CommandContext(t.Context(), outside.Binary(t, "writ"), append(args, "--data", dev.Dir)...)
	cmd.Env = append(append(os.Environ(), "TERM=xterm", "NO_COLOR="), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close() // it is the command's
	shown := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(ours) // ends with an error when the other side is gone
		shown <- string(b)
	}()
	if _, err := io.WriteString(ours, typed); err != nil {
		t.Fatal(err)
	}
	code := exitCode(t, cmd.Wait())
	return result{out: <-shown, code: code}
}

// candidate copies the policies with one file changed.
func candidate(t testing.TB, file, from, to string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(outside.Policies(t))); err != nil {
		t.Fatal(err)
	}
	if file == "" {
		return dir
	}
	path := filepath.Join(dir, file)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(from)) {
		t.Fatalf("%s does not hold %q", file, from)
	}
	if err := os.WriteFile(path, bytes.ReplaceAll(b, []byte(from), []byte(to)), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}
