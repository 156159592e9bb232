package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/writ-project/writ/pkg/events"
)

type auditCmd struct {
	Tail   tailCmd   `cmd:"" help:"Show the last decisions, and go on with new ones."`
	Show   showCmd   `cmd:"" help:"Show one decision, and what became of its command."`
	Verify verifyCmd `cmd:"" help:"Read the whole log again and check that nothing is missing or changed."`
	Prove  proveCmd  `cmd:"" help:"Write the evidence of a decision, or of a whole mutation, into one file."`
	Check  checkCmd  `cmd:"" help:"Check a file of evidence, with nothing but the log's public key."`
	Export exportCmd `cmd:"" help:"Export decisions."`
	Key    keyCmd    `cmd:"" help:"Print the log's public key, or make a key."`
}

func (t target) auditor(a *app) (*remote, error) {
	return t.connect(a, func(l local) string { return l.Auditor }, demoAuditor)
}

// filter says which decisions are meant.
type filter struct {
	Since     age    `help:"Only from this long ago on: 10m, 12h, 7d." placeholder:"AGE"`
	Kind      string `help:"Only about resources of this kind." placeholder:"KIND"`
	Action    string `help:"Only this action." placeholder:"ACTION"`
	Effect    string `help:"Only allow, or only deny." enum:"allow,deny," default:"" placeholder:"EFFECT"`
	Principal string `help:"Only about this principal, by id." placeholder:"ID"`
	Resource  string `help:"Only about the resource with this id." placeholder:"ID"`
}

func (f filter) query() url.Values {
	q := url.Values{}
	for name, value := range map[string]string{"kind": f.Kind, "action": f.Action, "effect": f.Effect, "principal": f.Principal, "resource": f.Resource} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if from := f.Since.ago(); !from.IsZero() {
		q.Set("from", from.UTC().Format(time.RFC3339Nano))
	}
	return q
}

// entry is a decision as the auditor tells it.
type entry struct {
	ID       string          `json:"id"`
	Index    int64           `json:"index"`
	Sequence uint64          `json:"sequence"`
	At       time.Time       `json:"at"`
	LeafHash string          `json:"leaf_hash"`
	Seal     string          `json:"seal"`
	Masked   bool            `json:"masked"`
	Decision json.RawMessage `json:"decision"`
	Outcome  json.RawMessage `json:"outcome"`
}

// Widths of the columns of a decision's line.
const (
	effectWidth    = 5
	actionWidth    = 13
	resourceWidth  = 45
	principalWidth = 46
)

// line is a decision on one line: its bytes, or aligned for people.
func (e entry) line(t *terminal, output string) (string, error) {
	if output == "json" {
		return string(e.Decision), nil
	}
	var d events.Decision
	if err := json.Unmarshal(e.Decision, &d); err != nil {
		return "", fmt.Errorf("entry %s: %w", e.ID, err)
	}
	effect := green
	if d.Effect != events.Allow {
		effect = red
	}
	stamp := d.EvaluatedAt.Local().Format("2006-01-02T15:04:05.000Z07:00")
	if t.tty {
		stamp = d.EvaluatedAt.Local().Format("15:04:05.000")
	}
	by := d.Principal.ID
	if d.Asker != "" {
		by += " (asked by " + d.Asker + ")"
	}
	line := strings.Join([]string{
		t.cell(dim, 0, stamp), t.cell(effect, effectWidth, string(d.Effect)), t.cell(bold, actionWidth, d.Action),
		t.cell("", resourceWidth, resourceOf(&d)), t.cell(cyan, principalWidth, by),
	}, "  ")
	var notes []string
	if d.Stage == events.StageApply {
		notes = append(notes, "again at apply")
	}
	if d.Policy.Reason != "" {
		notes = append(notes, d.Policy.Reason)
	}
	if d.Tenant != "default" {
		notes = append(notes, "tenant "+d.Tenant)
	}
	line += "  " + t.cell(dim, 0, d.ID)
	if len(notes) > 0 {
		line += "  " + t.cell(yellow, 0, strings.Join(notes, "; "))
	}
	return line, nil
}

func resourceOf(d *events.Decision) string {
	if d.Resource.ID == "" {
		return d.Resource.Kind
	}
	return d.Resource.Kind + "/" + d.Resource.ID
}

type showCmd struct {
	target
	ID     string `arg:"" help:"The decision's id."`
	Output string `short:"o" help:"pretty or json." enum:"pretty,json" default:"pretty"`
}

// Run shows one decision.
func (c *showCmd) Run(a *app) error {
	r, err := c.auditor(a)
	if err != nil {
		return err
	}
	var e entry
	raw, err := r.call(a.ctx, http.MethodGet, "/v1/decisions/"+url.PathEscape(c.ID), nil, nil, &e, nil)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		_, err := fmt.Fprintln(a.out, string(bytes.TrimSpace(raw)))
		return err
	}
	return e.show(newTerminal(a.out))
}

func (e entry) show(t *terminal) error {
	var d events.Decision
	if err := json.Unmarshal(e.Decision, &d); err != nil {
		return fmt.Errorf("entry %s: %w", e.ID, err)
	}
	line := func(name string, code string, parts ...string) {
		if value := strings.TrimSpace(strings.Join(parts, "  ")); value != "" {
			fmt.Fprintf(t, "%s  %s\n", t.cell(dim, 10, name), t.cell(code, 0, value))
		}
	}
	effect := green
	if d.Effect != events.Allow {
		effect = red
	}
	line("decision", bold, d.ID)
	line("effect", effect, string(d.Effect))
	line("reason", yellow, d.Policy.Reason)
	line("action", "", d.Action, resourceOf(&d), versionOf(d.Resource.Version))
	line("attributes", "", compact(d.Resource.Attr))
	line("principal", cyan, d.Principal.ID, versionOf(d.Principal.Version), strings.Join(d.Principal.Roles, ", "))
	line("", "", compact(d.Principal.Attr))
	line("asked by", cyan, d.Asker)
	line("tenant", "", d.Tenant)
	line("policy", "", d.Policy.Matched, d.Policy.Scope, strings.Join(d.Policy.DerivedRoles, ", "), named("revision", d.Policy.Revision))
	line("stage", "", string(d.Stage), d.EvaluatedAt.Local().Format(time.RFC3339Nano), fmt.Sprintf("in %d µs", d.TookMicros))
	line("request", "", d.Request.Method, d.Request.Route, named("from", d.Request.Remote), named("id", d.Request.ID), named("trace", d.TraceID))
	line("plan", "", string(d.Plan))
	if d.Command != nil {
		line("command", "", d.Command.ID, named("sha256", d.Command.SHA256), named("expires", d.Command.Expires.Local().Format(time.RFC3339)))
	}
	var o events.Outcome
	if len(e.Outcome) > 0 {
		if err := json.Unmarshal(e.Outcome, &o); err != nil {
			return fmt.Errorf("the outcome of entry %s: %w", e.ID, err)
		}
		code := green
		if o.Status != events.StatusApplied {
			code = red
		}
		line("outcome", code, string(o.Status), o.Code, o.Reason, versionOf(o.Version), o.At.Local().Format(time.RFC3339Nano))
	}
	line("log", "", fmt.Sprintf("leaf %d", e.Index), named("ledger sequence", fmt.Sprint(e.Sequence)), named("hash", e.LeafHash))
	line("seal", "", e.Seal)
	if e.Masked {
		line("", dim, "masked: this is what the principal may know of it")
	}
	return nil
}

func versionOf(v int64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("version %d", v)
}

func named(name, value string) string {
	if value == "" {
		return ""
	}
	return name + " " + value
}

func compact(attr map[string]any) string {
	if len(attr) == 0 {
		return ""
	}
	b, err := json.Marshal(attr)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

type exportCmd struct {
	target
	filter
	Format string `help:"jsonl, csv or ocsf (OCSF 1.8, class 6003)." enum:"jsonl,csv,ocsf" default:"jsonl"`
	Output string `short:"o" help:"A file to write to, whole or not at all, or a device or FIFO; standard output without it." type:"path" placeholder:"FILE"`
}

// Run exports. A file stands there only when it is complete.
func (c *exportCmd) Run(a *app) (err error) {
	r, err := c.auditor(a)
	if err != nil {
		return err
	}
	q := c.query()
	q.Set("format", c.Format)
	res, err := r.open(a.ctx, http.MethodGet, "/v1/decisions/export", q, nil, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if c.Output == "" {
		if _, err := io.Copy(a.out, res.Body); err != nil {
			return fmt.Errorf("the export is not complete: %w", err)
		}
		return nil
	}
	return writeWhole(a.ctx, c.Output, res.Body)
}
