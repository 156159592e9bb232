// Package videos sends files to the services and does to them what happens to
// files: they are large, broken, cut short, replaced and deleted, and the
// processes that work on them are killed.
package videos

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	soon = 30 * time.Second
	// taken is within how long a killed worker's job goes to another, and more.
	taken = 90 * time.Second
)

func TestVideos(t *testing.T) {
	s := start(t)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	t.Run("a large file takes little memory", s.largeFile)
	t.Run("what is no video fails", s.broken)
	// The leases of the dead and the patience with the slow are 30 s each: they are
	// waited for together.
	var last []func()
	parent := t
	begin := func(name string, begins func(*testing.T) (ends func(*testing.T))) {
		t.Run(name, func(t *testing.T) {
			ends := begins(t)
			last = append(last, func() { parent.Run(name+", at last", ends) })
		})
	}
	begin("an api killed in the middle of an upload", s.killedAPI)
	begin("a slow sender is cut off", s.slow)
	begin("a worker killed at any time", s.killedWorker)
	t.Run("what is replaced or deleted is put away", s.putAway)
	t.Run("writ jobs", s.commandLine)
	for _, ends := range last {
		ends()
	}
	outside.Settled(t, &s.Stack, soon)
	outside.Audit(t, &s.Stack)
}

// commandLine looks after the jobs with writ jobs.
func (s *studio) commandLine(t *testing.T) {
	admin := s.SessionToken(t, "alice@example.com", "admin")
	writ := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), outside.Binary(t, "writ"), append([]string{"jobs"}, args...)...)
		cmd.Env = append(os.Environ(), "WRIT_URL="+s.API, "WRIT_TOKEN="+admin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("writ jobs %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	if out := writ("pause", "probe"); !strings.Contains(out, "true") {
		t.Errorf("%s", out)
	}
	f := s.film(t)
	s.send(t, f.ID, sample(t))
	var job struct{ ID, Status string }
	testkit.Eventually(t, soon, func() error {
		for line := range strings.Lines(writ("list", "--queue", "probe", "--status", "paused", "-o", "json")) {
			if strings.Contains(line, f.ID) { // others may have been left by the worker that was killed
				return json.Unmarshal([]byte(line), &job)
			}
		}
		return errors.New("its job is not paused")
	})
	if err := json.Unmarshal([]byte(writ("show", job.ID)), &job); err != nil || job.Status != "paused" {
		t.Errorf("%+v, %v", job, err)
	}
	if err := json.Unmarshal([]byte(writ("cancel", job.ID)), &job); err != nil || job.Status != "cancelled" {
		t.Errorf("%+v, %v", job, err)
	}
	writ("resume", "probe")
	if out := writ("queues"); !strings.Contains(out, "probe") || strings.Contains(out, "true") {
		t.Errorf("%s", out)
	}
	if err := json.Unmarshal([]byte(writ("retry", job.ID)), &job); err != nil || job.Status != "queued" {
		t.Errorf("%+v, %v", job, err)
	}
	s.ends(t, f.ID, "PROCESSED", soon)
}
