package deploy

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// The types below have the members of Kubernetes' that the manifests use, so that a misspelled one is an error.
type (
	meta struct {
		Name   string            `yaml:"name"`
		Labels map[string]string `yaml:"labels"`
	}
	head struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string `yaml:"kind"`
		Metadata   meta   `yaml:"metadata"`
	}
	selector struct {
		MatchLabels map[string]string `yaml:"matchLabels"`
	}
	keyRef struct {
		Name     string `yaml:"name"`
		Key      string `yaml:"key"`
		Optional bool   `yaml:"optional"`
	}
	variable struct {
		Name      string `yaml:"name"`
		Value     string `yaml:"value"`
		ValueFrom struct {
			Secret    *keyRef `yaml:"secretKeyRef"`
			ConfigMap *keyRef `yaml:"configMapKeyRef"`
		} `yaml:"valueFrom"`
	}
	probe struct {
		HTTPGet struct {
			Path string `yaml:"path"`
			Port string `yaml:"port"`
		} `yaml:"httpGet"`
		Period   int `yaml:"periodSeconds"`
		Timeout  int `yaml:"timeoutSeconds"`
		Failures int `yaml:"failureThreshold"`
	}
	port struct {
		Name      string `yaml:"name"`
		Container int    `yaml:"containerPort"`
		Port      int    `yaml:"port"`
		Target    string `yaml:"targetPort"`
	}
	container struct {
		Name      string     `yaml:"name"`
		Image     string     `yaml:"image"`
		Ports     []port     `yaml:"ports"`
		Env       []variable `yaml:"env"`
		Startup   probe      `yaml:"startupProbe"`
		Liveness  probe      `yaml:"livenessProbe"`
		Readiness probe      `yaml:"readinessProbe"`
		Lifecycle struct {
			PreStop struct {
				Sleep struct {
					Seconds int `yaml:"seconds"`
				} `yaml:"sleep"`
			} `yaml:"preStop"`
		} `yaml:"lifecycle"`
		Resources struct {
			Requests map[string]string `yaml:"requests"`
			Limits   map[string]string `yaml:"limits"`
		} `yaml:"resources"`
		Security struct {
			Escalation   *bool `yaml:"allowPrivilegeEscalation"`
			ReadOnly     bool  `yaml:"readOnlyRootFilesystem"`
			Capabilities struct {
				Drop []string `yaml:"drop"`
			} `yaml:"capabilities"`
		} `yaml:"securityContext"`
		Mounts []struct {
			Name     string `yaml:"name"`
			Path     string `yaml:"mountPath"`
			ReadOnly bool   `yaml:"readOnly"`
		} `yaml:"volumeMounts"`
	}
	pod struct {
		Grace        int   `yaml:"terminationGracePeriodSeconds"`
		MountToken   *bool `yaml:"automountServiceAccountToken"`
		ServiceLinks *bool `yaml:"enableServiceLinks"`
		Security     struct {
			NonRoot bool              `yaml:"runAsNonRoot"`
			User    int               `yaml:"runAsUser"`
			Group   int               `yaml:"runAsGroup"`
			FSGroup int               `yaml:"fsGroup"`
			Seccomp map[string]string `yaml:"seccompProfile"`
		} `yaml:"securityContext"`
		Spread []struct {
			MaxSkew  int      `yaml:"maxSkew"`
			Key      string   `yaml:"topologyKey"`
			When     string   `yaml:"whenUnsatisfiable"`
			Selector selector `yaml:"labelSelector"`
		} `yaml:"topologySpreadConstraints"`
		Containers []container `yaml:"containers"`
		Volumes    []struct {
			Name   string `yaml:"name"`
			Secret struct {
				Name string `yaml:"secretName"`
				Mode int    `yaml:"defaultMode"`
			} `yaml:"secret"`
		} `yaml:"volumes"`
	}
	deployment struct {
		head `yaml:",inline"`
		Spec struct {
			Replicas int      `yaml:"replicas"`
			Selector selector `yaml:"selector"`
			Strategy struct {
				Type    string         `yaml:"type"`
				Rolling map[string]int `yaml:"rollingUpdate"`
			} `yaml:"strategy"`
			Template struct {
				Metadata meta `yaml:"metadata"`
				Spec     pod  `yaml:"spec"`
			} `yaml:"template"`
		} `yaml:"spec"`
	}
	budget struct {
		head `yaml:",inline"`
		Spec struct {
			MaxUnavailable int      `yaml:"maxUnavailable"`
			Selector       selector `yaml:"selector"`
		} `yaml:"spec"`
	}
	kubeService struct {
		head `yaml:",inline"`
		Spec struct {
			Selector map[string]string `yaml:"selector"`
			Ports    []port            `yaml:"ports"`
		} `yaml:"spec"`
	}
	namespace struct {
		head `yaml:",inline"`
	}
	peer struct {
		Namespaces *selector `yaml:"namespaceSelector"`
		Block      *struct {
			CIDR   string   `yaml:"cidr"`
			Except []string `yaml:"except"`
		} `yaml:"ipBlock"`
	}
	opening struct {
		From  []peer `yaml:"from"`
		To    []peer `yaml:"to"`
		Ports []struct {
			Protocol string `yaml:"protocol"`
			Port     any    `yaml:"port"`
		} `yaml:"ports"`
	}
	network struct {
		head `yaml:",inline"`
		Spec struct {
			Pods    selector  `yaml:"podSelector"`
			Types   []string  `yaml:"policyTypes"`
			Ingress []opening `yaml:"ingress"`
			Egress  []opening `yaml:"egress"`
		} `yaml:"spec"`
	}
	kustomization struct {
		APIVersion string   `yaml:"apiVersion"`
		Kind       string   `yaml:"kind"`
		Namespace  string   `yaml:"namespace"`
		Resources  []string `yaml:"resources"`
		ConfigMaps []struct {
			Name string   `yaml:"name"`
			Envs []string `yaml:"envs"`
		} `yaml:"configMapGenerator"`
		Images []struct {
			Name   string `yaml:"name"`
			NewTag string `yaml:"newTag"`
		} `yaml:"images"`
	}
)

// manifests is what deploy/k8s says, by name.
type manifests struct {
	kustomization
	deployments map[string]deployment
	budgets     map[string]budget
	services    map[string]kubeService
	networks    map[string]network
	settings    map[string]string // of the ConfigMap
}

var folder = filepath.Join(deployDir, "k8s")

func load(t *testing.T) manifests {
	t.Helper()
	m := manifests{
		deployments: map[string]deployment{}, budgets: map[string]budget{}, services: map[string]kubeService{}, networks: map[string]network{},
		settings: map[string]string{},
	}
	decode(t, read(t, folder, "kustomization.yaml"), &m.kustomization)
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil || len(files) != len(m.Resources)+1 {
		t.Errorf("%v: %d files for %d resources", err, len(files), len(m.Resources))
	}
	for _, file := range m.Resources {
		d := yaml.NewDecoder(bytes.NewReader(read(t, folder, file)))
		for {
			var document yaml.Node
			err := d.Decode(&document)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			m.add(t, file, &document)
		}
	}
	for _, generated := range m.ConfigMaps {
		for _, file := range generated.Envs {
			for line := range strings.Lines(string(read(t, folder, file))) {
				if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
					m.settings[name] = value
				}
			}
		}
	}
	return m
}

func (m *manifests) add(t *testing.T, file string, document *yaml.Node) {
	t.Helper()
	var h head
	if err := document.Decode(&h); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	switch h.APIVersion + " " + h.Kind {
	case "v1 Namespace":
		if strict[namespace](t, file, document).Metadata.Name != m.Namespace {
			t.Errorf("%s is not the namespace %s", file, m.Namespace)
		}
	case "apps/v1 Deployment":
		m.deployments[h.Metadata.Name] = strict[deployment](t, file, document)
	case "policy/v1 PodDisruptionBudget":
		m.budgets[h.Metadata.Name] = strict[budget](t, file, document)
	case "v1 Service":
		m.services[h.Metadata.Name] = strict[kubeService](t, file, document)
	case "networking.k8s.io/v1 NetworkPolicy":
		m.networks[h.Metadata.Name] = strict[network](t, file, document)
	default:
		t.Errorf("%s: %s %s is not known here", file, h.APIVersion, h.Kind)
	}
}

// strict decodes a document; a member that T does not have fails the test.
func strict[T any](t *testing.T, file string, document *yaml.Node) (out T) {
	t.Helper()
	raw, err := yaml.Marshal(document)
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	decode(t, raw, &out)
	return out
}

// goFiles are the contents of a folder's Go files, without tests.
func goFiles(t *testing.T, dir string) (all []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), ".go") && !strings.HasSuffix(f.Name(), "_test.go") {
			all = append(all, string(read(t, dir, f.Name())))
		}
	}
	return slices.Clip(all)
}
