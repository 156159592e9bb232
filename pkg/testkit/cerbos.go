package testkit

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// CerbosProc is a Cerbos PDP of one test.
type CerbosProc struct {
	*Process
	grpc, http string
}

// cerbosConfig is the PDP's configuration: policies from a folder, watched for changes; schemas enforced; a scope
// without policies falls back to its parents; nothing is sent anywhere. See https://docs.cerbos.dev/cerbos/latest/configuration/.
const cerbosConfig = `server:
  grpcListenAddr: %q
  httpListenAddr: %q
storage:
  driver: disk
  disk:
    directory: %q
    watchForChanges: true
schema:
  enforcement: reject
engine:
  lenientScopeSearch: true
telemetry:
  disabled: true
`

// Cerbos starts a PDP on the policies in a folder and returns its gRPC address, 127.0.0.1:PORT, without TLS.
func Cerbos(t testing.TB, policiesDir string) (grpcAddr string) {
	t.Helper()
	return CerbosServer(t, policiesDir).GRPCAddr()
}

// CerbosServer starts a PDP on the policies in a folder, with schema enforcement "reject". Requests that do not fit
// the schemas are denied, and a changed policy file is loaded again.
func CerbosServer(t testing.TB, policiesDir string) *CerbosProc {
	t.Helper()
	path, err := find("cerbos", "WRIT_CERBOS_BIN", "/usr/local/bin", "/opt/homebrew/bin", "/opt/cerbos*")
	if err != nil {
		Need(t, "cerbos (the PDP)", err)
	}
	policies, err := filepath.Abs(policiesDir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(policies); err != nil {
		t.Fatalf("policies: %v", err)
	}
	server := &CerbosProc{grpc: loopback(FreePort(t)), http: loopback(FreePort(t))}
	config := filepath.Join(t.TempDir(), "cerbos.yaml")
	content := fmt.Sprintf(cerbosConfig, server.grpc, server.http, policies)
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	server.Process = StartProcess(t, Spec{
		Name:     "cerbos",
		Path:     path,
		Args:     []string{"server", "--log-level=warn", "--config", config},
		Env:      []string{"CERBOS_NO_TELEMETRY=1", "OTEL_SDK_DISABLED=true"},
		ReadyURL: server.HTTPURL() + "/_cerbos/health",
	})
	return server
}

// GRPCAddr is 127.0.0.1:PORT, the same after a restart.
func (c *CerbosProc) GRPCAddr() string { return c.grpc }

// HTTPURL is http://127.0.0.1:PORT, the same after a restart.
func (c *CerbosProc) HTTPURL() string { return "http://" + c.http }

// Stop ends the PDP in order (SIGTERM) and waits for it.
func (c *CerbosProc) Stop(testing.TB) { c.end(syscall.SIGTERM) }
