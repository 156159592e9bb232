package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
)

// verifyCmd reads the log again and checks it.
type verifyCmd struct {
	target
	Checkpoint string `help:"Where the checkpoint of the last verification is remembered; in the data folder without it." type:"path" placeholder:"FILE"`
	Key        string `help:"The log's public key, or a file that holds it; without it the one that was remembered, or is used from now on." placeholder:"KEY"`
	SealKeys   string `help:"Also check every record's seal with these keys." env:"WRIT_SEAL_KEYS" placeholder:"KEYS"`
}

// remembered is what a verification leaves for the next one.
type remembered struct {
	Key       string    `json:"key"`
	Decisions string    `json:"decisions"` // signed notes
	Outcomes  string    `json:"outcomes"`
	At        time.Time `json:"at"`
}

// errNotVerified ends with 1 after the verdict was printed.
const errNotVerified = exitCode(1)

// Run verifies, prints a verdict and remembers the checkpoint.
func (c *verifyCmd) Run(a *app) error {
	r, err := c.auditor(a)
	if err != nil {
		return err
	}
	file := c.Checkpoint
	if file == "" {
		file = filepath.Join(a.data, "audit", c.name()+".json")
	}
	known, err := recall(file)
	if err != nil {
		return err
	}
	src := newHTTPSource(r)
	o := audit.VerifyOptions{}
	if c.SealKeys != "" {
		if o.Seals, err = events.ParseKeyring(c.SealKeys); err != nil {
			return fmt.Errorf("--seal-keys: %w", err)
		}
	}
	trust, err := c.key(a, src, known)
	if err != nil {
		return err
	}
	o.Key = trust.key
	if o.Trusted, err = known.open(o.Key); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	bar := newProgress(newTerminal(a.err), "verifying", 0)
	o.Progress = func(done, total int64) {
		bar.total = total
		bar.at(done)
	}
	began := time.Now()
	report, err := audit.Verify(a.ctx, src, o)
	bar.end()
	if bad, ok := errors.AsType[*audit.Bad](err); ok {
		fmt.Fprintln(a.out, newTerminal(a.out).paint(red, "NOT VERIFIED")+": "+printable(bad.Error()))
		return errNotVerified
	}
	if err != nil {
		return fmt.Errorf("the log could not be verified: %w", err)
	}
	if err := remember(file, o.Key, report); err != nil {
		return fmt.Errorf("the log is verified, but its checkpoint could not be remembered: %w", err)
	}
	_, err = fmt.Fprintln(a.out, newTerminal(a.out).paint(green, "verified")+": "+verdict(report, known, trust, time.Since(began)))
	return err
}

// name is what the remembered checkpoint's file is called.
func (c *verifyCmd) name() string {
	if c.URL == "" {
		return "local"
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return "remote" // connect has refused it
	}
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '_'
	}, u.Host+u.Path)
}

// verdict is the one line that is printed.
func verdict(r audit.Report, known remembered, trust trusted, took time.Duration) string {
	s := fmt.Sprintf("%s decisions and %s outcomes", thousands(r.Decisions.Checkpoint.Tree.N), thousands(r.Outcomes.Checkpoint.Tree.N))
	if r.Decisions.First > 0 || r.Outcomes.First > 0 {
		s += fmt.Sprintf(" (of %s and %s older ones the hashes only)", thousands(r.Decisions.First), thousands(r.Outcomes.First))
	}
	s += fmt.Sprintf(", root %s", r.Decisions.Checkpoint.Tree.Hash)
	if r.Sequences {
		first, last := events.SequenceOf(r.FirstSequence), events.SequenceOf(r.LastSequence) // of messages: people count these
		s += fmt.Sprintf(", ledger %s to %s without a gap", thousands(int64(max(first, 1))), thousands(int64(last)))
		if n := r.Explained[audit.WhyRefused]; n > 0 {
			s += fmt.Sprintf(" (%s refused: see writ dead list)", thousands(int64(n)))
		}
	} else {
		s += ", gaps in the ledger's sequences not checked (the log does not tell them)"
	}
	if r.Decisions.Seals {
		s += ", seals fit"
	}
	if known.Decisions != "" {
		s += ", the log of " + known.At.Local().Format("2006-01-02 15:04") + " continued"
	}
	s += ", signed by " + trust.key.Origin(audit.Decisions) + " " + trust.key.ID() + trust.how
	return s + fmt.Sprintf(" (%s)", took.Round(time.Millisecond))
}

// trusted is the key that is believed, and why.
type trusted struct {
	key audit.PublicKey
	how string
}

// key finds the key to believe: the one given, that of the local stack, the one
// remembered, or the auditor's own on the first time.
func (c *verifyCmd) key(a *app, src *httpSource, known remembered) (trusted, error) {
	if c.Key != "" {
		k, err := readPublicKey(c.Key)
		return trusted{key: k}, err
	}
	if c.URL == "" {
		if k, err := audit.LoadKey(auditKeyFile(a.data)); err == nil {
			return trusted{key: k.PublicKey}, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return trusted{}, err
		}
	}
	if known.Key != "" {
		k, err := audit.ParsePublicKey(known.Key)
		return trusted{key: k}, err
	}
	if _, err := src.Checkpoints(a.ctx); err != nil {
		return trusted{}, fmt.Errorf("the log could not be verified: %w", err)
	}
	if src.key.IsZero() {
		return trusted{}, errors.New("the auditor does not tell its public key: give --key")
	}
	return trusted{src.key, ", the auditor's own word for its key: compare it with writ audit key where it runs"}, nil
}

// readPublicKey reads a public key: as text, or from a file, which may be the
// private key's own.
func readPublicKey(s string) (audit.PublicKey, error) {
	if k, err := audit.ParsePublicKey(s); err == nil {
		return k, nil
	}
	b, err := os.ReadFile(s)
	if err != nil {
		return audit.PublicKey{}, fmt.Errorf("--key: neither a public key (writ/<name>+<hash>+<base64>) nor a file: %w", err)
	}
	if k, err := audit.ParseKey(string(b)); err == nil {
		return k.PublicKey, nil
	}
	k, err := audit.ParsePublicKey(string(b))
	if err != nil {
		return k, fmt.Errorf("--key %s: %w", s, err)
	}
	return k, nil
}

// recall reads what the last verification left; nothing on the first time.
func recall(file string) (remembered, error) {
	var known remembered
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return known, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &known)
	}
	if err != nil {
		return known, fmt.Errorf("read the remembered checkpoint %s: %w", file, err)
	}
	return known, nil
}

// open gives the checkpoints, which must be signed by the key.
func (r remembered) open(key audit.PublicKey) ([]audit.Checkpoint, error) {
	var out []audit.Checkpoint
	for l, note := range map[audit.Log]string{audit.Decisions: r.Decisions, audit.Outcomes: r.Outcomes} {
		if note == "" {
			continue
		}
		c, err := key.Open(l, []byte(note))
		if err != nil {
			return nil, fmt.Errorf("the remembered checkpoint of %s: %w", l, err)
		}
		out = append(out, c)
	}
	return out, nil
}

func remember(file string, key audit.PublicKey, r audit.Report) error {
	b, err := json.MarshalIndent(remembered{
		Key: key.String(), Decisions: string(r.Decisions.Checkpoint.Note), Outcomes: string(r.Outcomes.Checkpoint.Note), At: time.Now().UTC(),
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return writeFile(file, append(b, '\n'))
}

// proveCmd writes evidence.
type proveCmd struct {
	target
	ID     string `arg:"" help:"The decision's id."`
	Output string `short:"o" help:"The file, device or FIFO to write; standard output without it." type:"path" placeholder:"FILE"`
}

// Run asks for the evidence. What was decided a moment ago is waited for: there
// is a checkpoint every second.
func (c *proveCmd) Run(a *app) error {
	r, err := c.auditor(a)
	if err != nil {
		return err
	}
	var raw []byte
	err = newHTTPSource(r).patiently(a.ctx, func() (err error) {
		raw, err = r.call(a.ctx, http.MethodGet, "/v1/decisions/"+url.PathEscape(c.ID)+"/proof", nil, nil, nil, nil)
		return err
	})
	if err != nil {
		return err
	}
	var ev audit.Evidence
	if err := json.Unmarshal(raw, &ev); err != nil {
		return fmt.Errorf("the auditor's evidence: %w", err)
	}
	b, err := json.MarshalIndent(ev, "", "  ")
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if c.Output == "" {
		_, err = a.out.Write(b)
		return err
	}
	if err := writeWhole(a.ctx, c.Output, bytes.NewReader(b)); err != nil {
		return err
	}
	// On standard error: the output may be the evidence itself.
	_, err = fmt.Fprintf(a.err, "%s: %s\nAnybody checks it with: writ audit check %s --key KEY (KEY: writ audit key)\n", c.Output, what(&ev), c.Output)
	return err
}

func what(ev *audit.Evidence) string {
	switch {
	case ev.Outcome != nil:
		return "the evidence of a whole mutation"
	case len(ev.Decisions) > 0 && strings.Contains(ev.Decisions[0].Record, `"command":{`):
		return "the evidence of a decision; its command has no outcome yet"
	}
	return "the evidence of a decision"
}

// checkCmd checks evidence.
type checkCmd struct {
	File string `arg:"" help:"The file that writ audit prove wrote." type:"path"`
	Key  string `help:"The log's public key, or a file that holds it." required:"" placeholder:"KEY"`
}

// maxEvidence bounds a file of evidence, in bytes.
const maxEvidence = 8 << 20

// Run checks a file, offline, and says what it proves.
func (c *checkCmd) Run(a *app) error {
	key, err := readPublicKey(c.Key)
	if err != nil {
		return err
	}
	info, err := os.Stat(c.File)
	if err != nil {
		return err
	}
	if info.Size() > maxEvidence {
		return fmt.Errorf("%s is larger than %d bytes", c.File, maxEvidence)
	}
	b, err := os.ReadFile(c.File)
	if err != nil {
		return err
	}
	t := newTerminal(a.out)
	var ev audit.Evidence
	if err := json.Unmarshal(b, &ev); err != nil {
		return fmt.Errorf("%s is no evidence: %w", c.File, err)
	}
	checked, err := ev.Check(key)
	if err != nil {
		fmt.Fprintln(t, t.paint(red, "NOT PROVEN")+": "+printable(err.Error()))
		return errNotVerified
	}
	fmt.Fprintln(t, t.paint(green, "proven")+": "+story(checked))
	return nil
}

// story says in words what evidence proves.
func story(c *audit.Checked) string {
	d := &c.Decision
	s := fmt.Sprintf("at %s %s was %s to %s %s in tenant %s (decision %s)",
		d.EvaluatedAt.UTC().Format(time.RFC3339), d.Principal.ID, past(d.Effect), d.Action, resourceOf(d), d.Tenant, d.ID)
	if d.Command != nil {
		s += fmt.Sprintf(", by command %s with the digest %s", d.Command.ID, d.Command.SHA256)
	}
	if c.Again != nil {
		s += fmt.Sprintf("; decided again at %s: %s (decision %s)", c.Again.EvaluatedAt.UTC().Format(time.RFC3339), past(c.Again.Effect), c.Again.ID)
	}
	if o := c.Outcome; o != nil {
		s += fmt.Sprintf("; the command was %s at %s", o.Status, o.At.UTC().Format(time.RFC3339))
		if o.Version > 0 {
			s += fmt.Sprintf(", the row at version %d", o.Version)
		}
		if o.Code != "" {
			s += fmt.Sprintf(" (%s: %s)", o.Code, o.Reason)
		}
	}
	cp := c.Checkpoints[audit.Decisions]
	return printable(s) + fmt.Sprintf("; in the log %s, size %s, root %s", cp.Origin, thousands(cp.Tree.N), cp.Tree.Hash)
}

func past(e events.Effect) string {
	if e == events.Allow {
		return "allowed"
	}
	return "not allowed"
}

// keyCmd prints the public key, or makes one.
type keyCmd struct {
	target
	Create string `help:"Make a key in this new file (WRIT_AUDIT_KEY_FILE) and print its public key." type:"path" placeholder:"FILE"`
	File   string `help:"Print the public key of this key file." type:"path" placeholder:"FILE"`
	Name   string `help:"With --create: the installation's name; it stands in every checkpoint." default:"audit"`
}

// Run prints a public key.
func (c *keyCmd) Run(a *app) error {
	var key audit.PublicKey
	switch {
	case c.Create != "" && c.File != "":
		return errors.New("--create or --file, not both")
	case c.Create != "":
		k, err := audit.CreateKey(c.Create, c.Name)
		if err != nil {
			return err
		}
		key = k.PublicKey
	case c.File != "":
		var err error
		if key, err = readPublicKey(c.File); err != nil {
			return err
		}
	default:
		r, err := c.auditor(a)
		if err != nil {
			return err
		}
		src := newHTTPSource(r)
		if _, err := src.Checkpoints(a.ctx); err != nil {
			return err
		}
		if key = src.key; key.IsZero() {
			return errors.New("the auditor does not tell its public key")
		}
	}
	_, err := fmt.Fprintln(a.out, key.String())
	return err
}
