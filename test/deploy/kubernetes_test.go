package deploy

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/service"
	"github.com/writ-project/writ/test/e2e/outside"
)

var ours = []string{"api", "auditor", "worker"}

var (
	setting = regexp.MustCompile(`env:"([A-Z][A-Z0-9_]*)((?:,[a-zA-Z]+)*)"`)
	image   = regexp.MustCompile(`(?m)^    image: (writ/\S+):\$\{VERSION:-(\S+)\}$`)
	address = regexp.MustCompile(`(?m)^      WRIT_([A-Z]+)_ADDR: ":(\d+)"$`)
)

// TestManifestsFitTheServices: settings, images, ports and the time that a stop takes.
func TestManifestsFitTheServices(t *testing.T) {
	m := load(t)
	if got := slices.Sorted(maps.Keys(m.deployments)); !slices.Equal(got, ours) {
		t.Fatalf("deployments %v, want %v", got, ours)
	}
	compose := string(read(t, deployDir, "compose.yml"))
	images, ports := map[string]string{}, map[string]string{}
	for _, found := range image.FindAllStringSubmatch(compose, -1) {
		images[found[1]] = found[2]
	}
	for _, found := range address.FindAllStringSubmatch(compose, -1) {
		ports[strings.ToLower(found[1])] = found[2]
	}
	for _, set := range m.Images {
		if images[set.Name] != set.NewTag {
			t.Errorf("%s:%s, and %q in Compose", set.Name, set.NewTag, images[set.Name])
		}
	}
	for name, d := range m.deployments {
		c := only(t, d)
		if tag := images["writ/"+name]; c.Image != "writ/"+name+":"+tag {
			t.Errorf("%s: %s, and %q in Compose", name, c.Image, tag)
		}
		if !slices.ContainsFunc(m.Images, func(i struct {
			Name   string `yaml:"name"`
			NewTag string `yaml:"newTag"`
		}) bool {
			return i.Name == "writ/"+name
		}) {
			t.Errorf("%s: kustomize does not set its tag", name)
		}
		if len(c.Ports) != 1 || strconv.Itoa(c.Ports[0].Container) != ports[name] {
			t.Errorf("%s: ports %v, and %s in Compose", name, c.Ports, ports[name])
		}
		drain := int((service.DrainTimeout + service.FlushTimeout + service.ExportTimeout).Seconds())
		if wait := c.Lifecycle.PreStop.Sleep.Seconds; d.Spec.Template.Spec.Grace < wait+drain+1 {
			t.Errorf("%s: %d s to stop in, of which it waits %d and drains %d", name, d.Spec.Template.Spec.Grace, wait, drain)
		}
	}
}

// TestEverySettingIsGivenOnce: what a service reads and must have, and nothing else; and from a place that has it.
func TestEverySettingIsGivenOnce(t *testing.T) {
	m := load(t)
	readme := string(read(t, folder, "README.md"))
	unused := maps.Clone(m.settings)
	for name, d := range m.deployments {
		required := map[string]bool{}
		for _, found := range setting.FindAllStringSubmatch(strings.Join(goFiles(t, root+"/services/"+name), ""), -1) {
			required[found[1]] = strings.Contains(found[2], ",required")
		}
		given := map[string]bool{}
		for _, v := range only(t, d).Env {
			_, known := required[v.Name]
			if !known && !strings.HasPrefix(v.Name, "OTEL_") && v.Name != "GOMEMLIMIT" {
				t.Errorf("%s does not read %s", name, v.Name)
			}
			if given[v.Name] {
				t.Errorf("%s is given %s twice", name, v.Name)
			}
			given[v.Name] = true
			switch from := v.ValueFrom; {
			case from.Secret != nil:
				if from.Secret.Name != "writ" || from.Secret.Key != v.Name || from.Secret.Optional && required[v.Name] || !strings.Contains(readme, v.Name) {
					t.Errorf("%s: %s from %+v", name, v.Name, from.Secret)
				}
			case from.ConfigMap != nil:
				_, has := m.settings[v.Name]
				if from.ConfigMap.Name != m.ConfigMaps[0].Name || from.ConfigMap.Key != v.Name || from.ConfigMap.Optional || !has {
					t.Errorf("%s: %s from %+v", name, v.Name, from.ConfigMap)
				}
				delete(unused, v.Name)
			case v.Value == "":
				t.Errorf("%s: %s is empty", name, v.Name)
			}
		}
		// Where Stytch is follows from the project; everything else is for the operator to set.
		given["STYTCH_BASE_URL"] = true
		for setting := range required {
			if !given[setting] {
				t.Errorf("%s is not given %s", name, setting)
			}
		}
	}
	for setting := range unused {
		t.Errorf("nobody is given %s", setting)
	}
}

// TestPodsHaveNoMoreThanTheyNeed, and labels name whom they are to name.
func TestPodsHaveNoMoreThanTheyNeed(t *testing.T) {
	m := load(t)
	for name, d := range m.deployments {
		labels, p, c := d.Spec.Template.Metadata.Labels, d.Spec.Template.Spec, only(t, d)
		if s := p.Security; !s.NonRoot || s.User != 65532 || s.Group != 65532 || s.FSGroup != 65532 || s.Seccomp["type"] != "RuntimeDefault" {
			t.Errorf("%s: %+v", name, s)
		}
		if s := c.Security; s.Escalation == nil || *s.Escalation || !s.ReadOnly || !slices.Equal(s.Capabilities.Drop, []string{"ALL"}) {
			t.Errorf("%s: %+v", name, s)
		}
		if p.MountToken == nil || *p.MountToken || p.ServiceLinks == nil || *p.ServiceLinks {
			t.Errorf("%s is told about the cluster", name)
		}
		if c.Resources.Requests["cpu"] == "" || c.Resources.Requests["memory"] == "" || c.Resources.Limits["memory"] == "" {
			t.Errorf("%s: %+v", name, c.Resources)
		}
		for _, mount := range c.Mounts {
			if !mount.ReadOnly {
				t.Errorf("%s may write to %s", name, mount.Path)
			}
		}
		selectors := []map[string]string{d.Spec.Selector.MatchLabels, m.budgets[name].Spec.Selector.MatchLabels, m.networks[name].Spec.Pods.MatchLabels}
		for _, spread := range p.Spread {
			selectors = append(selectors, spread.Selector.MatchLabels)
		}
		if s, ok := m.services[name]; ok {
			selectors = append(selectors, s.Spec.Selector)
			if len(s.Spec.Ports) != 1 || s.Spec.Ports[0].Target != c.Ports[0].Name {
				t.Errorf("%s: the service leads to %+v", name, s.Spec.Ports)
			}
		}
		for i, s := range selectors {
			if !maps.Equal(s, labels) || s["app.kubernetes.io/component"] != name {
				t.Errorf("%s: selector %d is %v", name, i, s)
			}
		}
		if d.Spec.Replicas < 2 || m.budgets[name].Spec.MaxUnavailable != 1 || len(p.Spread) == 0 {
			t.Errorf("%s is not there while a node is emptied", name)
		}
	}
	if all := m.networks["default"].Spec; len(all.Pods.MatchLabels) != 0 || !slices.Equal(all.Types, []string{"Ingress", "Egress"}) || all.Ingress != nil || all.Egress != nil {
		t.Errorf("what is not named is open: %+v", all)
	}
}

// TestServicesAnswerTheirProbes: each binary, with the environment of its pod, at the paths that Kubernetes asks.
func TestServicesAnswerTheirProbes(t *testing.T) {
	m := load(t)
	env := map[string]map[string]string{}
	for name, d := range m.deployments {
		env[name] = map[string]string{}
		for _, v := range only(t, d).Env {
			switch from := v.ValueFrom; {
			case from.ConfigMap != nil:
				env[name][v.Name] = m.settings[v.Name]
			case from.Secret == nil:
				env[name][v.Name] = v.Value
			case !from.Secret.Optional:
				env[name][v.Name] = "" // to be brought
			}
		}
	}
	start(t, env, func(name, base, listens string) {
		c := only(t, m.deployments[name])
		if want := fmt.Sprintf(":%d", c.Ports[0].Container); listens != want {
			t.Errorf("%s listens on %s, and its port is %s", name, listens, want)
		}
		client := outside.NewClient(t, base, "")
		for what, p := range map[string]probe{"startup": c.Startup, "liveness": c.Liveness, "readiness": c.Readiness} {
			path, want := p.HTTPGet.Path, "/livez" // an outage elsewhere must restart nobody
			if what == "readiness" {
				want = "/readyz"
			}
			if a := client.Do(t, "GET", path, ""); a.Status != http.StatusOK || path != want || p.HTTPGet.Port != c.Ports[0].Name {
				t.Errorf("%s, %s: %s answers %d", name, what, path, a.Status)
			}
		}
	})
}

func only(t *testing.T, d deployment) container {
	t.Helper()
	if all := d.Spec.Template.Spec.Containers; len(all) != 1 {
		t.Fatalf("%s has %d containers", d.Metadata.Name, len(all))
	}
	return d.Spec.Template.Spec.Containers[0]
}
