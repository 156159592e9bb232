package server

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

func TestContentRanges(t *testing.T) {
	for in, want := range map[string]contentRange{
		"bytes 0-0/1":             {first: 0, last: 0, total: 1},
		"bytes 5-9/10":            {first: 5, last: 9, total: 10},
		"BYTES 0-1048575/2097152": {first: 0, last: 1048575, total: 2097152},
		"bytes */0":               {asks: true},
		"bytes */7":               {asks: true, total: 7},
	} {
		got, err := parseContentRange(in)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	for _, in := range []string{
		"", "bytes", "bytes 0-1", "bytes 0-1/*", "bytes 1-0/5", "bytes 0-5/5", "bytes -1/5", "bytes 0-/5", "bytes +0-1/5", "items 0-1/5",
		"bytes 0-1/5 ", "bytes  0-1/5", "bytes 0-1/99999999999999999999", "bytes 0x0-1/5", "bytes 0-1/5,2-3/5", "bytes=0-1/5", "bytes */*",
	} {
		if got, err := parseContentRange(in); err == nil {
			t.Errorf("%q was read as %+v", in, got)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-0/1", "bytes */7", "bytes 5-9/10", "bytes 9-5/10", "bytes 0-1/*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		c, err := parseContentRange(in)
		if err != nil {
			return
		}
		if c.total < 0 || !c.asks && (c.first < 0 || c.last < c.first || c.last >= c.total) || c.length() < 0 || c.length() > c.total {
			t.Errorf("%q was read as %+v", in, c)
		}
		again := fmt.Sprintf("bytes %d-%d/%d", c.first, c.last, c.total)
		if c.asks {
			again = fmt.Sprintf("bytes */%d", c.total)
		}
		if back, err := parseContentRange(again); err != nil || back != c {
			t.Errorf("%q became %q, which is %+v, %v", in, again, back, err)
		}
	})
}

func TestDigests(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	b, _ := hex.DecodeString(sum)
	text := base64.StdEncoding.EncodeToString(b)
	for in, want := range map[string]string{
		"": "", "sha-256=:" + text + ":": sum, "sha-512=:AA==:": "", "md5=:x:, sha-256=:" + text + ":": sum,
		"sha-512=:AA==:,sha-256=:" + text + ": ": sum,
	} {
		if got, err := sha256Digest("Repr-Digest", in); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	if reprDigest(sum) != "sha-256=:"+text+":" {
		t.Error(reprDigest(sum))
	}
	for _, in := range []string{"sha-256", "sha-256=" + text, "sha-256=::", "sha-256=:!!:", "sha-256=:AA==:", strings.Repeat("x", 2000)} {
		if got, err := sha256Digest("Repr-Digest", in); err == nil {
			t.Errorf("%q was read as %q", in, got)
		}
	}
}

func FuzzDigest(f *testing.F) {
	f.Add("sha-256=:uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=:")
	f.Add("sha-512=:AA==:, sha-256=::")
	f.Fuzz(func(t *testing.T, in string) {
		got, err := sha256Digest("Repr-Digest", in)
		if err == nil && got != "" {
			if len(got) != 64 {
				t.Errorf("%q was read as %q", in, got)
			}
			if back, err := sha256Digest("Repr-Digest", reprDigest(got)); err != nil || back != got {
				t.Errorf("%q became %q, %v", in, back, err)
			}
		}
	})
}

func TestMediaTypes(t *testing.T) {
	for in, want := range map[string]string{"": "application/octet-stream", "video/mp4": "video/mp4", `Video/MP4; codecs="avc1"`: "video/mp4"} {
		if got, err := mediaType(in); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"video", "video/", "a b/c", strings.Repeat("x", 300)} {
		if got, err := mediaType(in); err == nil {
			t.Errorf("%q was read as %q", in, got)
		}
	}
	if served("text/html") != "application/octet-stream" || served("image/svg+xml") != "application/octet-stream" || served("video/mp4") != "video/mp4" {
		t.Error("a page would be served as one")
	}
}
