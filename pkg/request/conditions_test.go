package request

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestPreconditionsAreJudgedInTheOrderOfRFC9110 is section 13.2.2, step by step. The
// resource has the strong tag "2", or none, and changed at noon.
func TestPreconditionsAreJudgedInTheOrderOfRFC9110(t *testing.T) {
	noon := time.Date(2026, 1, 2, 12, 0, 0, 700e6, time.UTC)
	before, at, after := noon.Add(-time.Hour).Format(http.TimeFormat), noon.Format(http.TimeFormat), noon.Add(time.Hour).Format(http.TimeFormat)
	there := Validators{Exists: true, Modified: noon, Is: func(opaque string, _ bool) bool { return opaque == "2" }}
	tagless := Validators{Exists: true}
	gone := Validators{}
	for _, c := range []struct {
		name    string
		now     Validators
		headers []string
		read    Verdict
		write   Verdict
	}{
		{"no precondition", there, nil, Proceed, Proceed},
		{"1: If-Match, the tag", there, []string{"If-Match", `"2"`}, Proceed, Proceed},
		{"1: If-Match, another", there, []string{"If-Match", `"1"`}, Failed, Failed},
		{"1: If-Match, one of a list", there, []string{"If-Match", `"1" ,, "a,b" , "2"`}, Proceed, Proceed},
		{"1: If-Match, a comma within a tag", there, []string{"If-Match", `"1,2"`}, Failed, Failed},
		{"1: If-Match, weak tags never match strongly", there, []string{"If-Match", `W/"2"`}, Failed, Failed},
		{"1: If-Match: *", there, []string{"If-Match", `*`}, Proceed, Proceed},
		{"1: If-Match: * where there is nothing", gone, []string{"If-Match", `*`}, Failed, Failed},
		{"1: If-Match where there is no tag", tagless, []string{"If-Match", `"2"`}, Failed, Failed},
		{"1: If-Match before the date, which would hold", there, []string{"If-Match", `"1"`, "If-Unmodified-Since", after}, Failed, Failed},
		{"1: If-Match before the date, which would not hold", there, []string{"If-Match", `"2"`, "If-Unmodified-Since", before}, Proceed, Proceed},
		{"2: unmodified since", there, []string{"If-Unmodified-Since", at}, Proceed, Proceed},
		{"2: modified since", there, []string{"If-Unmodified-Since", before}, Failed, Failed},
		{"2: no date is known", tagless, []string{"If-Unmodified-Since", before}, Proceed, Proceed},
		{"2: a date that is none", there, []string{"If-Unmodified-Since", "yesterday"}, Proceed, Proceed},
		{"3: If-None-Match, the tag", there, []string{"If-None-Match", `"2"`}, NotModified, Failed},
		{"3: If-None-Match, weakly", there, []string{"If-None-Match", `W/"2"`}, NotModified, Failed},
		{"3: If-None-Match, another", there, []string{"If-None-Match", `"02"`}, Proceed, Proceed},
		{"3: If-None-Match, another letter case of W", there, []string{"If-None-Match", `"W/2"`}, Proceed, Proceed},
		{"3: If-None-Match: *", there, []string{"If-None-Match", `*`}, NotModified, Failed},
		{"3: If-None-Match: * where there is nothing", gone, []string{"If-None-Match", `*`}, Proceed, Proceed},
		{"3: If-None-Match before the date", there, []string{"If-None-Match", `"1"`, "If-Modified-Since", after}, Proceed, Proceed},
		{"4: not modified since", there, []string{"If-Modified-Since", at}, NotModified, Proceed},
		{"4: modified since", there, []string{"If-Modified-Since", before}, Proceed, Proceed},
		{"1 and 3: both hold", there, []string{"If-Match", `"2"`, "If-None-Match", `"1"`}, Proceed, Proceed},
		{"1 and 3: If-Match holds, the other does not", there, []string{"If-Match", `"2"`, "If-None-Match", `"2"`}, NotModified, Failed},
		{"2 and 3", there, []string{"If-Unmodified-Since", before, "If-None-Match", `"2"`}, Failed, Failed},
	} {
		h := http.Header{}
		for i := 0; i < len(c.headers); i += 2 {
			h.Add(c.headers[i], c.headers[i+1])
		}
		got, err := ReadConditions(h)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if read := got.Judge(http.MethodGet, c.now); read != c.read {
			t.Errorf("%s: a GET is %v, want %v", c.name, read, c.read)
		}
		if head := got.Judge(http.MethodHead, c.now); head != c.read {
			t.Errorf("%s: a HEAD is %v, want %v", c.name, head, c.read)
		}
		if write := got.Judge(http.MethodPut, c.now); write != c.write {
			t.Errorf("%s: a PUT is %v, want %v", c.name, write, c.write)
		}
	}
}

// TestRangeIsAnsweredForTheSameFileOnly: RFC 9110, 13.1.5.
func TestRangeIsAnsweredForTheSameFileOnly(t *testing.T) {
	changed := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	now := Validators{Exists: true, Modified: changed, Is: func(opaque string, _ bool) bool { return opaque == "a,b" }}
	for v, want := range map[string]bool{
		"": true, `"a,b"`: true, `W/"a,b"`: false, `"c"`: false, `"a,b", "c"`: false, "*": false, "rubbish": false,
		changed.Format(http.TimeFormat): true, changed.Add(time.Second).Format(http.TimeFormat): false, changed.Add(-time.Second).Format(http.TimeFormat): false,
	} {
		c, err := ReadConditions(http.Header{"If-Range": {v}})
		if err != nil || c.RangeHolds(now) != want {
			t.Errorf("If-Range: %s lets a range be answered: %v (%v), want %v", v, !want, err, want)
		}
	}
}

func TestTagsThatCannotBeReadAreNamed(t *testing.T) {
	for _, v := range []string{"1", `"1`, `1"`, `"1" "2"`, `"1";`, `w/"1"`, `W/1`, `"a b"`, "\"a\x7f\"", `*, "1"`, ",", strings.Repeat(`"1",`, 17), `"` + strings.Repeat("x", 1024) + `"`} {
		for _, name := range []string{"If-Match", "If-None-Match"} {
			if c, err := ReadConditions(http.Header{name: {v}}); err == nil || !strings.Contains(err.Error(), "header."+name) {
				t.Errorf("%s: %.40s is read as %+v (%v), want an error that names it", name, v, c, err)
			}
		}
	}
	c, err := ReadConditions(http.Header{"If-Match": {`"1"`, `"2", "ü"`}})
	if err != nil || len(c.IfMatch.List) != 3 {
		t.Errorf("two lines of tags are %+v (%v), want three tags", c.IfMatch, err)
	}
}
