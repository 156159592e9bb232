package chaos

import (
	"context"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

// TestRollingRestart replaces every service by its next instance, one after the other, while clients send: each ends
// with 0 within 10 s of its SIGTERM, nobody is refused anything (what finds no connection goes to the other instance), and
// nothing is lost.
func TestRollingRestart(t *testing.T) {
	seed := seed(t)
	s := outside.StartServices(t, "rolling-1")
	bases := []string{s.API, ""}
	type instance struct {
		name string
		*testkit.Process
	}
	all := []instance{{"worker", s.WorkerProc}, {"auditor", s.AuditorProc}, {"api", s.APIProc}}
	second := make([]instance, 3)
	for i, name := range []string{"worker", "auditor", "api"} { // readers before writers
		p, base := s.Another(t, name)
		second[i] = instance{name + " 2", p}
		if name == "api" {
			bases[1] = base
		}
	}
	load := newLoad(t, s, bases, seed)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	load.start(ctx)
	report := &table{}
	for i := range all {
		for _, p := range []instance{all[i], second[i]} {
			load.progress(t, 50) // it works before the next one goes
			began := time.Now()
			if code := p.Stop(t, 10*time.Second); code != 0 {
				t.Errorf("%s ended with %d", p.name, code)
			}
			report.row(p.name+" stopped in", time.Since(began).Round(time.Millisecond))
			load.progress(t, 50) // and while it is away
			p.Start(t)
		}
	}
	load.progress(t, 100)
	cancel()
	load.finish(t)
	if n := load.refused.Load(); n > 0 {
		t.Errorf("%d requests were refused", n)
	}
	load.check(t, report)
	t.Logf("\n%s", report)
}
