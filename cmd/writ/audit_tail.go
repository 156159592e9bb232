package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// tailCmd shows the last decisions and goes on with new ones.
type tailCmd struct {
	target
	filter
	Follow bool   `short:"f" help:"Go on with new ones, and reconnect when the auditor is away."`
	Count  *int   `short:"n" help:"How many of the last ones; 20 without --since, all with it." placeholder:"N"`
	Output string `short:"o" help:"pretty or json: the decision's bytes, one a line." enum:"pretty,json" default:"pretty"`
}

// lastOnes is how many a tail begins with.
const lastOnes = 20

// Run prints decisions, oldest first.
func (c *tailCmd) Run(a *app) error {
	r, err := c.auditor(a)
	if err != nil {
		return err
	}
	f := &follower{app: a, remote: r, t: newTerminal(a.out), output: c.Output, query: c.query()}
	switch {
	case c.Count != nil && *c.Count < 0:
		return fmt.Errorf("--count: %d is negative", *c.Count)
	case c.Count == nil && c.Since != 0 && !c.Follow:
		return f.since()
	case c.Count != nil || c.Since == 0:
		n := lastOnes
		if c.Count != nil {
			n = *c.Count
		}
		if err := f.newest(n); err != nil {
			return err
		}
		f.query.Del("from")
	}
	if !c.Follow {
		return nil
	}
	err = f.run(a.ctx)
	if a.ctx.Err() != nil {
		return nil // told to stop
	}
	return err
}

// follower prints decisions and knows the last one.
type follower struct {
	app    *app
	remote *remote
	t      *terminal
	output string
	query  url.Values
	last   string // the last event's id
	since0 string // where to begin while there is no last event
}

func (f *follower) print(e entry) error {
	line, err := e.line(f.t, f.output)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(f.t, line); err != nil {
		return err
	}
	f.last = e.ID
	return nil
}

// page is one answer of a list.
type page struct {
	Items      []entry `json:"items"`
	NextCursor string  `json:"next_cursor"`
}

// pages reads a list to its end, or until each says that it is enough.
func (f *follower) pages(q url.Values, each func(page) (enough bool, err error)) error {
	for {
		var p page
		if err := f.remote.get(f.app.ctx, "/v1/decisions", q, &p); err != nil {
			return err
		}
		enough, err := each(p)
		if enough || err != nil || p.NextCursor == "" {
			return err
		}
		q.Set("cursor", p.NextCursor)
	}
}

// newest prints the last n decisions.
func (f *follower) newest(n int) error {
	began := time.Now()
	var items []entry
	if n > 0 {
		q := cloned(f.query)
		q.Set("order", "newest")
		q.Set("limit", fmt.Sprint(min(n, 200)))
		err := f.pages(q, func(p page) (bool, error) {
			items = append(items, p.Items...)
			return len(items) >= n, nil
		})
		if err != nil {
			return err
		}
		items = items[:min(n, len(items))]
		slices.Reverse(items)
	}
	for _, e := range items {
		if err := f.print(e); err != nil {
			return err
		}
	}
	if n > 0 && len(items) == 0 {
		// There were none at all, so none comes twice, whatever the clocks say.
		if f.since0 = f.query.Get("from"); f.since0 == "" {
			f.since0 = began.Add(-time.Hour).UTC().Format(time.RFC3339)
		}
	}
	return nil
}

// since prints everything from a time on.
func (f *follower) since() error {
	q := cloned(f.query)
	q.Set("order", "oldest")
	q.Set("limit", "200")
	return f.pages(q, func(p page) (bool, error) {
		for _, e := range p.Items {
			if err := f.print(e); err != nil {
				return true, err
			}
		}
		return false, nil
	})
}

func cloned(q url.Values) url.Values {
	out := url.Values{}
	for name, values := range q {
		out[name] = slices.Clone(values)
	}
	return out
}

// How a stream that ended is begun again.
const (
	reconnectFirst = 200 * time.Millisecond
	reconnectMost  = 5 * time.Second
	// silence is after how long without a heartbeat (every 15 s) a stream counts as dead.
	silence = 45 * time.Second
)

// run follows the stream until ctx ends or the auditor refuses.
func (f *follower) run(ctx context.Context) error {
	wait, lost := reconnectFirst, false
	for {
		err := f.stream(ctx, func() {
			if lost {
				fmt.Fprintln(f.app.err, "writ: connected again"+f.where())
			}
			wait, lost = reconnectFirst, false
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p, answered := errors.AsType[*problemError](err)
		switch {
		case answered && p.Code == "trimmed":
			fmt.Fprintf(f.app.err, "writ: what came after %s is older than what the log keeps: going on with new decisions\n", f.last)
			f.last, f.since0 = "", ""
			f.query.Del("from")
		case answered && !passing(p.Status, f.remote.renew != nil):
			return err
		case errors.As(err, new(*writeError)):
			return err
		}
		if !lost {
			fmt.Fprintf(f.app.err, "writ: the stream ended (%v): reconnecting\n", err)
		}
		lost = true
		select {
		case <-time.After(wait + rand.N(wait/2)):
		case <-ctx.Done():
			return ctx.Err()
		}
		wait = min(2*wait, reconnectMost)
	}
}

// passing reports whether an answer may be another one later.
func passing(status int, renews bool) bool {
	return status >= 500 || status == http.StatusTooManyRequests || status == http.StatusUnauthorized && renews
}

func (f *follower) where() string {
	if f.last == "" {
		return ""
	}
	return ", going on after " + f.last
}

// writeError is an output that takes no more.
type writeError struct{ error }

// stream follows one connection. It tells when it is open.
func (f *follower) stream(ctx context.Context, opened func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(silence, func() { cancel(errors.New("no sign of life")) })
	defer quiet.Stop()
	header, q := http.Header{"Accept": {"text/event-stream"}}, cloned(f.query)
	switch {
	case f.last != "":
		header.Set("Last-Event-ID", f.last)
	case f.since0 != "":
		q.Set("from", f.since0)
	}
	res, err := f.remote.open(ctx, http.MethodGet, "/v1/decisions/stream", q, nil, header)
	if err != nil {
		return cause(ctx, err)
	}
	defer res.Body.Close()
	opened()
	err = readEvents(res.Body, func() { quiet.Reset(silence) }, f.event)
	if err == nil {
		err = io.ErrUnexpectedEOF // it has no end of its own
	}
	return cause(ctx, err)
}

// cause is why a context ended, if that is why there is an error.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// event is called with each event of the stream.
func (f *follower) event(id, name string, data []byte) error {
	switch {
	case name == "decision":
		var e entry
		if err := json.Unmarshal(data, &e); err != nil {
			return fmt.Errorf("event %s: %w", id, err)
		}
		if err := f.print(e); err != nil {
			return &writeError{err}
		}
	case name == "end":
		p := &problemError{request: "stream"}
		var status struct {
			Status int `json:"status"`
		}
		if json.Unmarshal(data, p) != nil || json.Unmarshal(data, &status) != nil {
			return errors.New("it ended without a reason that can be read")
		}
		p.Status = status.Status
		return p
	}
	if id != "" {
		f.last = id
	}
	return nil
}

// maxEvent bounds an event of the stream, in bytes.
const maxEvent = 4 << 20

// readEvents reads server-sent events (WHATWG HTML, 9.2) until the stream ends.
// Event is called for each, for one without data with an empty name, as for a
// heartbeat that tells an id. Alive is called with every line.
func readEvents(r io.Reader, alive func(), event func(id, name string, data []byte) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxEvent)
	var id, name string
	var data []byte
	for lines.Scan() {
		alive()
		line := lines.Text()
		if line == "" {
			if data == nil {
				name = ""
			}
			if data != nil || id != "" {
				if err := event(id, name, data); err != nil {
					return err
				}
			}
			id, name, data = "", "", nil
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			id = value
		case "event":
			name = value
		case "data":
			if data != nil {
				data = append(data, '\n')
			}
			data = append(data, value...)
			if data == nil {
				data = []byte{}
			}
			if len(data) > maxEvent {
				return errors.New("an event is too large")
			}
		}
	}
	return lines.Err() // an event without its end was not sent
}
