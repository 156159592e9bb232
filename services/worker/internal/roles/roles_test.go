package roles

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestRoleChange(t *testing.T) {
	databases(t, func(t *testing.T, r *rig) {
		r.start(nil)
		ann := r.person("ann@example.com", "user")
		told := make(chan events.Notice, 1)
		stop := need(r.ledger.Listen("writ.wait.test", func(data []byte) {
			var n events.Notice
			if json.Unmarshal(data, &n) == nil {
				told <- n
			}
		}))(t)
		defer stop()
		c := r.submit(r.boss, user.ActionRoles, ann.ID, user.RolesChange{Tenant: "acme", Roles: []string{"manager"}, Attr: map[string]any{"region": "eu-east-1"}},
			func(_ *events.Decision, c *events.Command) { c.ReplyTo = "writ.wait.test" })
		row := r.status(c, events.StatusApplied)
		n := <-told
		var after user.User
		must(t, json.Unmarshal(n.Result, &after))
		if n.Status != events.StatusApplied || n.Version != 2 || after.Tenants["acme"].Attr["region"] != "eu-east-1" || row.Attempts != 1 {
			t.Errorf("told %+v, row %+v", n, row)
		}
		r.agrees(ann.ID, "user")
		// Full replacement, in one tenant only.
		r.status(r.submit(r.boss, user.ActionRoles, ann.ID, user.RolesChange{Tenant: "acme", Roles: []string{"user"}}), events.StatusApplied)
		r.status(r.roles(ann.ID), events.StatusApplied)
		r.agrees(ann.ID, user.Guest)
		if m := r.user(ann.ID).Tenants; len(m) != 1 || len(m["acme"].Attr) != 0 || !slices.Equal(m["acme"].Roles, []string{"user"}) {
			t.Errorf("%+v", m)
		}
		r.outcomes(c)
	})
}

// TestCommandsOfOneUserKeepTheirOrder: hundreds of changes of a few users at
// once, with a Stytch that fails one call in five.
func TestCommandsOfOneUserKeepTheirOrder(t *testing.T) {
	databases(t, func(t *testing.T, r *rig) {
		var people, commands []string
		for i := range 5 {
			people = append(people, r.person(string(rune('a'+i))+"@example.com", "user").ID)
		}
		r.start(nil)
		must(t, r.emulator.Fail(faultFor("502", 0.2)))
		must(t, r.emulator.Fail(faultFor("lost", 0.2)))
		for i := range 10 {
			for _, id := range people {
				commands = append(commands, r.roles(id, [][]string{{"user"}, {"manager"}, {"finance", "user"}}[i%3]...))
			}
		}
		all := r.outcomes(commands...)
		for _, c := range commands {
			if o := all[c]; o.Status != events.StatusApplied {
				t.Errorf("%+v", o)
			}
		}
		r.emulator.ClearFaults()
		for _, id := range people {
			r.agrees(id, "user") // the tenth
		}
	})
}

func TestCreate(t *testing.T) {
	databases(t, func(t *testing.T, r *rig) {
		r.start(nil)
		must(t, r.emulator.Fail(faultFor("lost", 0, 1))) // the first call that does something: the search, repeated
		body := user.New{Email: "New@example.com", FirstName: "Nora", LastName: "New"}
		first := r.status(r.submit(r.boss, user.ActionCreate, user.NewID(body.Email), body), events.StatusApplied)
		var made user.User
		must(t, json.Unmarshal(first.Result, &made))
		if made.Email != "new@example.com" || made.FirstName != "Nora" || r.user(made.ID).LastName != "New" {
			t.Fatalf("%+v", made)
		}
		r.agrees(made.ID, user.Guest)
		// Again: the same user; the name is the newest, what is left out stays.
		body.FirstName, body.LastName = "Eleonora", ""
		again := r.status(r.submit(r.boss, user.ActionCreate, user.NewID(body.Email), body), events.StatusApplied)
		var same user.User
		must(t, json.Unmarshal(again.Result, &same))
		if same.ID != made.ID || same.FirstName != "Eleonora" || same.LastName != "New" {
			t.Fatalf("%+v", same)
		}
		if at := need(r.stytch.User(t.Context(), made.ID))(t); at.FirstName != "Eleonora" || at.LastName != "New" {
			t.Errorf("%+v", at)
		}
		// A creation whose answer is lost has made one user.
		must(t, r.emulator.Fail(faultOn("lost", "/v1/users")))
		r.status(r.submit(r.boss, user.ActionCreate, user.NewID("x@example.com"), user.New{Email: "x@example.com"}), events.StatusApplied)
		r.outcomes()
	})
}

// TestDelete: who is deleted is gone at Stytch and in the directory, for good: a
// sync that was under way does not make them again.
func TestDelete(t *testing.T) {
	databases(t, func(t *testing.T, r *rig) {
		r.start(nil)
		ann := r.person("ann@example.com", "manager")
		c := r.submit(r.boss, user.ActionDelete, ann.ID, nil)
		r.status(c, events.StatusApplied)
		if _, err := r.stytch.User(t.Context(), ann.ID); !fault.Is(err, fault.NotFound) {
			t.Errorf("Stytch still has them: %v", err)
		}
		late := r.submit(ann, user.ActionSync, ann.ID, user.Sync{Email: "ann@example.com", Tenants: in("manager")})
		if row := r.status(late, events.StatusRejected); row.Code != "not-found" {
			t.Errorf("%+v", row)
		}
		if _, err := r.store.Get(t.Context(), user.Kind, ann.ID); !fault.Is(err, fault.NotFound) {
			t.Errorf("a late sync has made a deleted user again: %v", err)
		}
		if row := r.status(r.submit(r.boss, user.ActionDelete, ann.ID, nil), events.StatusRejected); row.Code != "not-found" {
			t.Errorf("%+v", row)
		}
		// Gone at Stytch before: the row goes, too.
		bob := r.person("bob@example.com", "user")
		must(t, r.stytch.DeleteUser(t.Context(), bob.ID))
		r.status(r.submit(r.boss, user.ActionDelete, bob.ID, nil), events.StatusApplied)
		if _, err := r.store.Get(t.Context(), user.Kind, bob.ID); !fault.Is(err, fault.NotFound) {
			t.Error(err)
		}
	})
}

// TestStaleDecisionsAreTakenAgain: whoever loses their role before their command
// is applied has not given it.
func TestStaleDecisionsAreTakenAgain(t *testing.T) {
	databases(t, func(t *testing.T, r *rig) {
		eve, ann := r.person("eve@example.com", user.RoleAdmin), r.person("ann@example.com", "user")
		revoke := r.roles(eve.ID, "user")
		r.start(nil)
		r.status(revoke, events.StatusApplied)
		before := r.calls.Load()
		c := r.submit(eve, user.ActionRoles, ann.ID, user.RolesChange{Roles: []string{user.RoleAdmin}})
		row := r.status(c, events.StatusRejected)
		if row.Code != "denied" || r.calls.Load() != before {
			t.Errorf("%+v, %d calls", row, r.calls.Load()-before)
		}
		r.agrees(ann.ID, "user")
		r.outcomes(c)
		second := 0
		for _, e := range r.ledgerEvents() {
			if e.Type == events.TypeDecision && e.Decision.ID == row.DecisionID && e.Decision.Effect == events.Deny && e.Decision.Stage == events.StageApply {
				second++
			}
		}
		if second != 1 {
			t.Errorf("the second decision is %d times on the ledger", second)
		}
		// One's own roles, whatever the first decision said.
		if row := r.status(r.submit(r.boss, user.ActionRoles, r.boss.ID, user.RolesChange{Roles: []string{user.RoleAdmin, "user"}},
			func(d *events.Decision, _ *events.Command) { d.Policy.Revision = "older" }), events.StatusRejected); row.Code != "denied" {
			t.Errorf("%+v", row)
		}
		if row := r.status(r.submit(r.boss, user.ActionRoles, ann.ID, user.RolesChange{Roles: []string{"manager"}},
			func(_ *events.Decision, c *events.Command) { c.IfMatch = []int64{99} }), events.StatusRejected); row.Code != "version-conflict" {
			t.Errorf("%+v", row)
		}
	})
}

func TestRefusedCommandsAreDeadLetters(t *testing.T) {
	r := sqlite(t)
	r.start(nil)
	ann := r.person("ann@example.com", "user")
	long := map[string]any{"note": strings.Repeat("x", 5000)}
	c := r.submit(r.boss, user.ActionRoles, ann.ID, user.RolesChange{Roles: []string{"user"}, Attr: long})
	if row := r.status(c, events.StatusFailed); row.Code != "metadata-too-large" || row.Reason == "" {
		t.Errorf("%+v", row)
	}
	bob := r.person("bob@example.com", "user")
	must(t, r.stytch.DeleteUser(t.Context(), bob.ID))
	if row := r.status(r.roles(bob.ID, "manager"), events.StatusFailed); row.Code != "not-found" {
		t.Errorf("%+v", row)
	}
	expired := r.submit(r.boss, user.ActionRoles, ann.ID, user.RolesChange{Roles: []string{"manager"}}, func(d *events.Decision, _ *events.Command) {
		d.Command = &events.CommandRef{Expires: time.Now().Add(-time.Hour)}
	})
	if row := r.status(expired, events.StatusFailed); row.Code != "expired" {
		t.Errorf("%+v", row)
	}
	r.outcomes(c, expired)
	r.agrees(ann.ID, "user")
	if have := r.dead(); !slices.Equal(slices.Sorted(slices.Values(have)), []string{"expired", "metadata-too-large", "not-found"}) {
		t.Errorf("dead letters: %v", have)
	}
}

// TestRestart: SIGTERM leaves nothing behind, and the next process need not wait
// for the lease.
func TestRestart(t *testing.T) {
	r := sqlite(t)
	slow := func(w *Worker) { w.timing.lapse = time.Hour }
	p := r.start(nil, slow)
	ann := r.person("ann@example.com", "user")
	r.status(r.roles(ann.ID, "manager"), events.StatusApplied)
	p.end()
	c := r.roles(ann.ID, "finance")
	r.start(nil, slow)
	r.status(c, events.StatusApplied)
	r.outcomes(c)
}

func TestLeaseHasOneHolder(t *testing.T) {
	databases(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		free := need(r.store.Lease(ctx, lease))(t)
		mine := need(r.store.TakeLease(ctx, free, "me"))(t)
		if _, err := r.store.TakeLease(ctx, free, "you"); err == nil {
			t.Error("two have taken it")
		}
		must(t, r.store.BeatLease(ctx, mine))
		seen := need(r.store.Lease(ctx, lease))(t)
		must(t, r.store.BeatLease(ctx, mine))
		if _, err := r.store.TakeLease(ctx, seen, "you"); err == nil {
			t.Error("taken from somebody who lives")
		}
		yours := need(r.store.TakeLease(ctx, need(r.store.Lease(ctx, lease))(t), "you"))(t)
		if r.store.BeatLease(ctx, mine) == nil || r.store.GiveLease(ctx, mine) == nil {
			t.Error("a lost lease is still held")
		}
		must(t, r.store.GiveLease(ctx, yours))
		testkit.Eventually(t, soon, func() error { _, err := r.store.Lease(context.Background(), lease); return err })
	})
}

// TestAnOlderStateNeverWins: syncs that asked Stytch in one order and come in another leave what Stytch says, whatever it
// has said in between; a role change does not hide what came after it.
func TestAnOlderStateNeverWins(t *testing.T) {
	databases(t, func(t *testing.T, r *rig) {
		r.start(nil)
		ann := r.person("ann@example.com", "user")
		first := "Ann"
		// What Stytch says, as an api instance reads it that is then held up.
		ask := func() user.Sync {
			t.Helper()
			seen := r.user(ann.ID).Synced
			u := need(r.stytch.User(t.Context(), ann.ID))(t)
			return user.Sync{Email: u.Email, FirstName: u.FirstName, Tenants: u.Tenants, RolesCommand: u.RolesCommand, Seen: &seen}
		}
		tell := func(s user.Sync) string {
			t.Helper()
			c := r.submit(r.principal(ann.ID), user.ActionSync, ann.ID, s)
			r.status(c, events.StatusApplied)
			return c
		}
		byHand := func(roles ...string) { // in Stytch's dashboard: the command's name stays
			t.Helper()
			need(r.stytch.UpdateUser(t.Context(), ann.ID, identity.Update{FirstName: &first, Tenants: in(roles...)}))(t)
		}
		before := ask()
		byHand("admin")
		late := ask()
		byHand("manager")
		told := []string{tell(ask()), tell(late), tell(before)}
		r.agrees(ann.ID, "manager")
		// As it was before, so that nothing changes but who was told last.
		byHand("admin")
		late = ask()
		byHand("manager")
		told = append(told, tell(ask()), tell(late))
		r.agrees(ann.ID, "manager")
		// News from before and after a role change.
		late = ask()
		r.status(r.roles(ann.ID, "finance"), events.StatusApplied)
		first = "Anna"
		byHand("finance", "user")
		newer := ask()
		told = append(told, tell(newer), tell(late))
		r.agrees(ann.ID, "finance", "user")
		if u := r.user(ann.ID); u.FirstName != "Anna" {
			t.Errorf("an older name: %+v", u)
		}
		// Somebody whom Stytch has forgotten meanwhile.
		late = ask()
		byHand("user")
		tell(ask())
		late.FirstName = "Old"
		must(t, r.stytch.DeleteUser(t.Context(), ann.ID))
		tell(late)
		if _, err := r.store.Get(t.Context(), user.Kind, ann.ID); !fault.Is(err, fault.NotFound) {
			t.Errorf("the row of somebody who is gone: %v", err)
		}
		r.outcomes(told...)
	})
}

// TestASyncBetweenAnAnswerAndItsCommit: what Stytch said to a role change or a creation is old once a sync has come between.
func TestASyncBetweenAnAnswerAndItsCommit(t *testing.T) {
	for _, action := range []string{user.ActionRoles, user.ActionCreate} {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			r := sqlite(t)
			ann := r.person("ann@example.com", "user")
			var once atomic.Bool
			r.start(nil, func(w *Worker) {
				inner := w.at
				w.at = func(at point) error {
					if at == afterCall && once.CompareAndSwap(false, true) { // Stytch has answered
						seen, name := r.user(ann.ID).Synced, "Newest"
						u := need(r.stytch.UpdateUser(t.Context(), ann.ID, identity.Update{LastName: &name}))(t)
						c := r.submit(r.principal(ann.ID), user.ActionSync, ann.ID, user.Sync{
							Email: u.Email, FirstName: u.FirstName, LastName: u.LastName, Tenants: u.Tenants, RolesCommand: u.RolesCommand, Seen: &seen})
						r.status(c, events.StatusApplied)
					}
					return inner(at)
				}
			})
			c := ""
			if action == user.ActionRoles {
				c = r.roles(ann.ID, "manager")
			} else {
				c = r.submit(r.boss, user.ActionCreate, user.NewID("ann@example.com"), user.New{Email: "ann@example.com", FirstName: "Ann"})
			}
			r.status(c, events.StatusApplied)
			r.outcomes(c)
			at, u := need(r.stytch.User(t.Context(), ann.ID))(t), r.user(ann.ID)
			if u.LastName != "Newest" || u.FirstName != at.FirstName || u.RolesCommand != at.RolesCommand {
				t.Errorf("Stytch has %+v, the directory %+v", at, u)
			}
		})
	}
}
