package whatif

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const policies = "../../../../policies"

// edited copies the policies with one file changed.
func edited(t testing.TB, file, from, to string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(policies)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, file)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), from) {
		t.Fatalf("%s does not hold %q", file, from)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(b), from, to)), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func open(t testing.TB, dir string) *authz.Candidate {
	t.Helper()
	c, err := authz.OpenCandidate(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// recorder records decisions as the api does.
type recorder struct {
	t       testing.TB
	by      *authz.Candidate
	at      time.Time
	records [][]byte
}

func (r *recorder) principal(id string, roles ...string) events.Principal {
	r.at = r.at.Add(time.Second)
	return events.Principal{ID: id, Version: int64(r.at.Second()) + 1, Roles: roles, Attr: map[string]any{
		"tenant": "default", "region": "eu-east-1", "request": map[string]any{"ip": "127.0.0.1", "time": r.at.UTC().Format(time.RFC3339)}}}
}

func (r *recorder) keep(d events.Decision) {
	r.t.Helper()
	d.ID, d.Stage, d.Tenant, d.EvaluatedAt = fmt.Sprintf("decision-%d", len(r.records)), events.StageRequest, "default", r.at
	raw, err := events.EncodeDecision(&d)
	if err != nil {
		r.t.Fatal(err)
	}
	r.records = append(r.records, raw)
}

func (r *recorder) check(p events.Principal, res events.Resource, action string) {
	r.t.Helper()
	a, err := r.by.Check(r.t.Context(), authz.Request{Principal: p, Resource: res, Actions: []string{action}, Tenant: "default"})
	if err != nil {
		r.t.Fatal(err)
	}
	result := a.For(action)
	r.keep(events.Decision{Principal: p, Resource: res, Action: action, Effect: result.Effect, Policy: result.Policy, CallID: a.CallID})
}

func (r *recorder) list(p events.Principal, kind, action string, attr map[string]any) {
	r.t.Helper()
	ask := attr
	if ask == nil {
		ask = map[string]any{"tenant": "default"}
	}
	plan, err := r.by.Plan(r.t.Context(), authz.PlanRequest{Principal: p, Kind: kind, Action: action, Attr: ask, Tenant: "default"})
	if err != nil {
		r.t.Fatal(err)
	}
	r.keep(events.Decision{Principal: p, Resource: events.Resource{Kind: kind, Attr: attr}, Action: action, Effect: plan.Effect, Policy: plan.Policy, CallID: plan.CallID, Plan: plan.Raw})
}

func contact(id, owner string) events.Resource {
	return events.Resource{Kind: "contact", ID: id, Version: 1, Attr: map[string]any{"owner_id": owner, "tenant": "default", "is_active": true}}
}

// recorded are decisions of a little of everything.
func recorded(t testing.TB, n int) *recorder {
	r := &recorder{t: t, by: open(t, policies), at: time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)}
	for i := range n {
		id := fmt.Sprintf("c%d", i)
		r.check(r.principal("sam", "user"), contact(id, "sam"), "update")
		r.check(r.principal("rim", "user"), contact(id, "sam"), "update")
		r.check(r.principal("alice", "admin"), contact(id, "sam"), "delete")
		r.list(r.principal("sam", "user"), "contact", "list", nil)
		r.list(r.principal("sam", "user"), "contact", "update", map[string]any{"tenant": "default", "changes": []string{}})
		r.list(r.principal("john", "manager"), "expense", "list", nil)
	}
	return r
}

func each(records [][]byte) func() ([]byte, bool, error) {
	return func() ([]byte, bool, error) {
		if len(records) == 0 {
			return nil, false, nil
		}
		r := records[0]
		records = records[1:]
		return r, true, nil
	}
}

func replay(t *testing.T, dir string, records [][]byte, kinds ...string) *Report {
	t.Helper()
	r, err := New(open(t, dir), kinds).Run(t.Context(), each(records))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTheSamePoliciesChangeNothing(t *testing.T) {
	rec := recorded(t, 50)
	r := replay(t, policies, rec.records)
	if r.Replayed != len(rec.records) || r.Changed != 0 || len(r.Skipped) != 0 {
		t.Fatalf("%+v", r)
	}
	// No rule about these reads the request's time or the row's id: one question each.
	if want := 6 * replayWorkers(); r.Evaluated > want {
		t.Errorf("%d questions were put, want at most %d", r.Evaluated, want)
	}
}

// replayWorkers is how often a question may be put: by each worker before any remembers.
func replayWorkers() int { return New(nil, nil).workers }

func TestChangedRuleIsNamed(t *testing.T) {
	rec := recorded(t, 20)
	dir := edited(t, "contact.yaml", "derivedRoles: [owner]", "derivedRoles: [owner]\n      condition:\n        match:\n          expr: '!R.attr.is_active'")
	r := replay(t, dir, rec.records)
	if r.Changed != 20+20 || r.Widened != 0 || r.Narrowed != 20 || r.Replayed != len(rec.records) {
		t.Fatalf("changed %d (of that fewer rights %d, more %d) of %d", r.Changed, r.Narrowed, r.Widened, r.Replayed)
	}
	check := slices.IndexFunc(r.Changes, func(c Change) bool { return c.Resource == "c7" })
	if check < 0 {
		t.Fatalf("%+v", r.Changes)
	}
	c := r.Changes[check]
	if c.Principal != "sam" || c.Action != "update" || c.Kind != "contact" || c.From != "allow" || c.To != "deny" || len(c.Rules) != 0 || c.Count != 1 {
		t.Errorf("%+v", c)
	}
	plan := r.Changes[0]
	if plan.Count != 20 || plan.Resource != "" || plan.Action != "update" || plan.From != "some" || plan.To != "other" {
		t.Errorf("%+v", plan)
	}

	dir = edited(t, "contact.yaml", `- expr: R.attr.owner_id == P.id
      output:`, `- expr: 'true'
      output:`)
	dir2 := filepath.Join(dir, "contact.yaml")
	b, err := os.ReadFile(dir2)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Replace(string(b), "    - name: owner-changes\n", "    - name: anybody-changes\n      actions: [update]\n      effect: EFFECT_ALLOW\n      roles: [user]\n\n    - name: owner-changes\n", 1)
	if err := os.WriteFile(dir2, []byte(all), 0o600); err != nil {
		t.Fatal(err)
	}
	r = replay(t, dir, rec.records, "contact")
	check = slices.IndexFunc(r.Changes, func(c Change) bool { return c.Resource == "c7" })
	if check < 0 || r.Changes[check].To != "allow" || r.Changes[check].Principal != "rim" ||
		!slices.Equal(r.Changes[check].Rules, []string{"resource.contact.vdefault#anybody-changes"}) {
		t.Errorf("%+v", r.Changes)
	}
	if r.Widened < 20 || r.Filtered != 20 {
		t.Errorf("%+v", r)
	}
}

func TestWhatCannotBeReplayedIsCounted(t *testing.T) {
	rec := recorded(t, 1)
	before := len(rec.records)
	rec.keep(events.Decision{Principal: rec.principal("x", "guest"), Resource: events.Resource{Kind: "contact", ID: "1"}, Action: "unknown", Effect: events.Deny, Policy: events.Policy{Reason: "this tenant has no such user"}})
	rec.list(rec.principal("sam", "user"), "contact", "update", nil)
	rec.keep(events.Decision{Principal: events.Principal{ID: "x"}, Resource: contact("1", "x"), Action: "read", Effect: events.Deny, CallID: "1"})
	rec.records = append(rec.records, []byte("rubbish"), []byte("{}"))
	r := replay(t, policies, rec.records)
	if r.Read != before+5 || r.Replayed != before || r.Skipped[NotAsked] != 1 || r.Skipped[PlanAttr] != 1 || r.Skipped[Unreadable] != 2 || len(r.Skipped) != 4 {
		t.Errorf("%+v", r)
	}
}

func TestReplayEndsWithItsContext(t *testing.T) {
	rec := recorded(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	_, err := New(open(t, policies), nil).Run(ctx, func() ([]byte, bool, error) {
		if n++; n == 1000 {
			cancel()
		}
		return rec.records[0], true, nil
	})
	if err == nil {
		t.Error("it went on")
	}
}

func TestPlansAreComparedWithoutTheirOrder(t *testing.T) {
	a := `{"kind":"KIND_CONDITIONAL","condition":{"expression":{"operator":"or","operands":[{"expression":{"operator":"eq","operands":[{"variable":"a"},{"value":1}]}},{"variable":"b"}]}}}`
	b := `{"kind":"KIND_CONDITIONAL","condition":{"expression":{"operator":"or","operands":[{"variable":"b"},{"expression":{"operator":"eq","operands":[{"value":1},{"variable":"a"}]}}]}}}`
	c := strings.ReplaceAll(b, `"eq"`, `"lt"`)
	x, _ := readPlan(json.RawMessage(a))
	y, _ := readPlan(json.RawMessage(b))
	z, _ := readPlan(json.RawMessage(c))
	if string(x.condition) != string(y.condition) || string(y.condition) == string(z.condition) || x.extent != selectsSome {
		t.Errorf("%s\n%s\n%s", x.condition, y.condition, z.condition)
	}
}

// BenchmarkReplay decides recorded decisions again: alike (a few people and
// what they do all day, every request at another second and half of them on
// another row), by other people (every decision about another principal) and all
// different (every principal with a role of their own, so that nothing can
// be remembered).
func BenchmarkReplay(b *testing.B) {
	for _, x := range []struct {
		name              string
		people, different bool
	}{{"alike", false, false}, {"people", true, false}, {"different", true, true}} {
		b.Run(x.name, func(b *testing.B) {
			rec := &recorder{t: b, by: open(b, policies), at: time.Now()}
			for i := range 20_000 {
				who := fmt.Sprintf("user-%d", i%200)
				if x.people {
					who = fmt.Sprintf("user-%d", i)
				}
				p := rec.principal(who, "user")
				if x.different {
					p.Roles = append(p.Roles, who)
				}
				rec.check(p, contact(fmt.Sprintf("c%d", i/2), who), []string{"update", "read", "delete"}[i%3])
			}
			replayed := 0
			var spent time.Duration
			for b.Loop() {
				b.StopTimer()
				c := open(b, policies) // remembers nothing
				before := cpu(b)
				b.StartTimer()
				r, err := New(c, nil).Run(b.Context(), each(rec.records))
				spent += cpu(b) - before
				if err != nil || r.Changed != 0 || x.different && r.Evaluated != len(rec.records) {
					b.Fatalf("%+v, %v", r, err)
				}
				replayed += r.Replayed
			}
			b.ReportMetric(float64(replayed)/b.Elapsed().Seconds(), "decisions/s")
			b.ReportMetric(float64(spent.Microseconds())/float64(replayed), "cpu-µs/decision") // whatever else runs
		})
	}
}

// cpu is how much CPU time the process has had.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkReplayLists plans again: every list is another person's.
func BenchmarkReplayLists(b *testing.B) {
	rec := &recorder{t: b, by: open(b, policies), at: time.Now()}
	for i := range 500 {
		rec.list(rec.principal(fmt.Sprintf("user-%d", i), "user"), "contact", "update", map[string]any{"tenant": "default", "changes": []string{}})
	}
	replayed := 0
	var spent time.Duration
	for b.Loop() {
		b.StopTimer()
		c := open(b, policies) // remembers nothing
		before := cpu(b)
		b.StartTimer()
		r, err := New(c, nil).Run(b.Context(), each(rec.records))
		spent += cpu(b) - before
		if err != nil || r.Changed != 0 {
			b.Fatalf("%+v, %v", r, err)
		}
		replayed += r.Replayed
	}
	b.ReportMetric(float64(spent.Microseconds())/float64(replayed), "cpu-µs/list")
}
