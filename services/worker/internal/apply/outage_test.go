package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/testkit"
)

// While Cerbos does not answer, a command that needs it waits and holds its
// partition; other partitions go on; nothing is applied undecided.
func TestPartitionWaitsForCerbos(t *testing.T) {
	t.Parallel()
	pdp := testkit.CerbosServer(t, "../../../../policies")
	r := sqlite(t)
	az := need(authz.Open(t.Context(), "grpc:"+pdp.GRPCAddr(), authz.WithRevision("r1"), authz.WithTimeout(300*time.Millisecond)))(t)
	t.Cleanup(func() { _ = az.Close() })
	r.authz = az
	sam := r.person("sam", "user")
	stale, fresh := newID(), newID()
	for events.Partition(fresh) == events.Partition(stale) {
		fresh = newID()
	}
	for _, id := range []string{stale, fresh} {
		r.put(id, "sam")
	}
	attrs := map[string]any{"owner_id": "sam", "tenant": "default", "is_active": true}
	pdp.Kill()
	m1, waits := r.writ(sam, kind.ActionUpdate, stale, 7, attrs, `{"notes":"first"}`) // saw another version
	m2, behind := r.writ(sam, kind.ActionUpdate, stale, 1, attrs, `{"notes":"second"}`)
	m3, goes := r.writ(sam, kind.ActionUpdate, fresh, 1, attrs, `{"notes":"x"}`)
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

// A database that was restored from an older state is brought up to date from
// the ledger, although every command was acknowledged long ago: what was applied
// then is applied again, what was rejected is not, whatever policy and roles say
// today, and no outcome is published twice.
func TestRestoredDatabaseIsRolledForward(t *testing.T) {
	t.Parallel()
	r := sqlite(t)
	sam := r.person("sam", "user")
	p := r.start(nil)
	var commands, ids []string
	for i := range 30 {
		id, c := r.create(sam, fmt.Sprint(i))
		ids, commands = append(ids, id), append(commands, c)
	}
	r.outcomes(commands...)
	m, rejected := r.writ(sam, kind.ActionUpdate, ids[0], 1, map[string]any{"owner_id": "sam", "tenant": "default", "is_active": true}, `{"notes":"late"}`,
		func(_ *events.Decision, c *events.Command) { c.IfMatch = []int64{7} })
	r.append(m)
	before := r.outcomes(append(commands, rejected.ID)...)
	r.idle()
	p.end()
	size := len(r.ledgerEvents())

	r.store = need(openFresh(t))(t)
	r.person("sam", "guest") // today the policy would deny all of it
	r.start(nil)
	testkit.Eventually(t, soon, func() error {
		for _, id := range ids {
			if row, err := r.contact(id); err != nil || row.Version != 1 || row.Notes != "" {
				return fmt.Errorf("%+v: %w", row, err)
			}
		}
		row, err := r.store.Command(t.Context(), rejected.ID)
		if err == nil && (row.Status != events.StatusRejected || row.Code != "version-conflict") {
			t.Fatalf("%+v", row)
		}
		return err
	})
	for id, o := range r.outcomes(commands...) {
		if o.ID != before[id].ID || o.At != before[id].At {
			t.Fatalf("%+v, before %+v", o, before[id])
		}
	}
	if now := len(r.ledgerEvents()); now != size {
		t.Fatalf("%d messages on the ledger, before %d", now, size)
	}
}

// A database that has applied more than the ledger holds is another ledger's:
// the worker refuses to start rather than to take new commands for old ones.
func TestDatabaseAheadOfTheLedger(t *testing.T) {
	t.Parallel()
	r := sqlite(t)
	must(t, r.store.Update(t.Context(), func(ctx context.Context, tx *store.Tx) error { return tx.Move(ctx, 3, 0, 1000) }))
	loop := need(New(Config{Ledger: r.ledger, Store: r.store, Authz: r.authz, Keys: r.keys, Log: slog.New(slog.DiscardHandler), Telemetry: r.tel}))(t)
	if err := loop.Run(t.Context()); !errors.Is(err, ErrAhead) {
		t.Fatal(err)
	}
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
// those that need no decision are applied.
func TestHangingCerbosHoldsNobodyElse(t *testing.T) {
	t.Parallel()
	pdp := testkit.CerbosServer(t, "../../../../policies")
	proxy := testkit.NewProxy(t, pdp.GRPCAddr())
	r := sqlite(t)
	az := need(authz.Open(t.Context(), "grpc:"+proxy.Addr(), authz.WithRevision("r1")))(t)
	t.Cleanup(func() { _ = az.Close() })
	r.authz = az
	sam := r.person("sam", "user")
	attrs := map[string]any{"owner_id": "sam", "tenant": "default", "is_active": true}
	var fresh, all []string
	taken := map[int]bool{}
	for i := 0; len(taken) < events.Partitions; {
		id := newID()
		if taken[events.Partition(id)] {
			continue
		}
		taken[events.Partition(id)] = true
		r.put(id, "sam")
		version := int64(1)
		if i++; i%2 == 0 {
			version = 7 // saw another one: it must be decided again
		}
		m, c := r.writ(sam, kind.ActionUpdate, id, version, attrs, `{"notes":"x"}`)
		r.append(m)
		all = append(all, c.ID)
		if version == 1 {
			fresh = append(fresh, c.ID)
		}
	}
	proxy.Stall()
	r.start(nil)
	r.outcomes(fresh...)
	proxy.Restore()
	for id, o := range r.outcomes(all...) {
		if o.Status != events.StatusApplied {
			t.Errorf("%s: %+v", id, o)
		}
	}
}
