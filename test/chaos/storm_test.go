package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

// stormClients are the clients that keep sending while things break.
const stormClients = 32

// TestStorm runs two instances of each service beside NATS, PostgreSQL, Redis and Cerbos, sends a mixed load, and at
// random kills, pauses and restarts every process and cuts and stalls every connection. Then everything has to fit:
// every accepted command has one outcome and its effect, in the ledger's order; the read model equals a replay of the
// ledger; Redis holds every decision once; nobody waited past their deadline.
func TestStorm(t *testing.T) {
	faults := 8
	if os.Getenv("WRIT_CHAOS") == "full" {
		faults = 100
	}
	seed := seed(t)
	s := outside.StartProxied(t, "storm-1")
	w := &weather{s: s, processes: map[string]*testkit.Process{
		"api": s.APIProc, "worker": s.WorkerProc, "auditor": s.AuditorProc,
		"nats": s.NATSServer.Process, "postgres": nil, "redis": s.RedisProc.Process, "cerbos": s.Cerbos.Process,
	}}
	bases := []string{s.API, ""}
	w.processes["api 2"], bases[1] = s.Another(t, "api")
	w.processes["worker 2"], _ = s.Another(t, "worker")
	w.processes["auditor 2"], _ = s.Another(t, "auditor")

	load := newLoad(t, s, bases, seed)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	began := time.Now()
	load.start(ctx)
	report := &table{}
	report.row("seed", seed)
	for _, f := range schedule(seed, faults) {
		load.progress(t, 20) // it works before the next thing breaks
		w.strike(t, f)
	}
	load.progress(t, 200)
	cancel()
	load.finish(t)

	report.row("faults", fmt.Sprintf("%d in %s", faults, time.Since(began).Round(time.Second)))
	for _, kind := range []string{kill, restart, pause, cut, stall, slow} {
		report.row("… "+kind, count(w.struck, kind))
	}
	load.check(t, report)
	t.Logf("\n%s", report)
}

// The kinds of faults.
const (
	kill    = "kill -9 and start"
	restart = "SIGTERM and start"
	pause   = "SIGSTOP, SIGCONT"
	cut     = "connections cut"
	stall   = "connections stalled"
	slow    = "connections slow"
)

// fault is one thing that breaks, and for how long.
type fault struct {
	what, kind string
	lasts      time.Duration
}

// schedule chooses the faults: the same for the same seed. Every process is killed and paused and every server cut off
// before anything comes a second time.
func schedule(seed uint64, n int) []fault {
	random := rand.New(rand.NewPCG(seed, 7))
	var round []fault
	for _, p := range []string{"api", "api 2", "worker", "worker 2", "auditor", "auditor 2"} {
		round = append(round, fault{what: p, kind: kill}, fault{what: p, kind: pause}, fault{what: p, kind: restart})
	}
	for _, p := range []string{"nats", "redis", "cerbos"} {
		round = append(round, fault{what: p, kind: kill}, fault{what: p, kind: pause})
	}
	round = append(round, fault{what: "postgres", kind: kill})
	for _, p := range []string{"nats", "postgres", "redis", "cerbos"} {
		round = append(round, fault{what: p, kind: cut}, fault{what: p, kind: stall}, fault{what: p, kind: slow})
	}
	var all []fault
	for len(all) < n {
		random.Shuffle(len(round), func(i, j int) { round[i], round[j] = round[j], round[i] })
		all = append(all, slices.Clone(round)...)
	}
	all = all[:n]
	for i := range all {
		all[i].lasts = time.Duration(50+random.IntN(1500)) * time.Millisecond
	}
	return all
}

// weather breaks things.
type weather struct {
	s         *outside.Services
	processes map[string]*testkit.Process
	struck    []fault
}

func (w *weather) strike(t *testing.T, f fault) {
	t.Helper()
	w.struck = append(w.struck, f)
	last := func() { // how long a fault lasts is what the schedule says; nothing is waited for
		timer := time.NewTimer(f.lasts)
		defer timer.Stop()
		<-timer.C
	}
	p := w.processes[f.what]
	switch f.kind {
	case kill:
		if f.what == "postgres" {
			w.s.Postgres.Kill()
			w.s.Postgres.Start(t)
			return
		}
		p.Kill()
		last()
		p.Start(t)
	case restart:
		if code := p.Stop(t, 15*time.Second); code != 0 {
			t.Errorf("%s ended with %d after SIGTERM", f.what, code)
		}
		p.Start(t)
	case pause:
		p.Pause(t)
		last()
		p.Resume(t)
	case cut, stall, slow:
		proxy := w.s.Proxies[f.what]
		switch f.kind {
		case cut:
			proxy.Cut()
		case stall:
			proxy.Stall()
		case slow:
			proxy.Delay(20 * time.Millisecond)
		}
		last()
		proxy.Restore()
	}
}

func count(all []fault, kind string) (n int) {
	for _, f := range all {
		if f.kind == kind {
			n++
		}
	}
	return n
}
