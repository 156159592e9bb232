package apply

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/testkit"
)

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
