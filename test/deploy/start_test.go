package deploy

import (
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/stytchemu"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

// start starts the services with the environments that they are given, but for where the servers are and what is secret, and
// calls ready with each of them: its URL, and where it was told to listen.
func start(t *testing.T, env map[string]map[string]string, ready func(name, base, listens string)) {
	t.Helper()
	const project = "project-test-22222222-2222-4222-8222-222222222222"
	emulator, err := stytchemu.New(stytchemu.Config{ProjectID: project, Secret: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	stytch := httptest.NewServer(emulator)
	t.Cleanup(func() {
		stytch.CloseClientConnections()
		stytch.Close()
		if err := emulator.Close(); err != nil {
			t.Error(err)
		}
	})
	brought := map[string]string{
		"WRIT_NATS_URL": ledgerServer(t), "WRIT_DATABASE_URL": testkit.Postgres(t),
		"WRIT_REDIS_URL": testkit.RedisServer(t).URL(), "WRIT_CERBOS": "grpc://" + testkit.CerbosServer(t, outside.Policies(t)).GRPCAddr(),
		"WRIT_LEDGER_REPLICAS": "1", "WRIT_SEAL_KEYS": events.GenerateKey("k1"), "WRIT_AUDIT_KEY_FILE": outside.AuditKey(t),
		"STYTCH_PROJECT_ID": project, "STYTCH_SECRET": "secret", "OTEL_EXPORTER_OTLP_ENDPOINT": "",
	}
	for _, name := range []string{"worker", "auditor", "api"} {
		addr, listens := "127.0.0.1:"+strconv.Itoa(testkit.FreePort(t)), ""
		settings := []string{"STYTCH_BASE_URL=" + stytch.URL}
		for setting, value := range env[name] {
			if own, ok := brought[setting]; ok {
				value = own
			}
			if strings.HasSuffix(setting, "_ADDR") {
				listens, value = value, addr
			}
			settings = append(settings, setting+"="+value)
		}
		testkit.StartProcess(t, testkit.Spec{
			Name: name, Path: outside.Binary(t, name), Dir: t.TempDir(), Env: settings, ReadyURL: "http://" + addr + "/readyz",
		})
		ready(name, "http://"+addr, listens)
	}
}

// ledgerServer runs NATS with deploy/nats.conf: its limits must hold what the settings reserve.
func ledgerServer(t *testing.T) (url string) {
	t.Helper()
	options, err := natsserver.ProcessConfigFile(filepath.Join(deployDir, "nats.conf"))
	if err != nil {
		t.Fatal(err)
	}
	options.Host, options.Port, options.HTTPPort, options.StoreDir, options.NoSigs, options.NoLog = "127.0.0.1", natsserver.RANDOM_PORT, 0, t.TempDir(), true, true
	server, err := natsserver.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	server.Start()
	t.Cleanup(func() {
		server.Shutdown()
		server.WaitForShutdown()
	})
	if !server.ReadyForConnections(30 * time.Second) {
		t.Fatal("NATS is not ready")
	}
	return server.ClientURL()
}

// TestServicesStartAsComposeStartsThem: with the values that stand in compose.yml.
func TestServicesStartAsComposeStartsThem(t *testing.T) {
	dir, err := filepath.Abs(deployDir)
	if err != nil {
		t.Fatal(err)
	}
	project, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir:  dir,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(dir, "compose.yml")}},
		Environment: types.Mapping{
			"POSTGRES_PASSWORD": "secret", "WRIT_AUDIT_KEY_FILE": "./.env.example", "WRIT_SEAL_KEYS": "k", "STYTCH_PROJECT_ID": "p", "STYTCH_SECRET": "s",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]map[string]string{}
	for _, name := range ours {
		env[name] = map[string]string{}
		for setting, value := range project.Services[name].Environment {
			if value != nil {
				env[name][setting] = *value
			}
		}
	}
	start(t, env, func(name, _, listens string) {
		if check := strings.Join(project.Services[name].HealthCheck.Test, " "); !strings.Contains(check, "http://127.0.0.1"+listens+"/readyz") {
			t.Errorf("%s listens on %s, and its health is asked by %s", name, listens, check)
		}
	})
}
