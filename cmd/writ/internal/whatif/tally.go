package whatif

import (
	"cmp"
	"slices"
	"strings"
)

// tally is what one worker has found.
type tally struct {
	Report
	changes map[changeKey]*Change
}

// changeKey is what makes two changes one line.
type changeKey struct {
	principal, tenant, action, kind, resource, from, to, rules string
	queued                                                     bool
}

func newTally() *tally {
	return &tally{Report: Report{Skipped: map[string]int{}}, changes: map[changeKey]*Change{}}
}

func (t *tally) skip(why string) {
	if _, known := t.Skipped[why]; !known && len(t.Skipped) >= maxSkips {
		why = "for other reasons"
	}
	t.Skipped[why]++
}

func (t *tally) change(c Change) {
	t.Changed += c.Count
	switch {
	case c.From == "deny" || c.From == selectsNone || c.To == selectsAll:
		t.Widened += c.Count
	case c.To == "deny" || c.To == selectsNone || c.From == selectsAll:
		t.Narrowed += c.Count
	}
	t.list(c)
}

func (t *tally) list(c Change) {
	k := changeKey{c.Principal, c.Tenant, c.Action, c.Kind, c.Resource, c.From, c.To, strings.Join(c.Rules, " "), c.Queued}
	have := t.changes[k]
	switch {
	case have == nil && len(t.changes) >= maxChanges:
		t.Unlisted += c.Count
	case have == nil:
		t.changes[k] = &c
	default:
		have.Count += c.Count
		if c.Last.After(have.Last) {
			have.Last, have.Decision, have.Reason = c.Last, c.Decision, c.Reason
		}
	}
}

func (t *tally) merge(o *tally) {
	t.Read += o.Read
	t.Filtered += o.Filtered
	t.Replayed += o.Replayed
	t.Changed += o.Changed
	t.Widened += o.Widened
	t.Narrowed += o.Narrowed
	t.Unlisted += o.Unlisted
	for why, n := range o.Skipped {
		t.Skipped[why] += n
	}
	for _, c := range o.changes {
		t.list(*c)
	}
}

func (t *tally) report() *Report {
	for _, c := range t.changes {
		t.Changes = append(t.Changes, *c)
	}
	slices.SortFunc(t.Changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), b.Last.Compare(a.Last), strings.Compare(a.Decision, b.Decision))
	})
	return &t.Report
}

// Add adds what another replay with the same candidate found.
func (r *Report) Add(o *Report) {
	r.Read += o.Read
	r.Filtered += o.Filtered
	r.Replayed += o.Replayed
	r.Evaluated += o.Evaluated
	r.Changed += o.Changed
	r.Widened += o.Widened
	r.Narrowed += o.Narrowed
	r.Unlisted += o.Unlisted
	r.Took += o.Took
	for why, n := range o.Skipped {
		r.Skipped[why] += n
	}
	r.Changes = append(r.Changes, o.Changes...)
}
