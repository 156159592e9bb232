// Package outside is writ as somebody outside has it: HTTP, the command line, Redis and NATS. The end-to-end and
// chaos tests work with this and with nothing of writ's inside but its wire contract.
package outside

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Stack is a running writ, however it was put together. The fields are URLs.
type Stack struct {
	API, Auditor, Worker, NATS, Redis string
	// SignIn makes a user if new, else gives them the roles, and returns a session JWT.
	SignIn func(t testing.TB, email string, roles ...string) (jwt string)
}

// Binary is the path of writ, api, worker or auditor: in WRIT_BIN_DIR, else built.
func Binary(t testing.TB, name string) string {
	t.Helper()
	dir, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// binaries is the folder with the programs under test.
var binaries = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("WRIT_BIN_DIR"); dir != "" {
		return filepath.Abs(dir)
	}
	root, err := Repository()
	if err != nil {
		return "", err
	}
	// One folder for each package of tests, used again by every run, so that nothing piles up.
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("writ-%s-%d", filepath.Base(os.Args[0]), os.Getuid()))
	build := exec.Command("go", "build", "-o", dir+string(filepath.Separator),
		"./cmd/writ", "./services/api/cmd/api", "./services/worker/cmd/worker", "./services/auditor/cmd/auditor")
	build.Dir = root
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(build.Args, " "), err, output)
	}
	return dir, nil
})

// Repository is the folder that holds go.work.
func Repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.work in this folder or above")
		}
		dir = parent
	}
}

// Policies is the folder of the policies.
func Policies(t testing.TB) string {
	t.Helper()
	root, err := Repository()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "policies")
}
