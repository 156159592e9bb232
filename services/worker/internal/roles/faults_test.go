package roles

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/stytchemu"
	"github.com/writ-project/writ/pkg/testkit"
)

// faultFor is a fault of all calls, by chance or a number of times.
func faultFor(kind string, probability float64, count ...int) stytchemu.Fault {
	f := stytchemu.Fault{Kind: stytchemu.FaultKind(kind), Probability: probability, Seed: 7}
	if len(count) > 0 {
		f.Count = count[0]
	}
	return f
}

// faultOn is a fault of the next call under a path.
func faultOn(kind, path string) stytchemu.Fault {
	return stytchemu.Fault{Kind: stytchemu.FaultKind(kind), Path: path}
}

// TestKilledAtEveryPoint: whatever a process died at, the next one brings the
// command to the same end, with one outcome.
func TestKilledAtEveryPoint(t *testing.T) {
	for _, at := range []point{beforeCall, afterCall, afterCommit, afterPublish} {
		t.Run(string(at), func(t *testing.T) {
			databases(t, func(t *testing.T, r *rig) {
				ann, bob := r.person("ann@example.com", "user"), r.person("bob@example.com", "user")
				p := r.start(func(here point) bool { return here == at })
				change := r.submit(r.boss, user.ActionRoles, ann.ID, user.RolesChange{Roles: []string{"manager"}})
				<-p.died
				p.end()
				p = r.start(func(here point) bool { return here == at })
				remove := r.submit(r.boss, user.ActionDelete, bob.ID, nil)
				<-p.died
				p.end()
				p = r.start(func(here point) bool { return here == at })
				made := r.submit(r.boss, user.ActionCreate, user.NewID("new@example.com"), user.New{Email: "new@example.com", FirstName: "N"})
				<-p.died
				p.end()
				r.start(nil)
				for c, o := range r.outcomes(change, remove, made) {
					if o.Status != events.StatusApplied {
						t.Errorf("%s: %+v", c, o)
					}
				}
				r.agrees(ann.ID, "manager")
				if _, err := r.stytch.User(t.Context(), bob.ID); err == nil {
					t.Error("bob is still there")
				}
				u := need(r.stytch.UserByEmail(t.Context(), "new@example.com"))(t)
				r.agrees(u.ID, user.Guest)
			})
		})
	}
}

// TestEffectWithoutAnAnswer: what Stytch has done is done, whatever has changed
// by the time that it is noticed; and nobody sees half of it in between.
func TestEffectWithoutAnAnswer(t *testing.T) {
	databases(t, func(t *testing.T, r *rig) {
		ann, eve := r.person("ann@example.com", "user"), r.person("eve@example.com", user.RoleAdmin)
		must(t, r.emulator.Fail(faultOn("lost", "/v1/users/"+ann.ID)))
		must(t, r.emulator.Fail(stytchemu.Fault{Kind: stytchemu.FaultUnreadable, Path: "/v1/users/" + ann.ID, Probability: 1}))
		r.start(nil)
		c := r.submit(eve, user.ActionRoles, ann.ID, user.RolesChange{Roles: []string{"manager"}})
		row := r.status(c, events.StatusRetrying)
		if row.Attempts < 1 || row.Code != "stytch-unavailable" || row.Reason == "" {
			t.Errorf("%+v", row)
		}
		// A sync meanwhile sees the change at Stytch, but it is not the sync's to apply.
		r.status(r.submit(ann, user.ActionSync, ann.ID, user.Sync{Email: "ann@example.com", FirstName: "Ann", Tenants: in("manager"), RolesCommand: c}), events.StatusApplied)
		if roles, _ := r.user(ann.ID).In(user.DefaultTenant); roles[0] != "user" {
			t.Errorf("a sync has applied a role change: %v", roles)
		}
		r.status(r.roles(eve.ID, "user"), events.StatusApplied) // who gave it may no longer give it
		r.emulator.ClearFaults()
		if row := r.status(c, events.StatusApplied); row.Attempts < 2 {
			t.Errorf("%+v", row)
		}
		r.agrees(ann.ID, "manager")
		r.outcomes(c)
		if u := r.user(ann.ID); u.FirstName != "Ann" {
			t.Errorf("the sync's news are lost: %+v", u)
		}
		// And a sync from before the change does not undo it.
		r.status(r.submit(r.principal(ann.ID), user.ActionSync, ann.ID, user.Sync{Email: "ann@example.com", Tenants: in("user")}), events.StatusApplied)
		r.agrees(ann.ID, "manager")
	})
}

// TestOutage: commands wait for Stytch, tell so, and keep their order; contacts
// do not wait.
func TestOutage(t *testing.T) {
	databases(t, func(t *testing.T, r *rig) {
		var people, commands []string
		for i := range 10 {
			people = append(people, r.person(fmt.Sprintf("p%d@example.com", i), "user").ID)
		}
		must(t, r.emulator.Fail(faultFor("500", 1)))
		p := r.start(nil)
		for _, roles := range [][]string{{"manager"}, {"finance"}, {"finance", "user"}} {
			for _, id := range people {
				commands = append(commands, r.roles(id, roles...))
			}
		}
		first := r.status(commands[0], events.StatusRetrying)
		testkit.Eventually(t, soon, func() error {
			row, err := r.store.Command(t.Context(), commands[0])
			if err == nil && row.Attempts < first.Attempts+3 {
				err = fmt.Errorf("%d attempts", row.Attempts)
			}
			return err
		})
		body := json.RawMessage(`{"first_name":"Not delayed"}`)
		id := newID()
		c := r.submit(r.boss, kind.ActionCreate, id, body, func(d *events.Decision, c *events.Command) {
			c.Kind, d.Resource.Kind = contact.Kind.Name, contact.Kind.Name
		})
		r.status(c, events.StatusApplied)
		p.end() // a new process goes on where this one was
		r.start(nil)
		r.emulator.ClearFaults()
		for c, o := range r.outcomes(commands...) {
			if o.Status != events.StatusApplied {
				t.Errorf("%s: %+v", c, o)
			}
		}
		for _, id := range people {
			r.agrees(id, "finance", "user")
		}
	})
}

// TestCredentialsThatStytchDoesNotTake: commands wait until they are right, and
// one that has had its effect is not decided anew meanwhile.
func TestCredentialsThatStytchDoesNotTake(t *testing.T) {
	for _, action := range []string{user.ActionRoles, user.ActionDelete} {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			r := sqlite(t)
			ann, bob := r.person("ann@example.com", "user"), r.person("bob@example.com", "user")
			p := r.start(func(here point) bool { return here == afterCall })
			done := r.submit(r.boss, action, ann.ID, user.RolesChange{Roles: []string{"manager"}})
			<-p.died
			p.end()
			boss := *r.user(r.boss.ID) // who may no longer do that
			boss.Tenants, boss.Version = in("user"), boss.Version+1
			must(t, r.store.Update(t.Context(), func(ctx context.Context, tx *store.Tx) error {
				return tx.PutRows(ctx, user.Kind, []kind.Row{{Meta: &boss.Meta, Value: &boss}})
			}))
			p = r.start(nil, func(w *Worker) {
				c := need(identity.New(t.Context(), identity.Config{ProjectID: project, Secret: "secret-test-of-another-project-000000000", BaseURL: r.base}))(t)
				t.Cleanup(c.Close)
				w.Stytch = c
			})
			if row := r.status(done, events.StatusRetrying); row.Code != "unauthorized-credentials" {
				t.Errorf("%+v", row)
			}
			late := r.roles(bob.ID, "manager")
			p.end()
			r.start(nil)
			all := r.outcomes(done, late)
			if all[done].Status != events.StatusApplied || all[late].Status != events.StatusRejected {
				t.Errorf("%+v", all)
			}
			if codes := r.dead(); len(codes) > 0 {
				t.Errorf("dead letters: %v", codes)
			}
		})
	}
}

// TestRetryAfterIsHonoured: nobody calls before Stytch wants to be called.
func TestRetryAfterIsHonoured(t *testing.T) {
	r := sqlite(t)
	ann, bob := r.person("ann@example.com", "user"), r.person("bob@example.com", "user")
	must(t, r.emulator.Fail(stytchemu.Fault{Kind: stytchemu.FaultLimited, RetryAfter: 2 * time.Second}))
	r.start(nil)
	a := r.roles(ann.ID, "manager")
	r.status(a, events.StatusRetrying)
	before, since := r.calls.Load(), time.Now()
	b := r.roles(bob.ID, "manager")
	testkit.Eventually(t, soon, func() error {
		if r.calls.Load() == before {
			return fmt.Errorf("no call yet")
		}
		return nil
	})
	if waited := time.Since(since); waited < 1500*time.Millisecond {
		t.Errorf("called again after %s", waited)
	}
	r.outcomes(a, b)
}

// TestLastAdminStays: commands at the same moment that would together leave
// nobody, none of them stale, with a Stytch that loses answers.
func TestLastAdminStays(t *testing.T) {
	databases(t, func(t *testing.T, r *rig) {
		admins := []string{r.boss.ID}
		for i := range 3 {
			admins = append(admins, r.person(fmt.Sprintf("admin%d@example.com", i), user.RoleAdmin).ID)
		}
		by := r.person("other@example.com", "user")
		by.Roles = []string{user.RoleAdmin} // as if the api had seen it so: no version has moved since
		must(t, r.emulator.Fail(faultFor("lost", 0.3)))
		must(t, r.emulator.Fail(faultFor("500", 0.3)))
		commands := make([]string, len(admins))
		var all sync.WaitGroup
		for i, id := range admins {
			all.Go(func() {
				if i%2 == 0 {
					commands[i] = r.submit(by, user.ActionDelete, id, nil)
				} else {
					commands[i] = r.submit(by, user.ActionRoles, id, user.RolesChange{Roles: []string{"user"}})
				}
			})
		}
		all.Wait()
		r.start(nil)
		applied := 0
		for c, o := range r.outcomes(commands...) {
			if o.Status == events.StatusApplied {
				applied++
			} else if o.Code != "last-admin" {
				t.Errorf("%s: %+v", c, o)
			}
		}
		r.emulator.ClearFaults()
		left := 0
		for _, id := range admins {
			row, err := r.store.Get(t.Context(), user.Kind, id)
			if err == nil && user.IsAdmin(row, user.DefaultTenant) {
				left++
				r.agrees(id, user.RoleAdmin)
			}
		}
		if left != 1 || applied != len(admins)-1 {
			t.Errorf("tenant default has %d admins left, %d commands were applied", left, applied)
		}
	})
}

// TestBootstrap: the first admin is the first one only.
func TestBootstrap(t *testing.T) {
	r := sqlite(t)
	r.start(nil)
	ann := r.person("ann@example.com", "user")
	system := events.Principal{ID: user.System, Roles: []string{user.Guest}}
	body := user.RolesChange{Tenant: user.DefaultTenant, Roles: []string{user.RoleAdmin}}
	if row := r.status(r.submit(system, user.ActionBootstrap, ann.ID, body), events.StatusRejected); row.Code != "denied" {
		t.Errorf("a second first admin: %+v", row)
	}
	must(t, r.store.Update(t.Context(), func(ctx context.Context, tx *store.Tx) error {
		return tx.DeleteRows(ctx, user.Kind, []string{r.boss.ID})
	}))
	a, b := r.submit(system, user.ActionBootstrap, ann.ID, body), r.submit(system, user.ActionBootstrap, r.person("bob@example.com", "user").ID, body)
	applied := 0
	for _, o := range r.outcomes(a, b) { // whichever comes first
		if o.Status == events.StatusApplied {
			applied++
			r.agrees(o.ResourceID, user.RoleAdmin)
		}
	}
	if applied != 1 {
		t.Errorf("%d first admins", applied)
	}
}

// TestRestoredDatabase: commands that were done before the database was restored
// from an older state are done in it again, and have one outcome.
func TestRestoredDatabase(t *testing.T) {
	r := sqlite(t)
	p := r.start(nil)
	ann, bob := r.person("ann@example.com", "user"), r.person("bob@example.com", "user")
	commands := []string{
		r.roles(ann.ID, "manager"), r.submit(r.boss, user.ActionDelete, bob.ID, nil),
		r.submit(r.boss, user.ActionCreate, user.NewID("new@example.com"), user.New{Email: "new@example.com"}),
		r.submit(r.boss, user.ActionRoles, newID(), user.RolesChange{Roles: []string{"user"}}),
	}
	before := r.outcomes(commands...)
	p.end()
	r.stopLoop()
	fresh := newRigOn(t, r, "sqlite:"+filepath.Join(t.TempDir(), "older.db"))
	fresh.start(nil)
	for _, c := range commands {
		row := fresh.status(c, before[c].Status)
		if row.DecisionID != before[c].DecisionID || !row.At.Equal(before[c].At) {
			t.Errorf("%+v, was %+v", row, before[c])
		}
	}
	fresh.outcomes(commands...)
	fresh.agrees(ann.ID, "manager")
}

// newRigOn is the same rig with another database, in which the users are as they
// were at first.
func newRigOn(t *testing.T, r *rig, url string) *rig {
	t.Helper()
	out := &rig{t: t, nats: r.nats, ledger: r.ledger, authz: r.authz, keys: r.keys, tel: r.tel, emulator: r.emulator, stytch: r.stytch, base: r.base, boss: r.boss}
	out.store = need(store.Open(t.Context(), url))(t)
	t.Cleanup(func() { _ = out.store.Close() })
	must(t, out.store.Migrate(t.Context()))
	for _, e := range r.ledgerEvents() {
		if e.Type != events.TypeWrit || e.Command.Kind != user.Kind.Name {
			continue
		}
		if row, err := r.store.Get(t.Context(), user.Kind, e.Command.ResourceID); err == nil {
			u := *row.Value.(*user.User)
			u.Version, u.Tenants, u.RolesCommand = 1, in("user"), ""
			must(t, out.store.Update(t.Context(), func(ctx context.Context, tx *store.Tx) error {
				return tx.PutRows(ctx, user.Kind, []kind.Row{{Meta: &u.Meta, Value: &u}})
			}))
		}
	}
	out.loop()
	return out
}
