package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/writ-project/writ/cmd/writ/internal/whatif"
	"github.com/writ-project/writ/pkg/authz"
)

type policyCmd struct {
	Lint   lintCmd   `cmd:"" help:"Find what compiles and does not do what is meant: lists that cannot be filtered, attributes that nobody sends."`
	Replay replayCmd `cmd:"" help:"Decide recorded decisions again with other policies, and list what would change."`
}

// replayCmd is the policy what-if.
type replayCmd struct {
	target
	APIURL       string   `name:"api-url" help:"The api's address, for --queued, where it is not --url." env:"WRIT_API_URL" placeholder:"URL"`
	Candidate    string   `help:"The folder with the policies to try." required:"" type:"existingdir"`
	Since        age      `help:"How far to go back: 12h, 7d." default:"7d"`
	Kind         []string `help:"Only decisions about this kind; may be given more than once."`
	File         string   `help:"Read decisions from an export (JSON lines; - for standard input), and not from the auditor." type:"path"`
	Queued       bool     `help:"Also judge commands that are accepted and not applied yet (as an admin)."`
	FailOnChange bool     `help:"Exit with 1 if anything would change, or if there are decisions and none could be replayed."`
	Limit        int      `help:"How many changes to list; 0 for all." default:"100"`
	Output       string   `short:"o" help:"pretty or json." enum:"pretty,json" default:"pretty"`
}

// gcPercent is Go's GOGC for a replay. It lives for seconds, makes garbage of all
// that it decides, and keeps little of it: collecting less often takes a sixth
// off a decision that is like no other, for some tens of MiB.
const gcPercent = 400

// Run decides again and reports.
func (c *replayCmd) Run(a *app) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	candidate, err := authz.OpenCandidate(a.ctx, c.Candidate)
	if err != nil {
		return err
	}
	records, closeAll, err := c.records(a)
	if err != nil {
		return err
	}
	defer closeAll()
	replayer := whatif.New(candidate, c.Kind)
	if c.File != "" { // the auditor was told
		replayer.Since(c.Since.ago())
	}
	report, err := replayer.Run(a.ctx, records)
	if err != nil {
		return fmt.Errorf("read the decisions: %w", err)
	}
	var queued *whatif.Report
	if c.Queued {
		if queued, err = c.queued(a, candidate); err != nil {
			return fmt.Errorf("the commands that wait: %w", err)
		}
	}
	if err := c.show(a, report, queued); err != nil {
		return err
	}
	if !c.FailOnChange {
		return nil
	}
	if report.Changed > 0 || queued != nil && queued.Changed > 0 {
		return exitCode(1)
	}
	// Whoever asks whether anything would change must not take this for a no.
	if n := unknown(report); n > 0 {
		return fmt.Errorf("of %s recorded decisions none could be replayed: what the candidate says is not known", thousands(n))
	}
	if n := unknown(queued); n > 0 {
		return fmt.Errorf("of %s commands that wait none could be judged: what the candidate says is not known", thousands(n))
	}
	return nil
}

// unknown gives how many decisions there were if none of them could be replayed, else 0.
func unknown(r *whatif.Report) int {
	if r == nil || r.Replayed > 0 {
		return 0
	}
	return r.Read - r.Filtered
}

// records gives the recorded decisions one by one.
func (c *replayCmd) records(a *app) (next func() ([]byte, bool, error), closeAll func(), err error) {
	var from io.ReadCloser
	switch c.File {
	case "":
		if from, err = c.export(a); err != nil {
			return nil, nil, err
		}
	case "-":
		from = io.NopCloser(a.in)
	default:
		if from, err = os.Open(c.File); err != nil {
			return nil, nil, err
		}
	}
	return whatif.Lines(from), func() { _ = from.Close() }, nil // read only
}

// export asks the auditor.
func (c *replayCmd) export(a *app) (io.ReadCloser, error) {
	r, err := c.connect(a, func(l local) string { return l.Auditor }, demoAuditor)
	if err != nil {
		return nil, err
	}
	q := url.Values{"format": {"jsonl"}}
	if since := c.Since.ago(); !since.IsZero() {
		q.Set("from", since.UTC().Format(time.RFC3339))
	}
	if len(c.Kind) == 1 {
		q.Set("kind", c.Kind[0])
	}
	res, err := r.open(a.ctx, http.MethodGet, "/v1/decisions/export", q, nil, nil)
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// queued judges the commands that wait.
func (c *replayCmd) queued(a *app, candidate *authz.Candidate) (*whatif.Report, error) {
	t := c.target
	if c.APIURL != "" {
		t.URL = c.APIURL
	}
	r, err := t.connect(a, func(l local) string { return l.API }, demoAdmin)
	if err != nil {
		return nil, err
	}
	var waiting struct {
		Items []struct {
			Decision json.RawMessage `json:"decision"`
		} `json:"items"`
		Complete bool `json:"complete"`
	}
	if err := r.get(a.ctx, "/v1/commands", nil, &waiting); err != nil {
		return nil, err
	}
	if !waiting.Complete {
		fmt.Fprintf(a.err, "writ: more commands wait than the api looks at: %d are judged\n", len(waiting.Items))
	}
	replayer := whatif.New(candidate, c.Kind)
	replayer.Queued(true)
	return replayer.Run(a.ctx, func() ([]byte, bool, error) {
		if len(waiting.Items) == 0 {
			return nil, false, nil
		}
		record := waiting.Items[0].Decision
		waiting.Items = waiting.Items[1:]
		return record, true, nil
	})
}

// ratedFrom is how many decisions it takes to tell a rate: each rule is compiled
// when it is first needed, and of a few decisions that takes most of the time.
const ratedFrom = 10_000

func (c *replayCmd) show(a *app, report, queued *whatif.Report) error {
	if c.Output == "json" {
		e := json.NewEncoder(a.out)
		e.SetIndent("", "  ")
		return e.Encode(struct {
			*whatif.Report
			Rate   float64        `json:"decisions_per_second"`
			Queued *whatif.Report `json:"queued,omitempty"`
		}{report, report.Rate(), queued})
	}
	t := newTerminal(a.out)
	rate := ""
	if report.Replayed >= ratedFrom {
		rate = fmt.Sprintf(", %s a second", thousands(int(report.Rate())))
	}
	fmt.Fprintf(t, "%s decisions replayed with %s (revision %s) in %s%s; %s different questions\n",
		thousands(report.Replayed), c.Candidate, report.Revision, report.Took.Round(time.Millisecond), rate, thousands(report.Evaluated))
	if report.Replayed == 0 && len(report.Skipped) == 0 {
		fmt.Fprintf(t, "\n%s\n", t.paint(yellow, c.nothing(report)))
	} else {
		showChanges(t, report, c.Limit)
	}
	if queued != nil {
		fmt.Fprintf(t, "\n%s commands wait to be applied\n", thousands(queued.Read-queued.Filtered))
		if queued.Read > queued.Filtered {
			showChanges(t, queued, c.Limit)
		}
	}
	return nil
}

// nothing says why there was nothing to replay.
func (c *replayCmd) nothing(r *whatif.Report) string {
	say := "there is nothing to replay: no decision"
	if len(c.Kind) > 0 {
		say += " about " + strings.Join(c.Kind, " or ")
	}
	say += " is recorded"
	if since := c.Since.ago(); !since.IsZero() {
		say += " since " + since.UTC().Format(time.RFC3339)
	}
	if r.Filtered > 0 {
		say += fmt.Sprintf(", %s about other kinds", thousands(r.Filtered))
	}
	return say
}

// showChanges lists the changes of a report, and what could not be replayed.
func showChanges(t *terminal, r *whatif.Report, limit int) {
	shown := r.Changes
	if limit > 0 && len(shown) > limit {
		shown = shown[:limit]
	}
	type row [5]string
	rows := []row{{"who", "what", "from", "to", "times"}}
	for _, c := range shown {
		what := c.Action + " " + c.Kind
		if c.Resource != "" {
			what += "/" + c.Resource
		}
		rows = append(rows, row{c.Principal + " (" + strings.Join(c.Roles, ", ") + ")", what, c.From, c.To, thousands(c.Count)})
	}
	var widths [5]int
	for _, r := range rows {
		for i := range r {
			widths[i] = max(widths[i], len([]rune(r[i])))
		}
	}
	for i, r := range rows {
		if len(shown) == 0 {
			break
		}
		if i == 0 {
			fmt.Fprintln(t)
		}
		rule, code := "rule", dim
		if i > 0 {
			rule, code = ruleOf(shown[i-1]), ""
		}
		to := code
		switch {
		case i > 0 && (r[3] == "allow" || r[3] == "all"):
			to = green
		case i > 0 && (r[3] == "deny" || r[3] == "none"):
			to = red
		}
		fmt.Fprintf(t, "  %s  %s  %s  %s  %s  %s\n", t.cell(code, widths[0], r[0]), t.cell(code, widths[1], r[1]),
			t.cell(code, widths[2], r[2]), t.cell(to, widths[3], r[3]), t.cell(code, widths[4], r[4]), t.cell(code, 0, rule))
	}
	if left := len(r.Changes) - len(shown); left > 0 || r.Unlisted > 0 {
		fmt.Fprintf(t, "  … and %s more lines\n", thousands(left+r.Unlisted))
	}
	verdict := t.paint(green, "nothing would change")
	if r.Replayed == 0 && len(r.Skipped) > 0 {
		verdict = t.paint(yellow, "nothing was replayed")
	}
	if r.Changed > 0 {
		verdict = t.paint(yellow, thousands(r.Changed)+" would change") +
			fmt.Sprintf(": %s would be allowed more, %s less, %s select by another condition",
				thousands(r.Widened), thousands(r.Narrowed), thousands(r.Changed-r.Widened-r.Narrowed))
	}
	fmt.Fprintf(t, "\n%s\n", verdict)
	if len(r.Skipped) > 0 {
		total := 0
		for _, n := range r.Skipped {
			total += n
		}
		fmt.Fprintf(t, "%s could not be replayed:\n", thousands(total))
		for _, why := range slices.Sorted(maps.Keys(r.Skipped)) {
			fmt.Fprintf(t, "  %8s  %s\n", thousands(r.Skipped[why]), printable(why))
		}
	}
	if len(r.Clock) > 0 {
		fmt.Fprintf(t, "The candidate reads the clock about %s: these were decided as of now.\n", strings.Join(r.Clock, ", "))
	}
}

// ruleOf names the rules behind a change, or why there is none.
func ruleOf(c whatif.Change) string {
	rule := strings.Join(c.Rules, ", ")
	if rule == "" && c.Resource != "" {
		rule = "no rule allows it"
	}
	if c.Reason == "" {
		return rule
	}
	if rule == "" {
		return c.Reason
	}
	return rule + ": " + c.Reason
}

// exitCode ends the program with a code and says nothing.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }
