package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

type deadCmd struct {
	List    deadListCmd    `cmd:"" help:"List dead letters."`
	Show    deadShowCmd    `cmd:"" help:"Show one with its message."`
	Replay  deadReplayCmd  `cmd:"" help:"Give commands that failed once more, in the name of those who gave them."`
	Discard deadDiscardCmd `cmd:"" help:"Remove dead letters."`
}

// deadLetter is a dead letter as the api tells it.
type deadLetter struct {
	ID           string    `json:"id"`
	Service      string    `json:"service"`
	Code         string    `json:"code"`
	Reason       string    `json:"reason"`
	Subject      string    `json:"subject"`
	Sequence     uint64    `json:"sequence"`
	Deliveries   int       `json:"deliveries"`
	DiedAt       time.Time `json:"died_at"`
	Believed     bool      `json:"believed"`
	CommandID    string    `json:"command_id,omitempty"`
	PrincipalID  string    `json:"principal_id,omitempty"`
	Action       string    `json:"action,omitempty"`
	Unreplayable string    `json:"unreplayable,omitempty"`
	Resource     *struct {
		Kind string `json:"kind"`
		ID   string `json:"id"`
	} `json:"resource,omitempty"`
	IssuedAt *time.Time      `json:"issued_at,omitempty"`
	Decision json.RawMessage `json:"decision,omitempty"`
	Message  []byte          `json:"message,omitempty"`
}

// about says what the letter is about, as far as that is believed.
func (d deadLetter) about() string {
	if d.Resource == nil {
		return "(not believed) " + d.Subject
	}
	return d.Action + " " + d.Resource.Kind + "/" + d.Resource.ID
}

func (t target) api(a *app) (*remote, error) {
	return t.connect(a, func(l local) string { return l.API }, demoAdmin)
}

// letters reads all dead letters, page by page.
func letters(a *app, r *remote, each func(deadLetter) error) error {
	q := url.Values{"limit": {"200"}}
	for {
		var page struct {
			Items      []deadLetter `json:"items"`
			NextCursor string       `json:"next_cursor"`
		}
		if err := r.get(a.ctx, "/v1/dead", q, &page); err != nil {
			return err
		}
		for _, d := range page.Items {
			if err := each(d); err != nil {
				return err
			}
		}
		if page.NextCursor == "" {
			return nil
		}
		q.Set("cursor", page.NextCursor)
	}
}

type deadListCmd struct {
	target
	Code   string `help:"Only those that were refused for this: failed, expired, bad-seal, …"`
	Output string `short:"o" help:"pretty or json: one a line." enum:"pretty,json" default:"pretty"`
}

// Run lists them, oldest first.
func (c *deadListCmd) Run(a *app) error {
	r, err := c.api(a)
	if err != nil {
		return err
	}
	t, n := newTerminal(a.out), 0
	err = letters(a, r, func(d deadLetter) error {
		if c.Code != "" && d.Code != c.Code {
			return nil
		}
		n++
		if c.Output == "json" {
			return json.NewEncoder(a.out).Encode(d)
		}
		_, err := fmt.Fprintf(t, "%s  %s  %s  %s  by %s  %s\n", t.cell(bold, 20, d.ID), t.cell(dim, 0, d.DiedAt.Local().Format(time.DateTime)),
			t.cell(red, 15, d.Code), t.cell("", 52, d.about()), t.cell(cyan, 0, orNobody(d.PrincipalID)), t.cell(dim, 0, d.Reason))
		return err
	})
	if err == nil && n == 0 && c.Output == "pretty" {
		_, err = fmt.Fprintln(a.err, "There are no dead letters.")
	}
	return err
}

func orNobody(id string) string {
	if id == "" {
		return "?"
	}
	return id
}

type deadShowCmd struct {
	target
	ID     string `arg:"" help:"The dead letter's id."`
	Output string `short:"o" help:"pretty, json, or raw: the message's bytes and nothing else." enum:"pretty,json,raw" default:"pretty"`
}

// Run shows one.
func (c *deadShowCmd) Run(a *app) error {
	r, err := c.api(a)
	if err != nil {
		return err
	}
	var d deadLetter
	raw, err := r.call(a.ctx, http.MethodGet, "/v1/dead/"+url.PathEscape(c.ID), nil, nil, &d, nil)
	if err != nil {
		return err
	}
	switch c.Output {
	case "json":
		_, err = fmt.Fprintln(a.out, strings.TrimSpace(string(raw)))
		return err
	case "raw":
		_, err = a.out.Write(d.Message)
		return err
	}
	t := newTerminal(a.out)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s  %s\n", t.cell(dim, 12, name), printable(value))
		}
	}
	line("dead letter", d.ID)
	line("died", d.DiedAt.Local().Format(time.RFC3339))
	line("code", d.Code)
	line("reason", d.Reason)
	line("deliveries", fmt.Sprint(d.Deliveries))
	line("subject", d.Subject)
	line("about", d.about())
	line("command", d.CommandID)
	line("by", d.PrincipalID)
	if d.IssuedAt != nil {
		line("given", d.IssuedAt.Local().Format(time.RFC3339))
	}
	line("no replay", d.Unreplayable)
	line("message", string(d.Message))
	return nil
}

// deadActCmd is what replay and discard have in common.
type deadActCmd struct {
	target
	IDs    []string `arg:"" optional:"" name:"id" help:"The dead letters' ids."`
	All    bool     `help:"All that can be."`
	Code   string   `help:"With --all: only those that were refused for this."`
	Reason string   `help:"Why. It stands in the recorded decision." required:""`
	Yes    bool     `short:"y" help:"Do not ask."`
}

// chosen gives the letters that are meant, and asks before it is more than one.
func (c *deadActCmd) chosen(a *app, r *remote, verb string, fit func(deadLetter) bool) ([]string, error) {
	if c.All == (len(c.IDs) > 0) {
		return nil, errors.New("name dead letters by their ids, or say --all")
	}
	if c.Code != "" && !c.All {
		return nil, errors.New("--code goes with --all")
	}
	ids := c.IDs
	if c.All {
		left := 0 // cannot be
		err := letters(a, r, func(d deadLetter) error {
			switch {
			case c.Code != "" && d.Code != c.Code:
			case fit(d):
				ids = append(ids, d.ID)
			default:
				left++
			}
			return nil
		})
		switch {
		case err != nil:
			return nil, err
		case len(ids) == 0 && left > 0:
			return nil, fmt.Errorf("%s: none of %d dead letters can be: writ dead show tells why", strings.ToLower(verb), left)
		case len(ids) == 0:
			fmt.Fprintln(a.err, "There are no such dead letters.")
		case left > 0:
			fmt.Fprintf(a.err, "%d more cannot be: writ dead show tells why.\n", left)
		}
	}
	if len(ids) > 1 && !c.Yes {
		if err := a.confirm(fmt.Sprintf("%s %d dead letters?", verb, len(ids))); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// confirm asks on a terminal. Elsewhere nobody can answer, so the answer is no.
func (a *app) confirm(question string) error {
	f, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return errors.New(question + " There is no terminal to ask on: say --yes")
	}
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	answer := make(chan string, 1)
	go func() { // a read from a terminal cannot be interrupted; the process ends soon
		line, err := bufio.NewReader(f).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			line = ""
		}
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case s := <-answer:
		if s == "y" || s == "yes" {
			return nil
		}
		return errors.New("nothing was done")
	case <-a.ctx.Done():
		return a.ctx.Err()
	}
}

// each does something to every letter, goes on after an error, and ends with one
// if there was any.
func (c *deadActCmd) each(a *app, ids []string, do func(id string) (string, error)) error {
	failed := 0
	for _, id := range ids {
		done, err := do(id)
		if err != nil {
			if a.ctx.Err() != nil {
				return a.ctx.Err()
			}
			failed++
			fmt.Fprintf(a.err, "writ: %s: %v\n", id, err)
			continue
		}
		if _, err := fmt.Fprintf(a.out, "%s  %s\n", id, done); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d failed", failed, len(ids))
	}
	return nil
}

type deadReplayCmd struct {
	deadActCmd
	Wait int `help:"Wait this many seconds for what becomes of each; 0 not to wait." default:"5"`
}

// Run replays them one after another.
func (c *deadReplayCmd) Run(a *app) error {
	r, err := c.api(a)
	if err != nil {
		return err
	}
	ids, err := c.chosen(a, r, "Replay", func(d deadLetter) bool { return d.Unreplayable == "" })
	if err != nil {
		return err
	}
	return c.each(a, ids, func(id string) (string, error) {
		header := http.Header{}
		if c.Wait > 0 {
			header.Set("Prefer", fmt.Sprintf("wait=%d", c.Wait))
		}
		var out struct {
			Command struct {
				ID, Status, Code, Reason string
			} `json:"command"`
		}
		_, err := r.call(a.ctx, http.MethodPost, "/v1/dead/"+url.PathEscape(id)+"/replay", nil, map[string]string{"reason": c.Reason}, &out, header)
		if err != nil {
			return "", err
		}
		text := "command " + out.Command.ID + " " + out.Command.Status
		if out.Command.Code != "" {
			text += " (" + out.Command.Code + ": " + printable(out.Command.Reason) + ")"
		}
		return text, nil
	})
}

type deadDiscardCmd struct{ deadActCmd }

// Run removes them one after another.
func (c *deadDiscardCmd) Run(a *app) error {
	r, err := c.api(a)
	if err != nil {
		return err
	}
	ids, err := c.chosen(a, r, "Discard", func(deadLetter) bool { return true })
	if err != nil {
		return err
	}
	return c.each(a, ids, func(id string) (string, error) {
		_, err := r.call(a.ctx, http.MethodDelete, "/v1/dead/"+url.PathEscape(id), url.Values{"reason": {c.Reason}}, nil, nil, nil)
		return "discarded", err
	})
}
