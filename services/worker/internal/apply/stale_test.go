package apply

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
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
			m, cmd := r.writ(sam, kind.ActionUpdate, id, 1, owned, `{"notes":"x"}`)
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
	m, c := r.writ(sam, kind.ActionUpdate, newID(), 3, owned, `{"notes":"x"}`)
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
	var commands []string
	for range 2 {
		m, c := r.writ(sam, kind.ActionUpdate, id, 1, owned, `{"notes":"x"}`, func(_ *events.Decision, c *events.Command) { c.IfMatch = []int64{1} })
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
