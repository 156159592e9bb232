package server

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"strconv"
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/content"
	"github.com/writ-project/writ/pkg/events"
)

func TestContentInRanges(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	sam, token := s.person("sam", "user")
	_, guest := s.person("nobody")
	id, path := s.film(sam)
	if a := s.do("GET", path, token, ""); a.status != 404 || a.problem(t).Code != "no-content" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	data := pattern(content.PartSize + 1000)
	if a := s.do("PUT", path, token, string(data), "Content-Type", "text/html"); a.status != 202 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	s.apply(id)
	tag := `"` + hexSum(data) + `"`
	border := content.PartSize - 2
	for _, c := range []struct {
		headers []string
		status  int
		from    int
		to      int
	}{
		{nil, 200, 0, len(data)},
		{[]string{"Range", "bytes=0-0"}, 206, 0, 1},
		{[]string{"Range", fmt.Sprintf("bytes=%d-%d", border, border+3)}, 206, border, border + 4},
		{[]string{"Range", "bytes=-5"}, 206, len(data) - 5, len(data)},
		{[]string{"Range", fmt.Sprintf("bytes=%d-", len(data)-1)}, 206, len(data) - 1, len(data)},
		{[]string{"Range", "bytes=3-4", "If-Range", tag}, 206, 3, 5},
		{[]string{"Range", "bytes=3-4", "If-Range", `"other"`}, 200, 0, len(data)},
		{[]string{"Range", fmt.Sprintf("bytes=%d-", len(data))}, 416, 0, -1},
		{[]string{"Range", "bytes=" + strings.Repeat("0-0,", maxRanges) + "1-1"}, 416, 0, -1},
		{[]string{"If-None-Match", tag}, 304, 0, -1},
		{[]string{"If-None-Match", `"a,b", W/` + tag}, 304, 0, -1},
		{[]string{"If-Match", `"other"`}, 412, 0, -1},
		{[]string{"Range", "BYTES = 0-0"}, 206, 0, 1},
		{[]string{"Range", "items=0-1"}, 200, 0, len(data)},
		{[]string{"Range", "items=" + strings.Repeat("0-0,", maxRanges) + "1-1"}, 200, 0, len(data)},
		{[]string{"Range", "bytes=-0"}, 416, 0, -1},
		{[]string{"Range", "bytes=x-1"}, 200, 0, len(data)},
		{[]string{"Range", "bytes=5-1"}, 200, 0, len(data)},
		{[]string{"Range", "bytes=0-99999999999999999999"}, 206, 0, len(data)},
		{[]string{"Range", "bytes=99999999999999999999-"}, 416, 0, -1},
		{[]string{"Range", "bytes=-99999999999999999999"}, 206, 0, len(data)},
		{[]string{"Range", "bytes=3-4", "If-Range", "W/" + tag}, 200, 0, len(data)},
	} {
		a := s.do("GET", path, token, "", c.headers...)
		if a.status != c.status || c.to >= 0 && !bytes.Equal(a.body, data[c.from:c.to]) {
			t.Errorf("%v: %d, %d bytes", c.headers, a.status, len(a.body))
		}
		if c.status == 416 && (a.problem(t).Status != 416 || a.header.Get("Content-Range") != fmt.Sprintf("bytes */%d", len(data))) {
			t.Errorf("%v: %v %s, want a problem with the file's length", c.headers, a.header, a.body)
		}
		if c.status < 300 && (a.header.Get("ETag") != tag || a.header.Get("X-Content-Type-Options") != "nosniff" ||
			!strings.HasPrefix(a.header.Get("Content-Disposition"), "attachment") || a.header.Get("Content-Type") != "application/octet-stream" ||
			a.header.Get("Repr-Digest") != reprDigest(hexSum(data))) {
			t.Errorf("%v: %v", c.headers, a.header)
		}
	}
	a := s.do("GET", path, token, "", "Range", "bytes=0-1,5-6")
	_, params, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	must(t, err)
	parts := multipart.NewReader(bytes.NewReader(a.body), params["boundary"])
	for _, want := range [][]byte{data[0:2], data[5:7]} {
		p := need(parts.NextPart())(t)
		if got := need(io.ReadAll(p))(t); !bytes.Equal(got, want) {
			t.Errorf("a part is %v, want %v", got, want)
		}
	}
	if a := s.do("HEAD", path, token, "", "Range", "bytes=0-0"); a.status != 200 || a.header.Get("Content-Length") != strconv.Itoa(len(data)) {
		t.Errorf("HEAD with a Range: %d %v, want 200: of HEAD there are no ranges (RFC 9110, 14.2)", a.status, a.header)
	}
	before := len(s.events())
	for _, h := range [][2]string{{"If-None-Match", "*"}, {"If-None-Match", tag}, {"If-Unmodified-Since", "Fri, 02 Jan 2015 12:00:00 GMT"}, {"If-Match", `"7` + tag[1:]}} {
		if a := s.do("PUT", path, token, "other", h[0], h[1]); a.status != 412 {
			t.Errorf("PUT with %s: %s: %d %s, want 412", h[0], h[1], a.status, a.body)
		}
	}
	if a := s.do("PUT", path, token, "other", "Content-Encoding", "br"); a.status != 415 {
		t.Errorf("PUT of a coded file: %d %s, want 415", a.status, a.body)
	}
	for _, e := range s.events()[before:] {
		if e.Type == events.TypeWrit {
			t.Errorf("a PUT whose precondition failed is on the ledger: %+v", e.Command)
		}
	}
	if a := s.do("HEAD", path, token, ""); a.status != 200 || len(a.body) != 0 || a.header.Get("Content-Length") != strconv.Itoa(len(data)) {
		t.Errorf("HEAD: %d %v", a.status, a.header)
	}
	if a := s.do("GET", path, guest, ""); a.status != 404 {
		t.Errorf("a guest got %d", a.status)
	}
	if a := s.do("GET", s.api+"/v1/videos/x/content", token, ""); a.status != 422 {
		t.Errorf("no id: %d", a.status)
	}
	last := s.events()
	if d := last[len(last)-1].Decision; d.Action != "read" || d.Effect != events.Deny || d.Request.Route != "/v1/videos/{id}/content" {
		t.Errorf("the last decision is %+v", d)
	}
}
