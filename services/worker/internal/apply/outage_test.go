package apply

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/testkit"
)

// While Cerbos does not answer, a command that needs it waits and holds its
// shard; other shards go on; nothing is applied undecided.
func TestShardWaitsForCerbos(t *testing.T) {
	t.Parallel()
	pdp := testkit.CerbosServer(t, "../../../../policies")
	r := newRig(t, "sqlite:"+filepath.Join(t.TempDir(), "writ.db"), 2)
	az := need(authz.Open(t.Context(), "grpc:"+pdp.GRPCAddr(), authz.WithRevision("r1"), authz.WithTimeout(300*time.Millisecond)))(t)
	t.Cleanup(func() { _ = az.Close() })
	r.authz = az
	sam := r.person("sam", "user")
	stale, fresh := r.inShard(0), r.inShard(1)
	for _, id := range []string{stale, fresh} {
		r.put(id, "sam")
	}
	pdp.Kill()
	m1, waits := r.writ(sam, kind.ActionUpdate, stale, 7, owned, `{"notes":"first"}`) // saw another version
	m2, behind := r.writ(sam, kind.ActionUpdate, stale, 1, owned, `{"notes":"second"}`)
	m3, goes := r.writ(sam, kind.ActionUpdate, fresh, 1, owned, `{"notes":"x"}`)
	for _, m := range []events.Message{m1, m2, m3} {
		r.append(m)
	}
	r.start(nil)
	r.outcomes(goes.ID)
	for _, c := range []string{waits.ID, behind.ID} {
		if _, err := r.store.Command(t.Context(), c); !fault.Is(err, fault.NotFound) {
			t.Fatalf("applied undecided: %v", err)
		}
	}
	pdp.Start(t)
	all := r.outcomes(waits.ID, behind.ID)
	if all[waits.ID].Version != 2 || all[behind.ID].Version != 3 {
		t.Fatalf("%+v", all)
	}
}

func TestDatabaseRestartsUnderLoad(t *testing.T) {
	t.Parallel()
	pg := testkit.PostgresServer(t)
	r := newRig(t, pg.Database(t))
	sam := r.person("sam", "user")
	r.start(nil)
	var commands []string
	for i := range 200 {
		_, c := r.create(sam, fmt.Sprint(i))
		commands = append(commands, c)
		if i == 60 {
			pg.Kill()
		}
		if i == 120 {
			pg.Start(t)
		}
	}
	all := r.outcomes(commands...)
	for _, c := range commands {
		if o := all[c]; o.Status != events.StatusApplied || o.Version != 1 {
			t.Fatalf("%+v", o)
		}
	}
	r.idle()
}

// While nothing can be applied, readiness says why; nothing is lost.
func TestTroubleShows(t *testing.T) {
	t.Parallel()
	pg := testkit.PostgresServer(t)
	r := newRig(t, pg.Database(t))
	sam := r.person("sam", "user")
	p := r.start(nil)
	_, first := r.create(sam, "one")
	r.outcomes(first)
	must(t, p.loop.Ready(t.Context()))
	pg.Kill()
	_, second := r.create(sam, "two")
	testkit.Eventually(t, soon, func() error {
		if p.loop.Ready(t.Context()) == nil {
			return errors.New("still ready")
		}
		return nil
	})
	pg.Start(t)
	r.outcomes(first, second)
	testkit.Eventually(t, soon, func() error { return p.loop.Ready(t.Context()) })
}

// A Cerbos that hangs costs a batch one timeout, however many commands need it:
// those before the first one are applied at once, those of other shards too, and
// when it answers again all go on, in order.
func TestHangingCerbosHoldsNobodyElse(t *testing.T) {
	t.Parallel()
	pdp := testkit.CerbosServer(t, "../../../../policies")
	proxy := testkit.NewProxy(t, pdp.GRPCAddr())
	r := newRig(t, "sqlite:"+filepath.Join(t.TempDir(), "writ.db"), 2)
	az := need(authz.Open(t.Context(), "grpc:"+proxy.Addr(), authz.WithRevision("r1")))(t)
	t.Cleanup(func() { _ = az.Close() })
	r.authz = az
	sam := r.person("sam", "user")
	var fresh, all []string
	var messages []events.Message
	for i := range 12 {
		id := r.inShard(i % 2)
		r.put(id, "sam")
		version := int64(1)
		if i%2 == 0 && i >= 4 {
			version = 7 // saw another one: it must be decided again
		}
		m, c := r.writ(sam, kind.ActionUpdate, id, version, owned, `{"notes":"x"}`)
		messages, all = append(messages, m), append(all, c.ID)
		if i%2 == 1 || i < 4 {
			fresh = append(fresh, c.ID)
		}
	}
	proxy.Stall()
	r.batch(messages...)
	r.start(nil)
	r.outcomes(fresh...)
	proxy.Restore()
	for id, o := range r.outcomes(all...) {
		if o.Status != events.StatusApplied {
			t.Errorf("%s: %+v", id, o)
		}
	}
}
