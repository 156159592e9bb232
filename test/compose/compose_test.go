// Package compose checks deploy/: there is a Docker engine in few places where the tests run, so the files are
// loaded as Compose itself would load them and compared with what the services say about themselves.
package compose

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

const deploy = "../../deploy"

// secrets are the values that a deployment has to bring.
var secrets = types.Mapping{
	"POSTGRES_PASSWORD":   "secret",
	"WRIT_AUDIT_KEY_FILE": "./.env.example", // a file that is there
	"WRIT_SEAL_KEYS":      "k1:c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0",
	"STYTCH_PROJECT_ID":   "project-test",
	"STYTCH_SECRET":       "secret",
}

// profiles bring what is optional.
var profiles = []string{"observe"}

// ours are the services whose settings the code declares.
var ours = []string{"api", "auditor", "worker"}

func load(t *testing.T, environment types.Mapping) (*types.Project, error) {
	t.Helper()
	dir, err := filepath.Abs(deploy)
	if err != nil {
		t.Fatal(err)
	}
	return loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir:  dir,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(dir, "compose.yml")}},
		Environment: environment,
	}, loader.WithProfiles(profiles))
}

func mustLoad(t *testing.T) *types.Project {
	t.Helper()
	project, err := load(t, secrets)
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func TestDeploymentWithoutItsSecretsIsRefused(t *testing.T) {
	for name := range secrets {
		environment := maps.Clone(secrets)
		delete(environment, name)
		if _, err := load(t, environment); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: error %v does not name it", name, err)
		}
	}
}

func TestEverythingRunsAndIsWatched(t *testing.T) {
	project := mustLoad(t)
	want := []string{"api", "auditor", "cerbos", "collector", "grafana", "jaeger", "nats", "postgres", "prometheus", "redis", "worker"}
	if got := project.ServiceNames(); !slices.Equal(got, want) {
		t.Fatalf("services %v, want %v", got, want)
	}
	for name, service := range project.Services {
		if check := service.HealthCheck; check == nil || check.Disable || len(check.Test) < 2 || check.Interval == nil || check.Timeout == nil {
			t.Errorf("%s has no health check", name)
		}
		if service.Restart != "unless-stopped" {
			t.Errorf("%s restarts %q", name, service.Restart)
		}
		for other, dependency := range service.DependsOn {
			if dependency.Condition != types.ServiceConditionHealthy {
				t.Errorf("%s waits for %s to be %q, not healthy", name, other, dependency.Condition)
			}
		}
		for _, port := range service.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes %d on %q, not on loopback", name, port.Target, port.HostIP)
			}
		}
		for _, volume := range service.Volumes {
			if volume.Type != types.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(volume.Source); err != nil {
				t.Errorf("%s mounts what is not there: %v", name, err)
			}
			if !volume.ReadOnly {
				t.Errorf("%s may write to %s", name, volume.Source)
			}
		}
	}
}

// pinned is a tag that says which release it is.
var pinned = regexp.MustCompile(`^[a-z0-9./-]+:v?[0-9]+\.[0-9]+(\.[0-9]+)?(-[a-z0-9.]+)?$`)

func TestImagesArePinned(t *testing.T) {
	stages := map[string]bool{"scratch": true}
	for _, line := range strings.Split(read(t, filepath.Join(deploy, "Dockerfile")), "\n") {
		words := strings.Fields(line)
		if len(words) != 4 || words[0] != "FROM" {
			continue
		}
		if image := words[1]; !stages[image] && !pinned.MatchString(image) {
			t.Errorf("Dockerfile: %s is not pinned", image)
		}
		stages[words[3]] = true
	}
	for name, service := range mustLoad(t).Services {
		switch build := service.Build; {
		case build == nil && !pinned.MatchString(service.Image):
			t.Errorf("%s: %s is not pinned", name, service.Image)
		case strings.HasSuffix(service.Image, ":latest"):
			t.Errorf("%s: %s", name, service.Image)
		case build != nil && !stages[build.Target]:
			t.Errorf("%s: the Dockerfile has no target %q", name, build.Target)
		}
	}
}

func TestPolicyDecisionPointIsTheOneThatIsTested(t *testing.T) {
	module := regexp.MustCompile(`(?m)^\s*github\.com/cerbos/cerbos v(\S+)$`).FindStringSubmatch(read(t, "../../pkg/go.mod"))
	if module == nil {
		t.Fatal("pkg/go.mod does not require Cerbos")
	}
	if image := mustLoad(t).Services["cerbos"].Image; image != "cerbos/cerbos:"+module[1] {
		t.Errorf("image %s beside engine %s", image, module[1])
	}
	if script := read(t, "../../.ci/run"); !strings.Contains(script, "cerbos_version="+module[1]+" ") {
		t.Errorf(".ci/run does not install Cerbos %s", module[1])
	}
	if config := read(t, filepath.Join(deploy, "cerbos.yaml")); !strings.Contains(config, "enforcement: reject") {
		t.Error("the PDP does not enforce schemas")
	}
}

func TestLedgerSyncsBeforeItAcknowledges(t *testing.T) {
	if config := read(t, filepath.Join(deploy, "nats.conf")); !strings.Contains(config, "sync_interval: always") {
		t.Error("an acknowledged decision may be lost")
	}
}

// TestMetricsAreCountedOnce: what is scraped is not sent as well.
func TestMetricsAreCountedOnce(t *testing.T) {
	if config := read(t, filepath.Join(deploy, "otel-collector.yaml")); !strings.Contains(config, "    metrics:\n      receivers: [prometheus]") {
		t.Error("the collector takes metrics from elsewhere than /metrics")
	}
	for _, name := range ours {
		if exporter := mustLoad(t).Services[name].Environment["OTEL_METRICS_EXPORTER"]; exporter == nil || *exporter != "none" {
			t.Errorf("%s sends its metrics", name)
		}
	}
}

// TestWhatIsConfiguredIsMounted: the paths that Prometheus and Grafana are told are those where their files are.
func TestWhatIsConfiguredIsMounted(t *testing.T) {
	services := mustLoad(t).Services
	for file, wanted := range map[string]struct{ service, path string }{
		"prometheus/prometheus.yml": {"prometheus", "/etc/prometheus/alerts.yaml"},
		"grafana/dashboards.yaml":   {"grafana", "/var/lib/grafana/dashboards"},
		"grafana/datasource.yaml":   {"prometheus", "http://prometheus:9090"},
	} {
		if !strings.Contains(read(t, filepath.Join(deploy, file)), wanted.path) {
			t.Errorf("%s does not say %s", file, wanted.path)
		}
		if _, isURL := strings.CutPrefix(wanted.path, "http://"); !isURL && !slices.ContainsFunc(services[wanted.service].Volumes, func(v types.ServiceVolumeConfig) bool {
			return strings.HasPrefix(v.Target, wanted.path) || strings.HasPrefix(wanted.path, v.Target+"/")
		}) {
			t.Errorf("%s has no %s", wanted.service, wanted.path)
		}
	}
}

// setting finds what a service's Config reads: the tag env:"NAME" or env:"NAME,required…".
var setting = regexp.MustCompile(`env:"([A-Z][A-Z0-9_]*)((?:,[a-zA-Z]+)*)"`)

func TestServicesAreGivenTheSettingsThatTheyRead(t *testing.T) {
	project := mustLoad(t)
	for _, name := range ours {
		required := map[string]bool{} // by name; every known setting is a key
		for path, source := range sources(t, filepath.Join("../../services", name)) {
			for _, match := range setting.FindAllStringSubmatch(source, -1) {
				required[match[1]] = strings.Contains(match[2], ",required")
				if !strings.HasPrefix(match[1], "WRIT_") && !strings.HasPrefix(match[1], "STYTCH_") {
					t.Errorf("%s: %s is no name for a setting", path, match[1])
				}
			}
		}
		if len(required) == 0 {
			t.Fatalf("%s declares no settings", name)
		}
		given := project.Services[name].Environment
		for variable := range given {
			known := strings.HasPrefix(variable, "OTEL_")
			if _, ok := required[variable]; !ok && !known {
				t.Errorf("%s does not read %s", name, variable)
			}
		}
		for variable, must := range required {
			if value := given[variable]; must && (value == nil || *value == "") {
				t.Errorf("%s is not given %s", name, variable)
			}
		}
	}
}

func TestExampleNamesWhatADeploymentBrings(t *testing.T) {
	used := map[string]bool{}
	for _, match := range regexp.MustCompile(`\$\{([A-Z_]+)`).FindAllStringSubmatch(read(t, filepath.Join(deploy, "compose.yml")), -1) {
		used[match[1]] = true
	}
	for _, match := range regexp.MustCompile(`(?m)^([A-Z_]+)=`).FindAllStringSubmatch(read(t, filepath.Join(deploy, ".env.example")), -1) {
		if !used[match[1]] {
			t.Errorf("compose.yml does not use %s", match[1])
		}
		delete(used, match[1])
	}
	for name := range used {
		if _, must := secrets[name]; must {
			t.Errorf(".env.example does not name %s", name)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// sources are the Go files under a folder, without tests.
func sources(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			found[path] = read(t, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
