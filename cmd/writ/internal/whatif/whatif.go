// Package whatif decides recorded decisions again with policies that are not in
// force, and tells which answers would be others.
//
//	records ──▶ workers (one a core): read, ask the candidate ──▶ report
//
// The candidate remembers its answers as an engine does. A list has no resource
// but a query plan; plans are compared.
package whatif

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
)

// Why a decision cannot be decided again.
const (
	Unreadable = "not a decision that can be read"
	NotAsked   = "no policy was asked: an AuthZEN question about nobody, or about an action that the kind does not have"
	Masked     = "the auditor has left out what it was taken on: whoever asked may not read it"
	PlanAttr   = "a query plan without the attributes that it was made for (written by an older version)"
)

// Change is an answer that would be another, and how often.
type Change struct {
	Principal string   `json:"principal"`
	Roles     []string `json:"roles"`
	Tenant    string   `json:"tenant"`
	Action    string   `json:"action"`
	Kind      string   `json:"kind"`
	// Resource is the id, empty for a list.
	Resource string `json:"resource,omitempty"`
	// From and To are allow or deny; of a query plan all, some, other or none.
	From string `json:"from"`
	To   string `json:"to"`
	// Rules are the candidate's that decide: see authz.Candidate.Explain.
	Rules  []string `json:"rules,omitempty"`
	Reason string   `json:"reason,omitempty"`
	// Count says how many decisions would be this one; Last is the newest of them.
	Count    int       `json:"count"`
	Decision string    `json:"decision_id"`
	Last     time.Time `json:"last"`
	// Queued says that it is about a command that is accepted and not yet applied.
	Queued bool `json:"queued,omitempty"`
}

// Report is what a replay found.
type Report struct {
	Read     int `json:"read"`     // records that were looked at
	Filtered int `json:"filtered"` // left out because they are of another kind
	Replayed int `json:"replayed"`
	Changed  int `json:"changed"` // of those replayed; Widened and Narrowed among them
	Widened  int `json:"widened"` // would allow what was denied
	Narrowed int `json:"narrowed"`
	// Evaluated are the questions that were evaluated; the others the candidate remembered.
	Evaluated int `json:"evaluated"`
	// Skipped says why decisions could not be replayed, and how many.
	Skipped map[string]int `json:"skipped"`
	// Changes are the changes, most frequent first; Unlisted counts those that
	// found no room.
	Changes  []Change `json:"changes"`
	Unlisted int      `json:"unlisted"`
	// Clock names the kinds about which the candidate reads the clock: they were
	// decided as of now.
	Clock    []string      `json:"clock,omitempty"`
	Revision string        `json:"revision"`
	Took     time.Duration `json:"took_ns"`
}

// Rate is how many decisions were replayed in a second.
func (r *Report) Rate() float64 {
	if r.Took <= 0 {
		return 0
	}
	return float64(r.Replayed) / r.Took.Seconds()
}

// Bounds on memory.
const (
	maxChanges = 50_000 // different changes that are listed
	maxSkips   = 64     // different reasons
	maxAbout   = 4096   // kinds and actions
	chunk      = 128    // records that go to a worker together
)

// Replayer decides again. Make it with New; Run it once.
type Replayer struct {
	candidate *authz.Candidate
	kinds     []string
	queued    bool
	since     time.Time

	mu      sync.Mutex     // of clocks
	clocks  map[about]bool // whether the candidate reads the clock
	workers int
}

// about is what a question is about.
type about struct{ kind, action string }

// New makes a Replayer for a candidate. Without kinds all of them count.
func New(c *authz.Candidate, kinds []string) *Replayer {
	return &Replayer{candidate: c, kinds: kinds, clocks: map[about]bool{}, workers: runtime.GOMAXPROCS(0)}
}

// Queued makes the changes that are found from now on those of commands that
// are not yet applied.
func (r *Replayer) Queued(yes bool) { r.queued = yes }

// Since leaves out the decisions that were taken before a time.
func (r *Replayer) Since(at time.Time) { r.since = at }

// Run decides every decision again that next gives, until it says that there is
// none (ok is false). What it gives are a decision's bytes or a line of an export
// (see Lines), and must stay as they are. It ends early when ctx does, or next fails.
func (r *Replayer) Run(ctx context.Context, next func() (line []byte, ok bool, err error)) (*Report, error) {
	started, evaluated := time.Now(), r.candidate.Evaluated()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	chunks := make(chan [][]byte, 2*r.workers)
	tallies := make([]*tally, r.workers)
	errs := make([]error, r.workers)
	var done sync.WaitGroup
	for i := range tallies {
		tallies[i] = newTally()
		done.Go(func() {
			for c := range chunks {
				for _, line := range c {
					if errs[i] == nil {
						errs[i] = r.one(ctx, tallies[i], line)
					}
				}
				if errs[i] != nil {
					cancel()
				}
			}
		})
	}
	err := feed(ctx, next, chunks)
	close(chunks)
	done.Wait()
	for _, e := range errs {
		if e != nil {
			return nil, e
		}
	}
	if err != nil {
		return nil, err
	}
	out := newTally()
	for _, t := range tallies {
		out.merge(t)
	}
	report := out.report()
	report.Revision, report.Took = r.candidate.Revision(), time.Since(started)
	report.Evaluated = r.candidate.Evaluated() - evaluated
	for about, reads := range r.clocks {
		if reads {
			report.Clock = append(report.Clock, about.kind)
		}
	}
	slices.Sort(report.Clock)
	report.Clock = slices.Compact(report.Clock)
	return report, nil
}

func feed(ctx context.Context, next func() ([]byte, bool, error), out chan<- [][]byte) error {
	for {
		c := make([][]byte, 0, chunk)
		for len(c) < chunk {
			line, ok, err := next()
			if err != nil {
				return err
			}
			if !ok {
				if len(c) > 0 {
					out <- c
				}
				return ctx.Err()
			}
			c = append(c, line)
		}
		select {
		case out <- c:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// one decides one decision again. An error ends the replay: it is the context's.
func (r *Replayer) one(ctx context.Context, t *tally, line []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	record, masked := decisionOf(line)
	if record == nil {
		return nil
	}
	d, err := events.ReadDecision(record)
	if err == nil && !d.EvaluatedAt.IsZero() && d.EvaluatedAt.Before(r.since) {
		return nil
	}
	t.Read++
	if err != nil || d.ID == "" || d.Resource.Kind == "" || d.Action == "" {
		t.skip(Unreadable)
		return nil
	}
	if len(r.kinds) > 0 && !slices.Contains(r.kinds, d.Resource.Kind) {
		t.Filtered++
		return nil
	}
	if masked {
		t.skip(Masked)
		return nil
	}
	before, after, why := r.again(ctx, &d)
	if why != "" {
		t.skip(why)
		return nil
	}
	t.Replayed++
	if before == after.extent {
		return nil
	}
	c := Change{
		Principal: d.Principal.ID, Roles: d.Principal.Roles, Tenant: d.Tenant, Action: d.Action, Kind: d.Resource.Kind, Resource: d.Resource.ID,
		From: before, To: after.extent, Reason: after.reason, Rules: after.rules, Count: 1, Decision: d.ID, Last: d.EvaluatedAt, Queued: r.queued,
	}
	t.change(c)
	return nil
}

// answer is what the candidate says.
type answer struct {
	extent string // allow, deny; of a plan all, some, other, none
	reason string
	rules  []string
}

// again gives what a decision said and what the candidate says, or why it cannot say.
func (r *Replayer) again(ctx context.Context, d *events.Decision) (before string, after answer, why string) {
	if len(d.Plan) == 0 && d.Policy.Matched == "" && d.Policy.Reason != "" && d.CallID == "" {
		return "", answer{}, NotAsked
	}
	r.noteClock(about{d.Resource.Kind, d.Action})
	if len(d.Plan) > 0 {
		return r.plan(ctx, d)
	}
	a, err := r.candidate.Check(ctx, request(d))
	if err != nil {
		return "", answer{}, cannot(err)
	}
	result := a.For(d.Action)
	before, after = string(d.Effect), answer{extent: string(result.Effect), reason: result.Policy.Reason}
	if after.extent != before {
		after.rules = r.explain(ctx, d)
	}
	return before, after, ""
}

func request(d *events.Decision) authz.Request {
	return authz.Request{Principal: d.Principal, Resource: d.Resource, Actions: []string{d.Action}, Tenant: d.Tenant, Scope: authz.TenantScope(d.Tenant)}
}

// explain names the rules, or says that there is none; it is never nil.
func (r *Replayer) explain(ctx context.Context, d *events.Decision) []string {
	rules, err := r.candidate.Explain(ctx, request(d), d.Action)
	if err != nil || len(rules) == 0 {
		return []string{}
	}
	return rules
}

func cannot(err error) string {
	return "the candidate cannot decide it: " + strings.TrimPrefix(err.Error(), "authz: ")
}

// noteClock takes note of whether the candidate reads the clock.
func (r *Replayer) noteClock(of about) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.clocks[of]; !known && len(r.clocks) < maxAbout { // kinds and actions are few; records may lie
		r.clocks[of] = r.candidate.ReadsClock(of.kind, of.action)
	}
}
