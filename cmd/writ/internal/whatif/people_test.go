package whatif

import (
	"fmt"
	"testing"
	"time"
)

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
	r.workers = 1 // which evaluates a question once
	report, err := r.Run(t.Context(), each(rec.records))
	if err != nil || report.Changed != 1 || report.Evaluated != 1 || report.Replayed != 3 {
		t.Errorf("%+v, %v", report, err)
	}
}
