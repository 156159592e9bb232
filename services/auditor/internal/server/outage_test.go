package server

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/testkit"
)

// TestOutageIs503 takes away one part after the other: nobody sees anything of
// the log that was not decided about and recorded.
func TestOutageIs503(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(t *testing.T, r *rig) (stop, start func())
		open    bool // what is public still answers
	}{
		"ledger": {func(t *testing.T, r *rig) (func(), func()) {
			server := testkit.NATS(t)
			r.nats = server.URL()
			return func() { server.Stop(t) }, func() { server.Start(t) }
		}, true},
		"redis": {func(t *testing.T, r *rig) (func(), func()) {
			server := testkit.RedisServer(t)
			proxy := testkit.NewProxy(t, server.Addr())
			r.redis = "redis://" + proxy.Addr() + "/0"
			return proxy.Cut, proxy.Restore
		}, false},
		"database": {func(t *testing.T, r *rig) (func(), func()) {
			server := testkit.PostgresServer(t)
			r.open(server.Database(t))
			return func() { server.Stop(t) }, func() { server.Start(t) }
		}, true},
		"cerbos": {func(t *testing.T, r *rig) (func(), func()) {
			pdp := testkit.CerbosServer(t, "../../../../policies")
			az := need(authz.Open(t.Context(), "grpc://"+pdp.GRPCAddr(), authz.WithRevision("r")))(t)
			t.Cleanup(func() { _ = az.Close() })
			r.authz = az
			return func() { pdp.Stop(t) }, func() { pdp.Start(t) }
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stop, start func()
			r := newRig(t, func(r *rig) { stop, start = c.prepare(t, r) })
			enough := r.copying()
			d := made(nil)
			r.record(d)
			r.covered()
			enough()
			_, token := r.person("olive", in(user.DefaultTenant, "auditor"))
			paths := routes(d.ID)
			paths["/v1/decisions/stream"] = actionStream
			delete(paths, "/v1/decisions/export") // its answer has no end of its own here
			s := r.follow(t.Context(), "", token)
			_ = s.body.Close()

			stop()
			for path := range paths {
				ctx, cancel := context.WithTimeout(t.Context(), soon)
				began := time.Now()
				res, err := http.DefaultClient.Do(r.request(ctx, path, token))
				if err != nil {
					t.Errorf("%s: %v", path, err)
				} else {
					_ = res.Body.Close()
					if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" || time.Since(began) > requestTimeout+time.Second {
						t.Errorf("%s: %d after %s", path, res.StatusCode, time.Since(began))
					}
				}
				cancel()
			}
			for _, path := range []string{"/checkpoint", "/tile/0/000.p/1"} {
				if a := r.get(path, ""); (a.status == 200) != c.open || !c.open && a.status != http.StatusServiceUnavailable {
					t.Errorf("%s: %d %.200s", path, a.status, a.body)
				}
			}
			start()
			testkit.Eventually(t, soon, func() error {
				if a := r.get("/v1/decisions/"+d.ID, token); a.status != 200 {
					return a.problemOf()
				}
				return nil
			})
		})
	}
}

func TestUnknownJWTWithoutStytchIs503(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, token := r.person("olive", in(user.DefaultTenant, "auditor"))
	r.stytch.CloseClientConnections()
	r.stytch.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	if a := r.get("/v1/decisions", token); a.status != http.StatusServiceUnavailable {
		t.Errorf("%d %s", a.status, a.body)
	}
	if looks := r.looks(); len(looks) != 0 {
		t.Errorf("%+v", looks)
	}
}

// TestWhatIsBrokenIsNotPassedOverInSilence edits an entry in Redis so that it is
// no decision any more.
func TestWhatIsBrokenIsNotPassedOverInSilence(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fill(10, func(int) *events.Decision { return made(nil) })
	_, token := r.person("olive", in(user.DefaultTenant, "auditor"))
	it := r.list(token, "order=oldest").Items[9]
	must(t, r.rdb.XDel(t.Context(), "writ:decisions", it.ID).Err())
	must(t, r.rdb.Do(t.Context(), "XADD", "writ:decisions", it.ID+"0", "decision", "rubbish").Err())
	if p := r.list(token, ""); p.Unreadable != 1 || len(p.Items) != 9 {
		t.Errorf("%+v", p.Searched)
	}
}
