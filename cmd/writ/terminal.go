package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"golang.org/x/term"
)

// terminal is an output that may be a terminal. Without one, or where NO_COLOR
// is set (no-color.org) or TERM is dumb, nothing is coloured.
type terminal struct {
	io.Writer
	tty   bool
	color bool
	width int // columns; 0 where it is no terminal
}

func newTerminal(w io.Writer) *terminal {
	t := &terminal{Writer: w}
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return t
	}
	t.tty, t.width = true, 80
	if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
		t.width = width
	}
	t.color = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return t
}

// SGR codes (ECMA-48).
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

// paint colours a text.
func (t *terminal) paint(code, text string) string {
	if !t.color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// cell pads or cuts a text to a column's width and then colours it. What comes
// from elsewhere is made harmless: no control characters.
func (t *terminal) cell(code string, width int, text string) string {
	text = printable(text)
	if n := len([]rune(text)); n < width {
		text += strings.Repeat(" ", width-n)
	} else if n > width && width > 0 {
		text = string([]rune(text)[:max(width-1, 0)]) + "…"
	}
	if code == "" {
		return text
	}
	return t.paint(code, text)
}

// printable replaces what a terminal would act upon.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '�'
		}
		return r
	}, s)
}

// progress is a bar on a terminal, and nothing elsewhere.
type progress struct {
	t     *terminal
	what  string
	total int64
	last  time.Time
	drawn bool
}

// progressEvery is how often a bar is drawn at most.
const progressEvery = 100 * time.Millisecond

func newProgress(t *terminal, what string, total int64) *progress {
	return &progress{t: t, what: what, total: total}
}

// at draws the bar.
func (p *progress) at(done int64) {
	if !p.t.tty || (time.Since(p.last) < progressEvery && done < p.total) {
		return
	}
	p.last, p.drawn = time.Now(), true
	share := 1.0
	if p.total > 0 {
		share = min(float64(done)/float64(p.total), 1)
	}
	label := fmt.Sprintf(" %3.0f %%  %s of %s", 100*share, thousands(done), thousands(p.total))
	room := min(40, p.t.width-len([]rune(p.what))-len(label)-5)
	bar := ""
	if room > 4 {
		full := int(share * float64(room))
		bar = " " + strings.Repeat("█", full) + strings.Repeat("░", room-full)
	}
	fmt.Fprintf(p.t, "\r\x1b[K%s%s%s", p.what, bar, label)
}

// end takes the bar away.
func (p *progress) end() {
	if p.drawn {
		fmt.Fprint(p.t, "\r\x1b[K")
	}
}

// thousands writes 1234567 as 1,234,567.
func thousands[T int | int64](n T) string {
	s := fmt.Sprint(n)
	sign := ""
	if n < 0 {
		sign, s = "-", s[1:]
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return sign + s
}

// age is how long ago something was: 10m, 12h, 7d, 2w.
type age time.Duration

// UnmarshalText reads a time.ParseDuration duration, or days and weeks.
func (d *age) UnmarshalText(b []byte) error {
	s := string(b)
	for suffix, unit := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if n, ok := strings.CutSuffix(s, suffix); ok {
			var count float64
			if _, err := fmt.Sscanf(n+"\n", "%g\n", &count); err != nil || count < 0 || count > 100_000 {
				return fmt.Errorf("want a time such as 10m, 12h or 7d, not %q", s)
			}
			*d = age(count * float64(unit))
			return nil
		}
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("want a time such as 10m, 12h or 7d, not %q", s)
	}
	*d = age(v)
	return nil
}

// ago is the moment that long before now; zero for no age.
func (d age) ago() time.Time {
	if d == 0 {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(d))
}
