package apply

import (
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
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
			m, c := r.writ(sam, kind.ActionUpdate, id, int64(i+1), owned, fmt.Sprintf(`{"notes":"%d"}`, i))
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
		m, c := r.writ(sam, kind.ActionDelete, id, 41, owned, "")
		r.append(m)
		r.outcomes(c.ID)
		if _, err := r.contact(id); !fault.Is(err, fault.NotFound) {
			t.Fatalf("after the delete: %v", err)
		}
		r.idle()
	})
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
		r.append(need(events.NewWrit(r.keys, events.SourceAPI, &d, &c, time.Now().Add(time.Hour)))(t))
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
