package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/test/e2e/outside"
)

// settings are such that each service gets as far as its connection to NATS, where nothing listens.
func settings(t *testing.T, service string) map[string]string {
	all := map[string]string{
		"WRIT_NATS_URL": "nats://127.0.0.1:1", "WRIT_SEAL_KEYS": events.GenerateKey("k1"),
		"WRIT_" + strings.ToUpper(service) + "_ADDR": "127.0.0.1:0",
	}
	if service == "auditor" {
		all["WRIT_REDIS_URL"] = "redis://127.0.0.1:1/0"
		all["WRIT_AUDIT_KEY_FILE"] = outside.AuditKey(t)
	}
	all["WRIT_DATABASE_URL"] = "sqlite:" + filepath.Join(t.TempDir(), "writ.db")
	all["WRIT_CERBOS"] = "embed:" + outside.Policies(t)
	all["STYTCH_PROJECT_ID"], all["STYTCH_SECRET"] = "project-test-22222222-2222-4222-8222-222222222222", "secret-test-xyz"
	return all
}

// run starts a program with these settings alone and waits until it has ended.
func run(t *testing.T, program string, env map[string]string, args ...string) (code int, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, outside.Binary(t, program), args...)
	cmd.Dir = t.TempDir()
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool {
		return strings.HasPrefix(s, "WRIT_") || strings.HasPrefix(s, "STYTCH_") || strings.HasPrefix(s, "OTEL_")
	})
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	var out bytes.Buffer
	cmd.Stderr = &out
	_ = cmd.Run() // its exit code is what counts
	if ctx.Err() != nil {
		t.Fatalf("%s with %v does not end: %s", program, env, out.String())
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// refuses checks that the start fails with one line that names the setting.
func refuses(t *testing.T, program, name string, env map[string]string, args ...string) {
	t.Helper()
	code, stderr := run(t, program, env, args...)
	if line := strings.TrimSuffix(stderr, "\n"); code <= 0 || line == "" || strings.Contains(line, "\n") || !strings.Contains(line, name) {
		t.Errorf("%s: exit code %d and this instead of one line that names %s:\n%s", program, code, name, stderr)
	}
	if secret := env["WRIT_SEAL_KEYS"]; secret != "" && strings.Contains(stderr, secret) || strings.Contains(stderr, "hunter2") {
		t.Errorf("%s shows a secret: %s", program, stderr)
	}
	for _, word := range []string{"time.Duration", "type int", "type bool", "type uint", "64 bit", "bool value", "strconv", "unmarshal", "slog"} {
		if strings.Contains(stderr, word) {
			t.Errorf("%s speaks of Go (%s): %s", program, word, stderr)
		}
	}
}

func TestMissingSettingStopsTheStart(t *testing.T) {
	for _, service := range []string{"api", "worker", "auditor"} {
		all := settings(t, service)
		for name := range all {
			if strings.HasSuffix(name, "_ADDR") || name == "WRIT_CERBOS" { // these have defaults
				continue
			}
			for _, value := range []string{"missing", ""} {
				env := settings(t, service)
				env[name] = value
				if value == "missing" {
					delete(env, name)
				}
				refuses(t, service, name, env)
			}
		}
		refuses(t, service, "WRIT_NATS_URL", all) // nobody is there
	}
}

func TestMalformedSettingStopsTheStart(t *testing.T) {
	for _, c := range []struct{ services, name, value string }{
		{"api worker auditor", "WRIT_SEAL_KEYS", "k1"},
		{"api worker auditor", "WRIT_SEAL_KEYS", "k1:c2hvcnQ"},
		{"api worker auditor", "WRIT_NATS_URL", "http://[::1"},
		{"api worker auditor", "WRIT_NATS_URL", "nats://u:hunter2@[::1"},
		{"api worker auditor", "WRIT_NATS_URL", "nats://u@127.0.0.1:hunter2"},
		{"api worker auditor", "WRIT_DATABASE_URL", "postgres://writ@127.0.0.1/writ?password=hunter2&sslmode=bogus"},
		{"api worker auditor", "WRIT_DATABASE_URL", "postgres://writ@127.0.0.1:port/writ?password=hunter2"},
		{"api worker auditor", "WRIT_CERBOS", "grpc://u:hunter2@[::1"},
		{"api worker auditor", "STYTCH_BASE_URL", "ftp://u:hunter2@example.com"},
		{"api worker auditor", "STYTCH_BASE_URL", "https://u:hunter2@[::1"},
		{"api worker auditor", "WRIT_LOG_LEVEL", "loud"},
		{"api worker auditor", "WRIT_LOG_FORMAT", "xml"},
		{"api worker auditor", "OTEL_METRIC_EXPORT_INTERVAL", "often"},
		{"api worker auditor", "OTEL_SDK_DISABLED", "perhaps"},
		{"api", "WRIT_WEBHOOKS_ALLOW_PRIVATE", "perhaps"},
		{"api worker auditor", "WRIT_LEDGER_REPLICAS", "two"},
		{"api worker auditor", "WRIT_LEDGER_SHARDS", "many"},
		{"api worker auditor", "WRIT_LEDGER_MAX_BYTES", "10GB"},
		{"api worker auditor", "OTEL_TRACES_EXPORTER", "nonsense"},
		{"api worker auditor", "WRIT_DATABASE_URL", "mysql://root:hunter2@127.0.0.1/writ"},
		{"api worker auditor", "WRIT_DATABASE_URL", "postgres://writ:hunter2@127.0.0.1:port/writ"},
		{"api worker auditor", "WRIT_DATABASE_URL", "sqlite:/no/such/folder/writ.db"},
		{"api worker auditor", "WRIT_CERBOS", "embed:/no/such/folder"},
		{"api worker auditor", "WRIT_CERBOS", "pdp.example.com:3593"},
		{"auditor", "WRIT_AUDIT_KEY_FILE", "/no/such/file"},
		{"auditor", "WRIT_AUDIT_RETENTION", "a month"},
		{"auditor", "WRIT_AUDIT_RETENTION", "-1h"},
		{"auditor", "WRIT_REDIS_URL", "http://user:hunter2@127.0.0.1"},
		{"api auditor", "WRIT_TRUSTED_PROXIES", "10.0.0.0/8,proxy"},
		{"api auditor", "WRIT_TRUSTED_PROXIES", "0.0.0.0/0"},
		{"api auditor", "WRIT_CORS_ORIGINS", "*"},
		{"api auditor", "WRIT_CORS_ORIGINS", "https://app.example.com/"},
		{"api", "WRIT_MAX_IN_FLIGHT", "-1"},
		{"api", "WRIT_RATE_LIMIT", "many"},
		{"api", "WRIT_MAX_BACKLOG", "1.5"},
		{"api worker auditor", "STYTCH_BASE_URL", "ftp://example.com"},
		{"api", "WRIT_API_ADDR", "nowhere"},
		{"worker", "WRIT_WORKER_ADDR", "127.0.0.1:99999"},
		{"auditor", "WRIT_AUDITOR_ADDR", "127.0.0.1"},
	} {
		for _, service := range strings.Fields(c.services) {
			env := settings(t, service)
			env[c.name] = c.value
			refuses(t, service, c.name, env)
		}
	}
}

func TestCommandLineRefusals(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dev := []string{"dev", "--cerbos", "embed:" + outside.Policies(t), "--data", t.TempDir()}
	for _, addr := range []string{"api", "auditor", "worker", "mailbox", "nats", "redis"} {
		dev = append(dev, "--"+addr+"-addr", "127.0.0.1:0")
	}
	with := func(more ...string) []string { return append(slices.Clone(dev), more...) }
	for _, c := range []struct {
		name string
		args []string
	}{
		{"--data", with("--data", file)},
		{"WRIT_LEDGER_SYNC", with("--ledger-sync", "sometimes")},
		{"WRIT_CERBOS", with("--cerbos", "embed:/no/such/folder")},
		{"WRIT_API_ADDR", with("--api-addr", "nowhere")},
		{"--max-in-flight", with("--max-in-flight=-1")},
		{"--rate-limit", with("--rate-limit", "many")},
		{"--ledger-max", with("--ledger-max", "10GB")},
		{"--audit-retention", with("--audit-retention", "a month")},
		{"--audit-retention", with("--audit-retention", "30")},
		{"--webhooks-allow-private", with("--webhooks-allow-private=perhaps")},
		{"WRIT_NATS_ADDR", with("--nats-addr", "127.0.0.1:99999")},
		{"no local stack is running", []string{"token", "sam@example.com", "--data", t.TempDir()}},
		{"no local stack is running", []string{"audit", "tail", "--data", t.TempDir()}},
		{"WRIT_DATABASE_URL", []string{"migrate", "--data", t.TempDir()}},
	} {
		refuses(t, "writ", c.name, nil, c.args...)
	}
	for name, value := range map[string]string{"WRIT_LOG_LEVEL": "loud", "WRIT_LOG_FORMAT": "xml", "OTEL_BSP_SCHEDULE_DELAY": "soon", "WRIT_RATE_LIMIT": "many"} {
		refuses(t, "writ", name, map[string]string{name: value}, dev...)
	}
}
