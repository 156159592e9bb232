package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestCommandsAreAppliedInOrder(t *testing.T) {
	t.Parallel()
	databases(t, func(t *testing.T, r *rig) {
		sam := r.person("sam", "user")
		r.start(nil)
		id, first := r.create(sam, "one")
		commands := []string{first}
		for i := range 40 {
			m, c := r.writ(sam, kind.ActionUpdate, id, int64(i+1), map[string]any{"owner_id": "sam", "tenant": "default", "is_active": true}, fmt.Sprintf(`{"notes":"%d"}`, i))
			r.append(m)
			commands = append(commands, c.ID)
		}
		all := r.outcomes(commands...)
		for i, c := range commands {
			if o := all[c]; o.Status != events.StatusApplied || o.Version != int64(i+1) {
				t.Fatalf("command %d: %+v", i, o)
			}
		}
		row := need(r.contact(id))(t)
		if row.Notes != "39" || row.Version != 41 || row.OwnerID != "sam" {
			t.Fatalf("%+v", row)
		}
		m, c := r.writ(sam, kind.ActionDelete, id, 41, map[string]any{"owner_id": "sam", "tenant": "default", "is_active": true}, "")
		r.append(m)
		r.outcomes(c.ID)
		if _, err := r.contact(id); !fault.Is(err, fault.NotFound) {
			t.Fatalf("after the delete: %v", err)
		}
		r.idle()
	})
}

// The three rows of a worker that is killed around its commit: before it, after
// it and before the outcome, after the outcome and before the ack.
func TestKilledWorkerHasOneEffect(t *testing.T) {
	t.Parallel()
	for _, at := range []point{beforeCommit, afterCommit, afterPublish} {
		t.Run(string(at), func(t *testing.T) {
			t.Parallel()
			databases(t, func(t *testing.T, r *rig) {
				sam := r.person("sam", "user")
				first := r.start(func(p point) bool { return p == at })
				var ids, commands []string
				for i := range 20 {
					id, c := r.create(sam, fmt.Sprint("c", i))
					ids, commands = append(ids, id), append(commands, c)
				}
				if got := <-first.died; got != at {
					t.Fatalf("died %s", got)
				}
				first.end()
				if at == beforeCommit {
					for _, c := range commands {
						if _, err := r.store.Command(t.Context(), c); !fault.Is(err, fault.NotFound) {
							t.Fatalf("a trace in SQL before the commit: %v", err)
						}
					}
				}
				r.start(nil)
				all := r.outcomes(commands...)
				for i, c := range commands {
					if o := all[c]; o.Status != events.StatusApplied || o.Version != 1 {
						t.Fatalf("%+v", o)
					}
					if row := need(r.contact(ids[i]))(t); row.Version != 1 {
						t.Fatalf("%+v", row)
					}
				}
				r.idle()
				r.outcomes(commands...) // still one each when all redeliveries are done
			})
		})
	}
}

// A worker is paused in the middle of its transaction, another takes over (when
// PostgreSQL has ended the idle transaction, which holds the position), the
// first one wakes: it has lost its batch.
func TestWokenWorkerLosesItsBatch(t *testing.T) {
	t.Parallel()
	r := newRig(t, testkit.Postgres(t))
	sam := r.person("sam", "user")
	paused, wake := make(chan struct{}), make(chan struct{})
	first := r.start(nil, func(l *Loop) {
		h := l.handlers["contact"]
		apply := h.Apply
		var once sync.Once
		h.Apply = func(row *kind.Row, c *events.Command) (*kind.Row, error) {
			once.Do(func() {
				close(paused)
				<-wake
			})
			return apply(row, c)
		}
		l.handlers["contact"] = h
	})
	id, c1 := r.create(sam, "one")
	<-paused
	first.nc.Close() // a paused process asks for nothing: the partition goes to another
	m, c2 := r.writ(sam, kind.ActionUpdate, id, 1, map[string]any{"owner_id": "sam", "tenant": "default", "is_active": true}, `{"notes":"two"}`)
	r.append(m)
	r.start(nil)
	all := r.outcomes(c1, c2.ID)
	if all[c1].Version != 1 || all[c2.ID].Version != 2 {
		t.Fatalf("%+v", all)
	}
	close(wake)
	first.end()
	r.idle()
	r.outcomes(c1, c2.ID)
	if row := need(r.contact(id))(t); row.Version != 2 || row.Notes != "two" {
		t.Fatalf("%+v", row)
	}
}

func TestTakeoverKeepsTheOrder(t *testing.T) {
	t.Parallel()
	r := sqlite(t)
	sam := r.person("sam", "user")
	first := r.start(func(p point) bool { return p == beforeCommit })
	id, c := r.create(sam, "one")
	<-first.died
	first.end()
	commands := []string{c}
	for i := range 10 { // new commands, while the first is delivered and unacknowledged
		m, c := r.writ(sam, kind.ActionUpdate, id, int64(i+1), map[string]any{"owner_id": "sam", "tenant": "default", "is_active": true}, fmt.Sprintf(`{"notes":"%d"}`, i))
		r.append(m)
		commands = append(commands, c.ID)
	}
	r.start(nil)
	all := r.outcomes(commands...)
	for i, c := range commands {
		if o := all[c]; o.Status != events.StatusApplied || o.Version != int64(i+1) {
			t.Fatalf("command %d: %+v", i, o)
		}
	}
	r.idle()
}

func TestCrashingHandlerFailsItsCommandOnly(t *testing.T) {
	t.Parallel()
	r := sqlite(t)
	sam := r.person("sam", "user")
	var tries atomic.Int32
	r.start(nil, func(l *Loop) {
		h := l.handlers["contact"]
		good := h.Apply
		h.Apply = func(row *kind.Row, c *events.Command) (*kind.Row, error) {
			if strings.Contains(string(c.Body), "boom") {
				tries.Add(1)
				panic("boom")
			}
			return good(row, c)
		}
		l.handlers["contact"] = h
	})
	_, before := r.create(sam, "before")
	_, bad := r.create(sam, "boom")
	_, after := r.create(sam, "after")
	all := r.outcomes(before, bad, after)
	if all[before].Status != events.StatusApplied || all[after].Status != events.StatusApplied {
		t.Fatalf("%+v", all)
	}
	if o := all[bad]; o.Status != events.StatusFailed || o.Attempts != attempts || int(tries.Load()) != attempts {
		t.Fatalf("%+v after %d tries", o, tries.Load())
	}
	if dead := r.dead(); len(dead) != 1 || dead[strconv.FormatUint(all[bad].Sequence, 10)] != "failed" {
		t.Fatalf("dead letters: %v", dead)
	}
}

// What the database refuses fails alone; the rest of its batch goes on.
func TestUnstorableRowFailsItsCommandOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t, testkit.Postgres(t))
	sam := r.person("sam", "user")
	var commands []string
	for i := range 9 {
		name := fmt.Sprint("c", i)
		if i == 4 {
			name = "nul\x00"
		}
		id := newID()
		m, c := r.writ(sam, kind.ActionCreate, id, 0, nil, `{"first_name":"`+strings.ReplaceAll(name, "\x00", `\u0000`)+`"}`)
		r.append(m)
		commands = append(commands, c.ID)
	}
	r.start(nil)
	all := r.outcomes(commands...)
	for i, c := range commands {
		want := events.StatusApplied
		if i == 4 {
			want = events.StatusFailed
		}
		if all[c].Status != want {
			t.Fatalf("command %d: %+v", i, all[c])
		}
	}
	if dead := r.dead(); len(dead) != 1 {
		t.Fatalf("dead letters: %v", dead)
	}
}

func TestForgedWritIsNeverApplied(t *testing.T) {
	t.Parallel()
	r := sqlite(t)
	sam := r.person("sam", "user")
	strangers := need(events.ParseKeyring(events.GenerateKey("test")))(t)
	body := `{"first_name":"forged"}`
	forge := map[string]func() events.Message{
		"bad-seal": func() events.Message {
			ours := r.keys
			r.keys = strangers
			defer func() { r.keys = ours }()
			m, _ := r.writ(sam, kind.ActionCreate, newID(), 0, nil, body)
			return m
		},
		"mismatch": func() events.Message { // the body was changed after the seal
			m, _ := r.writ(sam, kind.ActionCreate, newID(), 0, nil, body)
			m.Data = []byte(strings.Replace(string(m.Data), "forged", "forgex", 1))
			return m
		},
		"unknown-version": func() events.Message {
			m, _ := r.writ(sam, kind.ActionCreate, newID(), 0, nil, body)
			m.Data = []byte(strings.Replace(string(m.Data), events.TypeWrit, "writ.command.v9", 1))
			return m
		},
		"malformed": func() events.Message {
			m, _ := r.writ(sam, kind.ActionCreate, newID(), 0, nil, body)
			m.Data = m.Data[:len(m.Data)/2]
			return m
		},
	}
	want := map[string]string{}
	for code, make := range forge {
		want[strconv.FormatUint(r.append(make()), 10)] = code
	}
	_, good := r.create(sam, "good")
	r.start(nil)
	r.outcomes(good)
	r.idle()
	got := r.dead()
	for seq, code := range want {
		if got[seq] != code {
			t.Errorf("message %s: %q, want %q", seq, got[seq], code)
		}
	}
	for _, e := range r.ledgerEvents() {
		if e.Type == events.TypeOutcome && e.Outcome.CommandID != good {
			t.Errorf("a forged command has an outcome: %+v", e.Outcome)
		}
	}
}

func TestExpiredWritFails(t *testing.T) {
	t.Parallel()
	r := sqlite(t)
	sam := r.person("sam", "user")
	_, c := r.writ(sam, kind.ActionCreate, newID(), 0, nil, `{"first_name":"late"}`)
	d := events.Decision{ID: newID(), Stage: events.StageRequest, Tenant: c.Tenant, Principal: sam, Action: c.Action, Effect: events.Allow,
		Resource: events.Resource{Kind: c.Kind, ID: c.ResourceID}, Policy: events.Policy{Revision: r.authz.Revision()}}
	r.append(need(events.NewWrit(r.keys, &d, &c, time.Now().Add(-2*events.Leeway)))(t))
	r.start(nil)
	if o := r.outcomes(c.ID)[c.ID]; o.Status != events.StatusFailed || o.Code != "expired" {
		t.Fatalf("%+v", o)
	}
	if _, err := r.contact(c.ResourceID); !fault.Is(err, fault.NotFound) {
		t.Fatal("it was applied")
	}
	if dead := r.dead(); len(dead) != 1 {
		t.Fatalf("dead letters: %v", dead)
	}
}

// A decision goes stale when the row, the principal or the policy has moved on:
// it is taken again with what is true now, and both are on the ledger.
func TestStaleDecisionIsTakenAgain(t *testing.T) {
	t.Parallel()
	type change struct {
		name   string
		before func(r *rig, id string)
		status events.Status
	}
	for _, c := range []change{
		{"row changed, still the owner's", func(r *rig, id string) { r.put(id, "sam") }, events.StatusApplied},
		{"row given away", func(r *rig, id string) { r.put(id, "rim") }, events.StatusRejected},
		{"role taken away", func(r *rig, _ string) { r.person("sam", "guest") }, events.StatusRejected},
		{"role changed, still allowed", func(r *rig, _ string) { r.person("sam", "admin") }, events.StatusApplied},
		{"policy changed, still allowed", func(r *rig, _ string) { r.policy(t, "# a comment\n") }, events.StatusApplied},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := sqlite(t)
			sam := r.person("sam", "user")
			id := newID()
			r.put(id, "sam")
			m, cmd := r.writ(sam, kind.ActionUpdate, id, 1, map[string]any{"owner_id": "sam", "tenant": "default", "is_active": true}, `{"notes":"x"}`)
			r.append(m)
			old := r.authz.Revision()
			c.before(r, id)
			r.start(nil)
			o := r.outcomes(cmd.ID)[cmd.ID]
			if o.Status != c.status {
				t.Fatalf("%+v", o)
			}
			var again *events.Decision
			for _, e := range r.ledgerEvents() {
				if e.Type == events.TypeDecision && e.Decision.Stage == events.StageApply {
					if again != nil {
						t.Fatal("decided again twice")
					}
					again = &e.Decision
				}
			}
			if again == nil || again.ID != o.DecisionID || again.Command.ID != cmd.ID {
				t.Fatalf("second decision: %+v", again)
			}
			if c.status == events.StatusRejected && (o.Code != "denied" || again.Effect != events.Deny) {
				t.Fatalf("%+v %+v", o, again)
			}
			if strings.HasPrefix(c.name, "policy") && (again.Policy.Revision == old || again.Policy.Revision != r.authz.Revision()) {
				t.Fatalf("revisions: %s, then %s", old, again.Policy.Revision)
			}
			row := need(r.contact(id))(t)
			if (row.Notes == "x") != (c.status == events.StatusApplied) {
				t.Fatalf("%+v", row)
			}
		})
	}
}

func TestRowDeletedMeanwhile(t *testing.T) {
	t.Parallel()
	r := sqlite(t)
	sam := r.person("sam", "user")
	m, c := r.writ(sam, kind.ActionUpdate, newID(), 3, map[string]any{"owner_id": "sam", "tenant": "default", "is_active": true}, `{"notes":"x"}`)
	r.append(m)
	r.start(nil)
	o := r.outcomes(c.ID)[c.ID]
	if o.Status != events.StatusRejected || o.Code != "not-found" {
		t.Fatalf("%+v", o)
	}
	again := 0
	for _, e := range r.ledgerEvents() {
		if e.Type == events.TypeDecision && e.Decision.Stage == events.StageApply && e.Decision.ID == o.DecisionID {
			again++
		}
	}
	if again != 1 {
		t.Fatalf("%d second decisions", again)
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

func TestIfMatchIsJudgedAtApplyTime(t *testing.T) {
	t.Parallel()
	r := sqlite(t)
	sam := r.person("sam", "user")
	id := newID()
	r.put(id, "sam")
	attrs := map[string]any{"owner_id": "sam", "tenant": "default", "is_active": true}
	var commands []string
	for range 2 {
		m, c := r.writ(sam, kind.ActionUpdate, id, 1, attrs, `{"notes":"x"}`, func(_ *events.Decision, c *events.Command) { c.IfMatch = []int64{1} })
		r.append(m)
		commands = append(commands, c.ID)
	}
	r.start(nil)
	all := r.outcomes(commands...)
	if all[commands[0]].Status != events.StatusApplied {
		t.Fatalf("%+v", all[commands[0]])
	}
	if o := all[commands[1]]; o.Status != events.StatusRejected || o.Code != "version-conflict" {
		t.Fatalf("%+v", o)
	}
}

// One id, two commands: JetStream forgot the first one's id, or somebody
// replayed it. One effect; a different command is a dead letter.
func TestCommandIDCountsOnce(t *testing.T) {
	t.Parallel()
	r := sqlite(t)
	sam := r.person("sam", "user")
	id, shared := newID(), newID()
	same := func(_ *events.Decision, c *events.Command) { c.ID, c.Fingerprint = shared, "a" }
	m1, _ := r.writ(sam, kind.ActionCreate, id, 0, nil, `{"first_name":"one"}`, same)
	m2, _ := r.writ(sam, kind.ActionCreate, newID(), 0, nil, `{"first_name":"one"}`, same)
	m3, _ := r.writ(sam, kind.ActionCreate, newID(), 0, nil, `{"first_name":"other"}`, func(_ *events.Decision, c *events.Command) { c.ID, c.Fingerprint = shared, "b" })
	r.append(m1)
	r.start(nil)
	r.outcomes(shared)
	// Past the window in which JetStream knows the id: a message id of their own
	// stands in for the time that passed.
	for i, m := range []events.Message{m2, m3} {
		m.ID = fmt.Sprint(m.ID, "-later-", i)
		r.append(m)
	}
	_, last := r.create(sam, "last")
	r.outcomes(last)
	r.idle()
	if dead := r.dead(); len(dead) != 1 {
		t.Fatalf("dead letters: %v", dead)
	}
	r.outcomes(shared)
	if row := need(r.contact(id))(t); row.FirstName != "one" {
		t.Fatalf("%+v", row)
	}
}

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

func TestSyncKeepsTheVersionWhenNothingChanged(t *testing.T) {
	t.Parallel()
	r := sqlite(t)
	r.start(nil)
	sync := func(body string) int64 {
		c := events.Command{ID: newID(), Kind: user.Kind.Name, ResourceID: "u1", Action: user.ActionSync, Tenant: user.DefaultTenant, PrincipalID: "u1", Body: []byte(body), IssuedAt: time.Now().UTC()}
		version := int64(0)
		if row, err := r.store.Get(t.Context(), user.Kind, "u1"); err == nil {
			version = row.Version
		}
		d := events.Decision{ID: newID(), Stage: events.StageRequest, Tenant: c.Tenant, Principal: events.Principal{ID: "u1", Version: version, Roles: []string{"guest"}},
			Action: c.Action, Effect: events.Allow, Resource: events.Resource{Kind: c.Kind, ID: "u1", Version: version}, Policy: events.Policy{Revision: r.authz.Revision()}}
		r.append(need(events.NewWrit(r.keys, &d, &c, time.Now().Add(time.Hour)))(t))
		if o := r.outcomes(c.ID)[c.ID]; o.Status != events.StatusApplied {
			t.Fatalf("%+v", o)
		}
		return need(r.store.Get(t.Context(), user.Kind, "u1"))(t).Version
	}
	body := `{"email":"u1@example.com","tenants":{"default":{"roles":["user"]}}}`
	if v := sync(body); v != 1 {
		t.Fatalf("version %d", v)
	}
	if v := sync(body); v != 1 {
		t.Fatalf("version %d after a sync that changed nothing", v)
	}
	if v := sync(`{"email":"u1@example.com","tenants":{"default":{"roles":["admin"]}}}`); v != 2 {
		t.Fatalf("version %d", v)
	}
}

// put writes a contact of an owner; a second time it counts the version up.
func (r *rig) put(id, owner string) {
	r.t.Helper()
	row := need(contact.Kind.Create(id, user.DefaultTenant, owner, []byte(`{"first_name":"x"}`), time.Now()))(r.t)
	if old, err := r.store.Get(r.t.Context(), contact.Kind, id); err == nil {
		row.Version = old.Version + 1
	}
	must(r.t, r.write(row))
}

// policy appends text to the contact policy and waits until it is in force.
func (r *rig) policy(t *testing.T, text string) {
	t.Helper()
	path := filepath.Join(r.policies, "contact.yaml")
	b := need(os.ReadFile(path))(t)
	old := r.authz.Revision()
	must(t, os.WriteFile(path, append(b, text...), 0o600))
	testkit.Eventually(t, soon, func() error {
		if r.authz.Revision() == old {
			return fmt.Errorf("still revision %s", old)
		}
		return nil
	})
}
