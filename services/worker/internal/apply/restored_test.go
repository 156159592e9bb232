package apply

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/services/worker/internal/command"
)

// A database that was restored from an older state is brought up to date from
// the ledger, although every command was answered long ago: what was applied
// then is applied again, what was rejected is not, whatever policy and roles say
// today, and no outcome is published twice.
func TestRestoredDatabaseIsRolledForward(t *testing.T) {
	t.Parallel()
	for _, shards := range []int{1, 2} {
		t.Run(fmt.Sprint(shards), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "sqlite:"+filepath.Join(t.TempDir(), "writ.db"), shards)
			sam := r.person("sam", "user")
			p := r.start(nil)
			var commands, ids []string
			for i := range 30 {
				id, c := r.create(sam, fmt.Sprint(i))
				ids, commands = append(ids, id), append(commands, c)
			}
			r.outcomes(commands...)
			m, rejected := r.writ(sam, kind.ActionUpdate, ids[0], 1, owned, `{"notes":"late"}`,
				func(_ *events.Decision, c *events.Command) { c.IfMatch = []int64{7} })
			r.append(m)
			before := r.outcomes(append(commands, rejected.ID)...)
			p.end()
			size := len(r.ledgerEvents())

			r.store = need(openFresh(t))(t)
			r.person("sam", "guest") // today the policy would deny all of it
			p = r.start(nil)
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
			p.end()
			for id, o := range r.outcomes(commands...) {
				if o.ID != before[id].ID || o.At != before[id].At {
					t.Fatalf("%+v, before %+v", o, before[id])
				}
			}
			if now := len(r.ledgerEvents()); now != size {
				t.Fatalf("%d events on the ledger, before %d", now, size)
			}
		})
	}
}

// Of two commands under one key the one that was applied is applied again, also
// where the other one's shard is quicker this time.
func TestRestoredDatabaseKeepsWhoseAKeyIs(t *testing.T) {
	t.Parallel()
	r := newRig(t, "sqlite:"+filepath.Join(t.TempDir(), "writ.db"), 2)
	sam := r.person("sam", "user")
	p := r.start(nil)
	one, two := r.inShard(0), r.inShard(1)
	under := func(_ *events.Decision, c *events.Command) { c.Key = "k" }
	m1, c1 := r.writ(sam, kind.ActionCreate, one, 0, nil, `{"first_name":"one"}`, under)
	m2, c2 := r.writ(sam, kind.ActionCreate, two, 0, nil, `{"first_name":"two"}`, under)
	r.append(m1)
	r.outcomes(c1.ID)
	r.append(m2)
	before := r.outcomes(c1.ID, c2.ID)
	p.end()

	r.store = need(openFresh(t))(t)
	r.catchUp(1)
	r.catchUp(0)
	if row := need(r.contact(one))(t); row.FirstName != "one" {
		t.Errorf("%+v", row)
	}
	if _, err := r.contact(two); !fault.Is(err, fault.NotFound) {
		t.Errorf("the second command under the key was applied: %v", err)
	}
	if row := need(r.store.CommandByKey(t.Context(), "k"))(t); row.ID != c1.ID {
		t.Errorf("the key is that of %s, want %s", row.ID, c1.ID)
	}
	if row := need(r.store.Command(t.Context(), c2.ID))(t); row.Code != command.CodeKeyReused {
		t.Errorf("the second is %s %q, want rejected %q", row.Status, row.Code, command.CodeKeyReused)
	}
	after := r.outcomes(c1.ID, c2.ID)
	if after[c1.ID] != before[c1.ID] || after[c2.ID] != before[c2.ID] {
		t.Errorf("outcomes %+v, before %+v", after, before)
	}
}

// A command for Stytch that the apply loop has refused has its outcome already.
func TestRestoredDatabaseTellsNoRefusalTwice(t *testing.T) {
	t.Parallel()
	r := sqlite(t)
	p := r.start(nil)
	c := events.Command{ID: newID(), Kind: user.Kind.Name, ResourceID: "u1", Action: user.ActionRoles, Tenant: user.DefaultTenant, PrincipalID: "boss",
		Body: []byte(`{"tenant":"default","roles":["user"]}`), IssuedAt: time.Now().UTC()}
	d := events.Decision{ID: newID(), Stage: events.StageRequest, Tenant: c.Tenant, Principal: events.Principal{ID: "boss"}, Action: c.Action, Effect: events.Allow,
		Resource: events.Resource{Kind: c.Kind, ID: "u1"}, Policy: events.Policy{Revision: r.authz.Revision()}}
	r.append(need(events.NewWrit(r.keys, events.SourceAPI, &d, &c, time.Now().Add(-2*events.Leeway)))(t))
	if o := r.outcomes(c.ID)[c.ID]; o.Code != "expired" {
		t.Fatalf("%+v, want expired", o)
	}
	p.end()
	r.store = need(openFresh(t))(t)
	r.start(nil)
	r.marker = r.person("marker", "user")
	r.idle()
	if row := need(r.store.Command(t.Context(), c.ID))(t); row.Status != events.StatusFailed || row.Queued {
		t.Errorf("%+v, want failed", row)
	}
}

// What a command did is not done again by a copy of it that stands in another
// shard and comes first this time.
func TestRestoredDatabaseTellsCopiesApart(t *testing.T) {
	t.Parallel()
	r := newRig(t, "sqlite:"+filepath.Join(t.TempDir(), "writ.db"), 2)
	sam := r.person("sam", "user")
	p := r.start(nil)
	shared := newID()
	same := func(_ *events.Decision, c *events.Command) { c.ID = shared }
	one, two := r.inShard(0), r.inShard(1)
	m1, _ := r.writ(sam, kind.ActionCreate, one, 0, nil, `{"first_name":"one"}`, same)
	m2, _ := r.writ(sam, kind.ActionCreate, two, 0, nil, `{"first_name":"one"}`, same)
	at := r.append(m1)
	r.outcomes(shared)
	r.append(m2)
	r.idle()
	p.end()
	size := len(r.ledgerEvents())

	r.store = need(openFresh(t))(t)
	r.catchUp(1)
	r.catchUp(0)
	if _, err := r.contact(two); !fault.Is(err, fault.NotFound) {
		t.Errorf("the copy made a contact: %v", err)
	}
	if row := need(r.contact(one))(t); row.FirstName != "one" {
		t.Errorf("%+v", row)
	}
	if row := need(r.store.Command(t.Context(), shared))(t); row.Sequence != at || row.ResourceID != one {
		t.Errorf("%+v", row)
	}
	r.outcomes(shared)
	if now := len(r.ledgerEvents()); now != size {
		t.Errorf("%d events on the ledger, before %d", now, size)
	}
}

// A database that has applied more than the ledger holds is another ledger's:
// the worker refuses to start rather than to take new commands for old ones.
func TestDatabaseAheadOfTheLedger(t *testing.T) {
	t.Parallel()
	r := sqlite(t)
	must(t, r.store.MakeShards(t.Context(), 1))
	must(t, r.store.Update(t.Context(), func(ctx context.Context, tx *store.Tx) error { return tx.Move(ctx, 0, 0, events.At(1000, 0)) }))
	p := r.start(nil)
	p.done.Wait()
	if !errors.Is(p.ended, ErrAhead) {
		t.Fatalf("the worker ended with %v, want %v", p.ended, ErrAhead)
	}
}

// catchUp applies what stands in one shard, alone.
func (r *rig) catchUp(number int) {
	r.t.Helper()
	p := r.prepare(nil)
	must(r.t, r.store.MakeShards(r.t.Context(), r.shards))
	s := &shard{Loop: p.loop, number: number}
	must(r.t, s.begin(r.t.Context()))
	last := need(r.ledger.Last(r.t.Context()))(r.t)
	must(r.t, s.batch(r.t.Context(), need(r.ledger.Commands(r.t.Context(), number, s.position+1, events.End(last), 1000))(r.t)))
}
