// Package deploy holds what operators are given beside Compose against the services as they run: the dashboard, the alerts
// and the manifests for Kubernetes.
package deploy

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	root      = "../.."
	deployDir = root + "/deploy"
)

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// decode reads the only document of a YAML file; a member that out does not have fails the test.
func decode(t *testing.T, content []byte, out any) {
	t.Helper()
	d := yaml.NewDecoder(bytes.NewReader(content))
	d.KnownFields(true)
	if err := d.Decode(out); err != nil {
		t.Fatal(err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		t.Fatalf("more than one document: %v", err)
	}
}
