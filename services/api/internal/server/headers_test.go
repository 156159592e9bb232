package server

import (
	"reflect"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kinds"
)

func kindOf(name string) *kind.Definition {
	d, _ := kinds.ByName(name)
	return d
}

func TestPreferWait(t *testing.T) {
	for _, c := range []struct {
		in    []string
		wait  time.Duration
		asked bool
		bad   bool
	}{
		{nil, 0, false, false},
		{[]string{"respond-async"}, 0, false, false},
		{[]string{"wait=5"}, 5 * time.Second, true, false},
		{[]string{`respond-async, WAIT="7"; x=y`}, 7 * time.Second, true, false},
		{[]string{"return=minimal", "wait = 2"}, 2 * time.Second, true, false},
		{[]string{"wait=99999999"}, maxWait, true, false},
		{[]string{"wait=0"}, 0, true, false},
		{[]string{"wait=-1"}, 0, false, true},
		{[]string{"wait"}, 0, false, true},
	} {
		wait, asked, err := preferWait(c.in)
		if wait != c.wait || asked != c.asked || (err != nil) != c.bad {
			t.Errorf("%q: %s %v %v", c.in, wait, asked, err)
		}
	}
}

func TestIdempotencyKey(t *testing.T) {
	for in, want := range map[string]string{`"a b"`: "a b", "bare": "bare", `"q\"q\\"`: `q"q\`, "": ""} {
		if got, err := idempotencyKey(in); got != want || err != nil {
			t.Errorf("%s: %q %v", in, got, err)
		}
	}
	for _, in := range []string{`""`, `"open`, "a\x01", "ü"} {
		if got, err := idempotencyKey(in); err == nil {
			t.Errorf("%s: %q", in, got)
		}
	}
}

func TestEntityTags(t *testing.T) {
	for _, c := range []struct {
		in       string
		versions []int64
		any      bool
		present  bool
		bad      bool
	}{
		{"", nil, false, false, false},
		{"*", nil, true, true, false},
		{`"3"`, []int64{3}, false, true, false},
		{`"3", "5"`, []int64{3, 5}, false, true, false},
		{`W/"3"`, nil, false, true, false},
		{`"abc"`, nil, false, true, false},
		{`3`, nil, false, false, true},
	} {
		versions, anyTag, present, err := entityTags("If-Match", c.in)
		if !reflect.DeepEqual(versions, c.versions) || anyTag != c.any || present != c.present || (err != nil) != c.bad {
			t.Errorf("%s: %v %v %v %v", c.in, versions, anyTag, present, err)
		}
	}
}
