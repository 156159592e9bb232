package whatif

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
)

// anything records decisions about anything: people with names that policies and plans might know, their own rows and
// others', attributes that are missing or wrong.
func anything(t *testing.T, n int) *recorder {
	t.Helper()
	random := rand.New(rand.NewPCG(7, uint64(n)))
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	person := func() string {
		return pick("sam", "sammy", "rim", "tim", "writ", "break_glass", "user", "eq", "zoë")
	}
	rec := &recorder{t: t, by: open(t, policies), at: time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)}
	for range n {
		p := rec.principal(person(), "user")
		kind, action := "contact", pick("update", "delete")
		if random.IntN(3) == 0 {
			p.Attr["region"] = pick(p.ID, person())
		}
		if random.IntN(4) == 0 { // what is rare
			p.Roles = []string{pick("user", "admin", "manager"), pick("user", "auditor")}
			kind = pick("contact", "video", "user", "expense", "command")
			action = pick("create", "read", "update", "delete", "roles", "sync", "bootstrap", "approve")
		}
		if random.IntN(3) == 0 && kind != "user" && kind != "command" {
			attr := map[string]any{"tenant": "default"}
			switch random.IntN(8) {
			case 0:
				attr["changes"] = []string{}
			case 1:
				attr["changes"] = []string{person()}
			case 2:
				attr["owner_id"] = person()
			}
			rec.list(p, kind, action, attr)
			continue
		}
		attr := map[string]any{"owner_id": person(), "tenant": "default"}
		switch random.IntN(20) {
		case 0:
			attr["owner_id"] = 7.0
		case 1:
			attr["owner_id"] = ""
		case 2:
			delete(attr, "owner_id")
		case 3:
			attr["owner_id"] = []any{p.ID}
		case 4:
			attr["owner_id"] = nil
		}
		switch kind {
		case "command":
			attr["principal_id"] = attr["owner_id"]
			delete(attr, "owner_id")
		case "user":
			attr["elsewhere"] = random.IntN(2) == 0
			if random.IntN(2) == 0 {
				attr["membership"] = map[string]any{"tenant": pick("default", "acme"), "roles": []any{pick("user", "admin")}}
			}
		}
		rec.check(p, events.Resource{Kind: kind, ID: person(), Version: 1, Attr: attr}, action)
	}
	return rec
}

// Whatever the candidate sees of who somebody is: what is remembered is what it says of each decision alone.
func TestWhatIsRememberedIsTheVerdict(t *testing.T) {
	if testkit.Race { // one decision after the other; those that are decided at once are the other tests'
		testkit.WithoutRace(t)
		return
	}
	rec := anything(t, 600)
	const own = "R.attr.owner_id == P.id"
	rule := func(expr string) string {
		dir := edited(t, "contact.yaml", own, expr) // a deny rule, and what it leaves:
		content, err := os.ReadFile(filepath.Join(dir, "derived_roles/owner.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "derived_roles/owner.yaml"), []byte(strings.ReplaceAll(string(content), own, expr)), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	whole := func(file, content string) string {
		dir := edited(t, "contact.yaml", own, own)
		path := filepath.Join(dir, file)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for name, dir := range map[string]string{
		"the same":       policies,
		"others'":        rule("R.attr.owner_id != P.id"),
		"a part of it":   rule("R.attr.owner_id.startsWith(P.id)"),
		"a constant":     rule("(P.id != 'sam' && R.attr.owner_id == P.id)"),
		"of an owner":    rule("(R.attr.owner_id != 'tim' && R.attr.owner_id == P.id)"),
		"beside another": rule("(R.attr.owner_id == P.id && R.attr.owner_id != P.attr.region)"),
		"a resource":     rule("(R.attr.owner_id == P.id || R.id == P.id)"),
		"of a resource":  rule("(R.attr.owner_id == P.id && R.id != 'tim')"),
		"whose region":   rule("(R.attr.owner_id == P.id && P.attr.region != P.id)"),
		"its region":     rule("(R.attr.owner_id == P.id || R.attr.owner_id == P.attr.region)"),
		"any resource":   rule("(R.attr.owner_id == P.id || R.id.startsWith('t'))"),
		"a whole one":    rule("(R.attr.owner_id == P.id || [R].exists(x, x.attr.owner_id.startsWith('t')))"),
		"by index":       rule("(R.attr.owner_id == P.id || R.attr['owner_id'].startsWith('t'))"),
		"in a list":      rule("P.id in [R.attr.owner_id]"),
		"all":            rule("(R.attr.owner_id == P.id && size(R.attr) > 2)"),
		"a variable":     rule("(['rim'].exists(P, P == R.attr.owner_id))"),
		"an output":      edited(t, "contact.yaml", `'"only the owner or an admin may change or delete a contact"'`, `'"this is not " + P.id'`),
		"of the owner":   edited(t, "contact.yaml", `'"only the owner or an admin may change or delete a contact"'`, `'"this is " + R.attr.owner_id'`),
		"derived":        edited(t, "derived_roles/owner.yaml", own, "R.attr.owner_id < P.id"),
		"a schema":       edited(t, "_schemas/contact.json", `"owner_id": {"type": "string", "minLength": 1}`, `"owner_id": {"type": "string", "pattern": "^[rs]"}`),
		"a principal":    whole("principals/rim.yaml", "apiVersion: api.cerbos.dev/v1\nprincipalPolicy:\n  principal: rim\n  version: default\n  rules:\n    - resource: contact\n      actions: [{action: '*', effect: EFFECT_ALLOW}]\n"),
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t, dir)
			run := func(records [][]byte) *Report {
				r, err := New(c, nil).Run(t.Context(), each(records))
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			together, alone := run(rec.records), &Report{Skipped: map[string]int{}}
			for _, record := range rec.records {
				alone.Add(run([][]byte{record}))
			}
			if have, want := counts(together), counts(alone); !reflect.DeepEqual(have, want) {
				for k := range want {
					if have[k] != want[k] {
						t.Errorf("%s: %d, one by one %d", k, have[k], want[k])
					}
				}
				for k := range have {
					if want[k] == 0 {
						t.Errorf("%s: %d, one by one 0", k, have[k])
					}
				}
			}
			if together.Replayed != alone.Replayed || together.Changed != alone.Changed || together.Widened != alone.Widened || !reflect.DeepEqual(together.Skipped, alone.Skipped) {
				t.Errorf("together %+v\none by one %+v", together, alone)
			}
			if name == "the same" && together.Changed != 0 {
				t.Errorf("%d changes", together.Changed)
			}
			t.Logf("%d changes, %d questions of %d", together.Changed, together.Evaluated, alone.Evaluated)
		})
	}
}

// counts says how often each line of a report stands there.
func counts(r *Report) map[string]int {
	out := map[string]int{}
	for _, c := range r.Changes {
		out[fmt.Sprintf("%s %s %s/%s %s-%s %q", c.Principal, c.Action, c.Kind, c.Resource, c.From, c.To, c.Rules)] += c.Count
	}
	return out
}

// Who owns their rows is like anybody else who does.
func TestPeopleAreAlike(t *testing.T) {
	rec := &recorder{t: t, by: open(t, policies), at: time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)}
	for i := range 300 {
		who, id := fmt.Sprintf("user-%d", i), fmt.Sprintf("c%d", i)
		rec.check(rec.principal(who, "user"), contact(id, who), "update")
		rec.check(rec.principal(who, "user"), contact(id, "somebody"), "update")
		rec.list(rec.principal(who, "user"), "contact", "update", map[string]any{"tenant": "default", "changes": []string{}})
	}
	r := replay(t, policies, rec.records)
	if want := 3 * replayWorkers(); r.Evaluated > want || r.Changed != 0 || r.Replayed != 900 {
		t.Errorf("%d questions, at most %d wanted: %+v", r.Evaluated, want, r)
	}
	dir := edited(t, "contact.yaml", "R.attr.owner_id == P.id", "R.attr.owner_id != P.id")
	r = replay(t, dir, rec.records)
	if want := 3 * replayWorkers(); r.Evaluated > want || r.Changed != 600 || len(r.Changes) != 600 {
		t.Errorf("%d questions, at most %d wanted: %d changes on %d lines", r.Evaluated, want, r.Changed, len(r.Changes))
	}
}

// One question, two old plans: that the first differs from the candidate's does not mean that the second does.
func TestEachOldPlanIsComparedItself(t *testing.T) {
	rec := &recorder{t: t, by: open(t, edited(t, "contact.yaml", "derivedRoles: [owner]", "derivedRoles: [owner]\n      condition:\n        match:\n          expr: '!R.attr.is_active'")), at: time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)}
	list := func() {
		rec.list(rec.principal("sam", "user"), "contact", "update", map[string]any{"tenant": "default", "changes": []string{}})
	}
	list()
	rec.by = open(t, policies)
	list()
	list()
	r := New(open(t, policies), nil)
	r.workers = 1
	report, err := r.Run(t.Context(), each(rec.records))
	if err != nil || report.Changed != 1 || report.Evaluated != 1 || report.Replayed != 3 {
		t.Errorf("%+v, %v", report, err)
	}
}
