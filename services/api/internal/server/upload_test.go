package server

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/kind/video"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestUploadIsACommandOnceItIsComplete(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	sam, token := s.person("sam", "user")
	_, admin := s.person("alice", "admin")
	_, rim := s.person("rim", "user")
	_, guest := s.person("nobody")
	_, path := s.film(sam)
	data := pattern(3 << 20)
	digest := reprDigest(hexSum(data))

	for who, want := range map[string]int{rim: 403, guest: 404, "": 401} {
		if a := s.do("PUT", path, who, string(data)); a.status != want || a.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%d %s, want %d", a.status, a.body, want)
		}
	}
	for name, c := range map[string]struct {
		want    int
		code    string
		headers []string
	}{
		"another digest":      {422, "digest-mismatch", []string{"Repr-Digest", reprDigest(hexSum(nil))}},
		"a digest too short":  {422, "invalid", []string{"Content-Digest", "sha-256=:AA==:"}},
		"no media type":       {422, "invalid", []string{"Content-Type", "film"}},
		"another version":     {412, "version-conflict", []string{"If-Match", `"9"`, "Prefer", "wait=0"}},
		"a range of others":   {422, "invalid", []string{"Content-Range", "bytes 0-1/2"}},
		"in the middle":       {409, "no-upload", []string{"Content-Range", fmt.Sprintf("bytes 5-%d/%d", 4+len(data), len(data)+5)}},
		"too large, in parts": {413, "too-large", []string{"Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(data)-1, studioMax+1)}},
	} {
		if name == "another version" {
			continue // a higher version may be on its way: see below
		}
		a := s.do("PUT", path, token, string(data), c.headers...)
		if a.status != c.want || a.problem(t).Code != c.code {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if a := s.do("PUT", path, token, strings.Repeat("x", studioMax+1)); a.status != 413 {
		t.Errorf("too large: %d %s", a.status, a.body)
	}
	if n := len(s.uploads()); n != 0 || s.kept() != 0 {
		t.Fatalf("%d commands, %d files of what was refused", n, s.kept())
	}

	a := s.do("PUT", path, token, string(data), "Content-Type", "video/mp4", "Repr-Digest", digest, "Idempotency-Key", "k1")
	if a.status != 202 || a.header.Get("Writ-Command") == "" || a.header.Get("Location") == "" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	up := s.uploads()
	if len(up) != 1 || up[0].Size != int64(len(data)) || up[0].SHA256 != hexSum(data) || up[0].ContentType != "video/mp4" {
		t.Fatalf("%+v", up)
	}
	// The same key again: the same command.
	again := s.do("PUT", path, token, string(data), "Content-Type", "video/mp4", "Repr-Digest", digest, "Idempotency-Key", "k1")
	if again.status != 202 || again.header.Get("Writ-Command") != a.header.Get("Writ-Command") || len(s.uploads()) != 1 {
		t.Errorf("%d %s, %d commands", again.status, again.body, len(s.uploads()))
	}
	if a := s.do("PUT", path, admin, ""); a.status != 202 { // an empty file is one, and fails when it is looked at
		t.Errorf("%d %s", a.status, a.body)
	}

	// Nothing was done without a decision, and no denial is missing.
	var allowed, denials int
	for _, e := range s.events() {
		if e.Decision.Action == video.ActionUpload && e.Decision.Resource.Kind == "video" {
			if e.Decision.Effect == events.Allow {
				allowed++
			} else {
				denials++
			}
		}
	}
	if denials != 2 || allowed < 3 {
		t.Errorf("%d denials, %d allowed", denials, allowed)
	}
}

// send begins a PUT, sends part of its body and cuts the connection.
func (s *studio) cut(path, token string, part []byte, length int, headers ...string) {
	s.t.Helper()
	conn := need(net.Dial("tcp", strings.TrimPrefix(s.api, "http://")))(s.t)
	defer conn.Close()
	head := fmt.Sprintf("PUT %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n", strings.TrimPrefix(path, s.api), token, length)
	for i := 0; i < len(headers); i += 2 {
		head += headers[i] + ": " + headers[i+1] + "\r\n"
	}
	need(io.WriteString(conn, head+"\r\n"))(s.t)
	need(conn.Write(part))(s.t)
}

func TestUploadGoesOnWhereItWasCut(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	sam, token := s.person("sam", "user")
	_, admin := s.person("alice", "admin")
	id, path := s.film(sam)
	data := pattern(5<<20 + 123)
	span := func(first, last int) string { return fmt.Sprintf("bytes %d-%d/%d", first, last, len(data)) }
	asks := fmt.Sprintf("bytes */%d", len(data))
	offset := func() int {
		a := s.do("PUT", path, token, "", "Content-Range", asks)
		if a.status != 204 || a.header.Get("Upload-Complete") != "?0" {
			t.Fatalf("%d %s", a.status, a.body)
		}
		return need(strconv.Atoi(a.header.Get("Upload-Offset")))(t)
	}
	if a := s.do("PUT", path, token, "", "Content-Range", asks); a.status != 409 || a.problem(t).Code != "no-upload" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	const first = 1 << 20
	if a := s.do("PUT", path, token, string(data[:first]), "Content-Range", span(0, first-1), "Content-Type", "video/mp4"); a.status != 204 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if got := offset(); got != first {
		t.Fatalf("it has %d bytes", got)
	}
	// Cut in the middle of a piece: what came is kept.
	s.cut(path, token, data[first:first+(3<<20)], len(data)-first, "Content-Range", span(first, len(data)-1))
	at := first
	testkit.Eventually(t, soon, func() error {
		a := s.do("PUT", path, token, "", "Content-Range", asks)
		if at, _ = strconv.Atoi(a.header.Get("Upload-Offset")); at < first+(2<<20) {
			return fmt.Errorf("it has %d bytes", at)
		}
		if u, err := s.files.Find(t.Context(), user.DefaultTenant, sam, id); err != nil || u.Holder != "" {
			return fmt.Errorf("not let go yet: %v", err)
		}
		return nil
	})
	at = offset()
	if a := s.do("PUT", path, token, "xx", "Content-Range", span(at+5, at+6)); a.status != 409 || a.header.Get("Upload-Offset") != strconv.Itoa(at) {
		t.Errorf("a hole: %d %s %v", a.status, a.body, a.header)
	}
	if a := s.do("PUT", path, admin, "", "Content-Range", asks); a.status != 409 { // another's is another
		t.Errorf("%d %s", a.status, a.body)
	}
	if n := len(s.uploads()); n != 0 {
		t.Fatalf("%d commands before it is complete", n)
	}
	a := s.do("PUT", path, token, string(data[at:]), "Content-Range", span(at, len(data)-1), "Repr-Digest", reprDigest(hexSum(data)))
	if up := s.uploads(); a.status != 202 || len(up) != 1 || up[0].SHA256 != hexSum(data) || up[0].ContentType != "video/mp4" {
		t.Fatalf("%d %s, %+v", a.status, a.body, up)
	}
	s.apply(id)
	if a := s.do("GET", path, token, ""); a.status != 200 || !bytes.Equal(a.body, data) {
		t.Errorf("%d, %d bytes", a.status, len(a.body))
	}
	// A file that comes whole and is cut leaves nothing.
	s.cut(path, token, data[:3<<20], len(data))
	testkit.Eventually(t, soon, func() error {
		if n := s.kept(); n != 1 {
			return fmt.Errorf("%d files are kept", n)
		}
		return nil
	})
}

func TestWrongDigestOfPiecesEndsTheUpload(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	sam, token := s.person("sam", "user")
	_, path := s.film(sam)
	want := reprDigest(hexSum([]byte("other")))
	if a := s.do("PUT", path, token, "ab", "Content-Range", "bytes 0-1/4", "Repr-Digest", want); a.status != 204 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := s.do("PUT", path, token, "cd", "Content-Range", "bytes 2-3/4"); a.status != 422 || a.problem(t).Code != "digest-mismatch" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if len(s.uploads()) != 0 || s.kept() != 0 {
		t.Errorf("%d commands, %d files", len(s.uploads()), s.kept())
	}
	if a := s.do("PUT", path, token, "", "Content-Range", "bytes */4"); a.status != 409 {
		t.Errorf("the upload goes on: %d", a.status)
	}
}

func TestLedgerDownTakesNoBytes(t *testing.T) {
	t.Parallel()
	var server *testkit.NATSServer
	s := newStudio(t, func(r *rig) { server = testkit.NATS(t); r.nats = server.URL() })
	sam, token := s.person("sam", "user")
	_, path := s.film(sam)
	server.Stop(t)
	for _, method := range []string{"PUT", "GET"} {
		if a := s.do(method, path, token, "data"); a.status != 503 || a.header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %s", method, a.status, a.body)
		}
	}
}
