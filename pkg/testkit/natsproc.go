package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// NATSProc is a nats-server process of one test; its Kill is kill -9.
type NATSProc struct {
	*Process
	config natsConfig
}

// natsServerModule is where nats-server is built from when none is installed.
const natsServerModule = "github.com/nats-io/nats-server/v2"

// NATSProcess starts nats-server with JetStream on file storage as a process of its own, so that it can be killed,
// paused and started again on the same port and store.
func NATSProcess(t testing.TB, options ...NATSOption) *NATSProc {
	t.Helper()
	path, err := natsBinary()
	if err != nil {
		Need(t, "nats-server", err)
	}
	config := newNATSConfig(t, options)
	monitor := FreePort(t)
	sync := "2m"
	if config.syncAlways {
		sync = "always"
	}
	content := fmt.Sprintf(`listen: "127.0.0.1:%d"
http: "127.0.0.1:%d"
server_name: testkit-%d
max_payload: %d
jetstream {
  store_dir: %q
  sync_interval: %s
  max_file_store: %d
  max_memory_store: %d
}
`, config.port, monitor, config.port, maxPayload, config.dir, sync, config.maxStore, config.maxMemory)
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	process := StartProcess(t, Spec{
		Name:     "nats-server",
		Path:     path,
		Args:     []string{"-c", file},
		ReadyURL: "http://" + loopback(monitor) + "/healthz",
	})
	return &NATSProc{Process: process, config: config}
}

// URL is nats://127.0.0.1:PORT, the same after a restart.
func (n *NATSProc) URL() string { return n.config.url() }

// Stop ends the server in order (SIGTERM) and waits for it.
func (n *NATSProc) Stop(testing.TB) { n.end(syscall.SIGTERM) }

// natsBinary is an installed nats-server, or one built at the version that this program was built with.
var natsBinary = sync.OnceValues(func() (string, error) {
	if path, err := find("nats-server", "WRIT_NATS_BIN", "/usr/local/bin", "/usr/sbin"); err == nil || os.Getenv("WRIT_NATS_BIN") != "" {
		return path, err
	}
	version, err := moduleVersion(natsServerModule)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	dir := filepath.Join(cache, "writ-testkit")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "nats-server-"+version)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	// Built under another name and renamed: the tests of several packages may be doing this at the same time.
	temp, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(temp)
	built := filepath.Join(temp, "nats-server")
	if output, err := exec.Command("go", "build", "-o", built, natsServerModule).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", natsServerModule, err, output)
	}
	return path, os.Rename(built, path)
})

// moduleVersion is the version of a dependency that this program was linked with, or else the one that go.mod names:
// test binaries carry no list of their modules.
func moduleVersion(module string) (string, error) {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == module {
				return dep.Version, nil
			}
		}
	}
	output, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("version of %s: %w", module, err)
	}
	return strings.TrimSpace(string(output)), nil
}
