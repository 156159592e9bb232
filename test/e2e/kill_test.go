package e2e

import (
	"context"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/writ-project/writ/test/e2e/outside"
)

// victim is a process to be killed under load.
type victim struct {
	name  string
	kill  func()
	start func(testing.TB)
	// down is the name under which a service's /readyz tells of the loss, and readyz that service; "" for none.
	down, readyz string
	// create is what a create gets meanwhile: 503, 202, or 0 for no answer at all.
	create int
}

// killEach kills every process once while creates go on, and starts it again. What was accepted must be applied once.
func killEach(t *testing.T, s *outside.Services) {
	seed := seed(t)
	random := rand.New(rand.NewPCG(seed, 1))
	client := outside.NewClient(t, s.API, s.SignIn(t, "survivor@example.com"))
	var all []*outside.Create
	for _, v := range []victim{
		{"api", s.APIProc.Kill, s.APIProc.Start, "", "", 0},
		{"worker", s.WorkerProc.Kill, s.WorkerProc.Start, "", "", http.StatusAccepted},
		{"auditor", s.AuditorProc.Kill, s.AuditorProc.Start, "", "", http.StatusAccepted},
		{"nats", s.NATSServer.Kill, s.NATSServer.Start, "ledger", s.API, http.StatusServiceUnavailable},
		{"redis", s.RedisProc.Kill, s.RedisProc.Start, "redis", s.Auditor, http.StatusAccepted},
		{"cerbos", s.Cerbos.Kill, s.Cerbos.Start, "cerbos", s.API, http.StatusServiceUnavailable},
		{"postgres", s.Postgres.Kill, s.Postgres.Start, "database", s.API, http.StatusServiceUnavailable},
	} {
		t.Run(v.name, func(t *testing.T) {
			const n = 60
			creates := outside.NewCreates(random, "kill-"+v.name, n)
			probe := &outside.Create{}
			outside.Send(t, client, creates, outside.Sending{Workers: 8, Retry: true, At: 5 + random.IntN(n/3), Then: func() {
				v.kill()
				meanwhile(t, client, v, probe)
				if v.down != "" {
					outside.Ready(t, v.readyz, v.down)
				}
				v.start(t)
			}})
			for _, service := range []string{s.API, s.Worker, s.Auditor} {
				outside.Ready(t, service, "")
			}
			all = append(all, creates...)
			if probe.Answered {
				all = append(all, probe)
			}
		})
	}
	tally := outside.Check(t, &s.Stack, client, all)
	t.Logf("of %d creates: %+v", len(all), tally)
}

// meanwhile sends one create that is not repeated while the victim is dead.
func meanwhile(t *testing.T, client *outside.Client, v victim, probe *outside.Create) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	mark := "while-" + v.name + "-is-dead"
	answer, err := client.Try(ctx, "POST", "/v1/contacts", `{"first_name":"Load","last_name":"`+mark+`"}`)
	switch {
	case v.create == 0 && err == nil:
		t.Errorf("%s is dead and answers %d", v.name, answer.Status)
	case v.create == 0:
	case err != nil || answer.Status != v.create:
		t.Errorf("while %s was dead a create got %d %s %v, want %d", v.name, answer.Status, answer.Body, err, v.create)
	case v.create == http.StatusServiceUnavailable && answer.Header.Get("Retry-After") == "":
		t.Errorf("while %s was dead: 503 without Retry-After", v.name)
	}
	if answer.Status == http.StatusAccepted {
		var accepted outside.Accepted
		answer.Decode(t, &accepted)
		*probe = *outside.Sent(mark, accepted)
	}
}

// seed is WRIT_SEED, or one that is new and printed.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := rand.Uint64()
	if text := os.Getenv("WRIT_SEED"); text != "" {
		var err error
		if s, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("WRIT_SEED: %v", err)
		}
	}
	t.Logf("WRIT_SEED=%d", s)
	return s
}
