package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/writ-project/writ/cmd/writ/internal/whatif"
	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
)

type policyCmd struct {
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
	FailOnChange bool     `help:"Exit with 1 if anything would change."`
	Limit        int      `help:"How many changes to list; 0 for all." default:"100"`
	Output       string   `short:"o" help:"pretty or json." enum:"pretty,json" default:"pretty"`
}

// Run decides again and reports.
func (c *replayCmd) Run(a *app) error {
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
	if c.FailOnChange && (report.Changed > 0 || queued != nil && queued.Changed > 0) {
		return exitCode(1)
	}
	return nil
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
	lines := bufio.NewReaderSize(from, 1<<20)
	since := c.Since.ago()
	if c.File == "" {
		since = time.Time{} // the auditor was told
	}
	return func() ([]byte, bool, error) {
		for {
			line, err := readLine(lines)
			if errors.Is(err, io.EOF) {
				return nil, false, nil
			}
			if err != nil {
				return nil, false, err
			}
			if record := decisionOf(line); record != nil && !older(record, since) {
				return record, true, nil
			}
		}
	}, func() { _ = from.Close() }, nil // read only
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

// maxLine bounds a line of an export, in bytes.
const maxLine = events.MaxEvent + 64<<10

// readLine reads one line, without its end. A last line without an end was cut off.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > maxLine:
			return nil, fmt.Errorf("a line is longer than %d bytes", maxLine)
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(bytes.TrimSpace(line)) > 0:
			return nil, fmt.Errorf("the last line is cut off: %w", io.ErrUnexpectedEOF)
		case err != nil:
			return nil, err
		}
		return bytes.TrimRight(line, "\r\n"), nil
	}
}

// decisionOf gives the decision's bytes of a line of an export, where they are
// the member decision, or of audit tail -o json, where they are the line. A line
// without one (an export's last) is nil.
func decisionOf(line []byte) []byte {
	if len(bytes.TrimSpace(line)) == 0 {
		return nil
	}
	var wrapped struct {
		Decision json.RawMessage `json:"decision"`
		ID       string          `json:"id"`
		Export   json.RawMessage `json:"checkpoint"`
	}
	switch err := json.Unmarshal(line, &wrapped); {
	case err != nil:
		return line // counted as unreadable
	case len(wrapped.Decision) > 0:
		return wrapped.Decision
	case wrapped.ID == "" && len(wrapped.Export) > 0:
		return nil
	}
	return line
}

// older reports whether a decision was taken before a time.
func older(record []byte, than time.Time) bool {
	if than.IsZero() {
		return false
	}
	var d struct {
		At time.Time `json:"evaluated_at"`
	}
	return json.Unmarshal(record, &d) == nil && !d.At.IsZero() && d.At.Before(than)
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
	showChanges(t, report, c.Limit)
	if queued != nil {
		fmt.Fprintf(t, "\n%s commands wait to be applied\n", thousands(queued.Replayed))
		showChanges(t, queued, c.Limit)
	}
	return nil
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
