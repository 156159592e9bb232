package server

import (
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kinds"
)

func kindOf(name string) *kind.Definition {
	d, _ := kinds.ByName(name)
	return d
}

// TestPreferencesThatCannotBeMetAreIgnored: RFC 7240, section 2.
func TestPreferencesThatCannotBeMetAreIgnored(t *testing.T) {
	for _, c := range []struct {
		in    []string
		wait  time.Duration
		asked bool
	}{
		{nil, 0, false},
		{[]string{"respond-async"}, 0, false},
		{[]string{"wait=5"}, 5 * time.Second, true},
		{[]string{`respond-async, WAIT="7"; x=y`}, 7 * time.Second, true},
		{[]string{"return=minimal", "wait = 2"}, 2 * time.Second, true},
		{[]string{"wait=99999999"}, maxWait, true},
		{[]string{"wait=99999999999999999999999"}, maxWait, true},
		{[]string{"wait=0"}, 0, true},
		{[]string{"wait=3, wait=9"}, 3 * time.Second, true},
		{[]string{"wait=-1"}, 0, false},
		{[]string{"wait=1.5"}, 0, false},
		{[]string{"wait=x"}, 0, false},
		{[]string{"wait"}, 0, false},
		{[]string{`note="a, wait=9", wait=4`}, 4 * time.Second, true},
		{[]string{`note="a\", wait=9"`}, 0, false},
		{[]string{`note=x;why="; , wait=9"`}, 0, false},
	} {
		if wait, asked := preferWait(c.in); wait != c.wait || asked != c.asked {
			t.Errorf("Prefer: %q is a wait of %s (asked for: %v), want %s (%v)", c.in, wait, asked, c.wait, c.asked)
		}
	}
}

func TestIdempotencyKey(t *testing.T) {
	for in, want := range map[string]string{`"a b"`: "a b", "bare": "bare", `"q\"q\\"`: `q"q\`, "": ""} {
		if got, err := idempotencyKey(in); got != want || err != nil {
			t.Errorf("%s: %q %v", in, got, err)
		}
	}
	for _, in := range []string{`""`, `"open`, "a\x01", "ü", `"a", "b"`, `"a"b"`, `"a\b"`, `"a\"`} {
		if got, err := idempotencyKey(in); err == nil {
			t.Errorf("%s: %q", in, got)
		}
	}
}

// TestVersionIsReadOutOfOurOwnTagsOnly: what is not exactly a tag that we made is another's.
func TestVersionIsReadOutOfOurOwnTagsOnly(t *testing.T) {
	for in, want := range map[string]int64{
		"3": 3, "12-00112233445566778899aabb": 12, "01": 0, "+1": 0, "0": 0, "-1": 0, "1-": 0, "1-00": 0, "1-00112233445566778899AABB": 0,
		"1-zz112233445566778899aabb": 0, "": 0, "a,b": 0, " 1": 0, "99999999999999999999": 0,
	} {
		if got, ok := versionOf(in); ok != (want > 0) || ok && got != want {
			t.Errorf("the tag %q is of version %d (%v), want %d", in, got, ok, want)
		}
	}
}
