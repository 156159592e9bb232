package testkit

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// WithoutRace runs this test, and others of its package, again in a process of its own
// without the race detector: for those that compute much in one goroutine, where there
// is no race to be found and the detector makes them five to fifty times as slow. They
// have as long as a package's tests may take.
func WithoutRace(t *testing.T, others ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	all := append([]string{t.Name()}, others...)
	again := exec.CommandContext(ctx, "go", "test", "-race=false", "-count=1", "-timeout=9m", "-v", "-run=^("+strings.Join(all, "|")+")$", ".")
	out, err := again.CombinedOutput()
	t.Logf("%s\n%s", again, out)
	if err != nil {
		t.Error(err)
	}
	if strings.Contains(string(out), "--- SKIP") {
		Need(t, "all that the test needs", errors.New("it was skipped"))
	}
	for _, name := range all {
		if !strings.Contains(string(out), "--- PASS: "+name+" ") {
			t.Errorf("%s did not pass", name)
		}
	}
}
