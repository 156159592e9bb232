package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/content"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/health"
	"github.com/writ-project/writ/pkg/jobs"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/kind/video"
	"github.com/writ-project/writ/pkg/kinds"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

// studio is a rig with an api that serves the files of videos and jobs.
type studio struct {
	*rig
	api   string
	web   *httptest.Server
	files *content.Store
	jobs  *jobs.Client
}

const studioMax = 8 << 20

func newStudio(t *testing.T, options ...option) *studio {
	r := newRig(t, options...)
	nc := need(ledger.Connect(r.direct, "test"))(t)
	t.Cleanup(nc.Close)
	s := &studio{rig: r}
	s.files = need(content.Open(t.Context(), nc, content.Config{}))(t)
	s.jobs = need(jobs.Open(t.Context(), nc, jobs.Config{Keys: r.keys}))(t)
	srv, h, err := New(Config{
		Ledger: r.connect(r.nats), Store: r.store, Authz: r.authz, Identity: r.id, Keys: r.keys, Kinds: kinds.All,
		Health: health.New(), Telemetry: r.tel, Log: slog.New(slog.DiscardHandler), Version: "test", OwnURL: "http://localhost",
		Stopping: r.stopping, Content: s.files, MaxUpload: studioMax, Jobs: s.jobs,
		StreamCheck: r.streamCheck,
	})
	must(t, err)
	web := httptest.NewServer(h)
	t.Cleanup(func() {
		web.Close()
		srv.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	s.api, s.web = web.URL, web
	return s
}

// film puts a video of an owner into the database and gives its id and path.
func (s *studio) film(owner string) (id, path string) {
	s.t.Helper()
	id = uuid.Must(uuid.NewV7()).String()
	s.put(video.Kind, need(video.Kind.Create(id, user.DefaultTenant, owner, []byte(`{"title":"x","region":"eu"}`), time.Now()))(s.t))
	return id, s.api + "/v1/videos/" + id + "/content"
}

// uploads are the bodies of the upload commands on the ledger.
func (s *studio) uploads() (all []video.Upload) {
	s.t.Helper()
	for _, e := range s.events() {
		if e.Type == events.TypeWrit && e.Command.Action == video.ActionUpload {
			var u video.Upload
			must(s.t, json.Unmarshal(e.Command.Body, &u))
			all = append(all, u)
		}
	}
	return all
}

// apply does what the worker would do with the last upload.
func (s *studio) apply(id string) {
	s.t.Helper()
	all := s.uploads()
	body := need(json.Marshal(all[len(all)-1]))(s.t)
	row := need(s.store.Get(s.t.Context(), video.Kind, id))(s.t)
	s.put(video.Kind, need(video.Kind.Act(row, video.ActionUpload, kind.By{At: time.Now(), Body: body}))(s.t))
}

func (s *studio) kept() int {
	s.t.Helper()
	return len(need(s.files.List(s.t.Context()))(s.t))
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7 >> 3)
	}
	return b
}

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
	} {
		a := s.do("GET", path, token, "", c.headers...)
		if a.status != c.status || c.to >= 0 && !bytes.Equal(a.body, data[c.from:c.to]) {
			t.Errorf("%v: %d, %d bytes", c.headers, a.status, len(a.body))
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

// sse reads server-sent events until the stream ends.
func sse(t *testing.T, url, token string, each func(name, data string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	req := need(http.NewRequestWithContext(ctx, "GET", url, nil))(t)
	req.Header.Set("Authorization", "Bearer "+token)
	res := need(http.DefaultClient.Do(req))(t)
	defer res.Body.Close()
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
		return
	}
	var rest []byte
	buf := make([]byte, 4096)
	for {
		n, err := res.Body.Read(buf)
		rest = append(rest, buf[:n]...)
		for {
			one, after, ok := bytes.Cut(rest, []byte("\n\n"))
			if !ok {
				break
			}
			rest = after
			name, data := "", ""
			for line := range strings.SplitSeq(string(one), "\n") {
				if v, ok := strings.CutPrefix(line, "event: "); ok {
					name = v
				}
				if v, ok := strings.CutPrefix(line, "data: "); ok {
					data = v
				}
			}
			if name != "" {
				each(name, data)
			}
		}
		if err != nil {
			return
		}
	}
}

func TestWatcherIsToldUntilTheEnd(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	sam, token := s.person("sam", "user")
	_, guest := s.person("nobody")
	id, path := s.film(sam)
	watch := s.api + "/v1/videos/" + id + "/events"
	if a := s.do("GET", watch, guest, ""); a.status != 404 {
		t.Errorf("a guest got %d", a.status)
	}
	var seen []string
	begun, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		sse(t, watch, token, func(name, data string) {
			if len(seen) == 0 {
				close(begun)
			}
			seen = append(seen, name+" "+data)
		})
	}()
	<-begun
	if a := s.do("PUT", path, token, string(pattern(content.PartSize+1))); a.status != 202 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	s.apply(id)
	row := need(s.store.Get(t.Context(), video.Kind, id))(t)
	body := need(json.Marshal(video.Progress{ContentID: *row.Value.(*video.Video).ContentID, Status: video.Failed, Failure: "no video"}))(t)
	s.put(video.Kind, need(video.Kind.Act(row, video.ActionProcess, kind.By{At: time.Now(), Body: body}))(t))
	<-done
	all := strings.Join(seen, "\n")
	for _, want := range []string{`status {"status":"NOT_PROCESSED"`, `progress {"phase":"upload","done":2097152`, `"failure":"no video"`, `end {"reason":"final"}`} {
		if !strings.Contains(all, want) {
			t.Errorf("nobody said %s:\n%s", want, all)
		}
	}
}

func TestWatchersAndUploadsEndWhenTheServiceStops(t *testing.T) {
	t.Parallel()
	stopping := make(chan struct{})
	s := newStudio(t, func(r *rig) { r.stopping = stopping })
	sam, token := s.person("sam", "user")
	id, _ := s.film(sam)
	begun, done := make(chan struct{}), make(chan string)
	go func() {
		last := ""
		sse(t, s.api+"/v1/videos/"+id+"/events", token, func(name, data string) {
			if last == "" {
				close(begun)
			}
			last = name + data
		})
		done <- last
	}()
	<-begun
	close(stopping)
	if last := <-done; last != `end{"reason":"stopping"}` {
		t.Errorf("it ended with %s", last)
	}
}
