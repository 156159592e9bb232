// Package videos sends files to the services and does to them what happens to
// files: they are large, broken, cut short, replaced and deleted, and the
// processes that work on them are killed.
package videos

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	soon = 30 * time.Second
	// taken is within how long a killed worker's job goes to another, and more.
	taken = 90 * time.Second
)

// film is a video as the api tells it.
type film struct {
	ID, Status      string
	Version         int64
	Size            int64
	SHA256          string `json:"sha256"`
	Codecs, Failure string
	DurationMS      int64 `json:"duration_ms"`
	Width, Height   int64
	ContentID       string `json:"content_id"`
}

type studio struct {
	*outside.Services
	client *outside.Client
	// slowEnds waits for the slow sender.
	slowEnds func(*testing.T)
}

func start(t *testing.T) *studio {
	s := &studio{Services: outside.StartServices(t, "videos-1")}
	s.client = outside.NewClient(t, s.API, s.SessionToken(t, "sam@example.com"))
	return s
}

func (s *studio) film(t *testing.T) film {
	t.Helper()
	var f film
	s.client.Want(t, http.StatusCreated, &f, "POST", "/v1/videos", `{"title":"film"}`, "Prefer", "wait=20")
	return f
}

// put sends a file and gives the status and the body of the answer.
func (s *studio) put(ctx context.Context, id string, body io.Reader, size int64, headers ...string) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, "PUT", s.API+"/v1/videos/"+id+"/content", body)
	if err != nil {
		return nil, nil, err
	}
	req.ContentLength = size
	req.Header.Set("Authorization", "Bearer "+s.client.Token)
	req.Header.Set("Content-Type", "video/mp4")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res, text, err
}

func (s *studio) send(t *testing.T, id string, data []byte) {
	t.Helper()
	res, text, err := s.put(t.Context(), id, bytes.NewReader(data), int64(len(data)), "Prefer", "wait=20")
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v: %s", err, res, text)
	}
}

func (s *studio) ends(t *testing.T, id, status string, within time.Duration) (f film) {
	t.Helper()
	testkit.Eventually(t, within, func() error {
		f = film{}
		a := s.client.Do(t, "GET", "/v1/videos/"+id, "")
		if a.Status != http.StatusOK {
			return fmt.Errorf("%d %s", a.Status, a.Body)
		}
		a.Decode(t, &f)
		if f.Status != status {
			return fmt.Errorf("it is %s (%s)", f.Status, f.Failure)
		}
		return nil
	})
	return f
}

func sample(t *testing.T) []byte {
	t.Helper()
	root, err := outside.Repository()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(root, "services/worker/internal/probe/testdata/sample.mp4"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// large is the sample and, after it, a box of size bytes that says nothing.
func large(t *testing.T, size int) (open func() io.Reader, length int64, sum string) {
	head := sample(t)
	head = binary.BigEndian.AppendUint32(head, uint32(size+8))
	head = append(head, "free"...)
	open = func() io.Reader { return io.MultiReader(bytes.NewReader(head), io.LimitReader(zeros{}, int64(size))) }
	h := sha256.New()
	n, err := io.Copy(h, open())
	if err != nil {
		t.Fatal(err)
	}
	return open, n, hex.EncodeToString(h.Sum(nil))
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// peak is the most memory that a process has used, in bytes.
func peak(t *testing.T, p *testkit.Process) int64 {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		t.Fatal(err) // Linux, as the tests of the servers
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if v, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}

func TestVideos(t *testing.T) {
	s := start(t)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	t.Run("slow senders are cut off", s.slow)
	t.Run("a large file takes little memory", s.largeFile)
	t.Run("what is no video fails", s.broken)
	t.Run("a worker killed at any time", s.killedWorker)
	t.Run("slow senders were cut off", func(t *testing.T) { s.slowEnds(t) })
	t.Run("an api killed in the middle of an upload", s.killedAPI)
	t.Run("what is replaced or deleted is put away", s.putAway)
	t.Run("writ jobs", s.commandLine)
	outside.Settled(t, &s.Stack, soon)
	outside.Audit(t, &s.Stack)
}

// slow begins a request that goes on beside the others and must end by itself.
func (s *studio) slow(t *testing.T) {
	id := s.film(t).ID
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.API, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "PUT /v1/videos/%s/content HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 100000000\r\n\r\n", id, s.client.Token)
	began, took := time.Now(), time.Duration(0)
	ended := make(chan error, 1)
	go func() {
		trickle := time.NewTicker(100 * time.Millisecond)
		defer trickle.Stop()
		defer conn.Close()
		_ = conn.SetReadDeadline(time.Now().Add(2 * time.Minute))
		written := make(chan struct{})
		go func() {
			defer close(written)
			for range trickle.C {
				if _, err := conn.Write([]byte("x")); err != nil {
					return
				}
			}
		}()
		_, err := io.ReadAll(conn)
		took = time.Since(began)
		_ = conn.Close()
		<-written
		ended <- err
	}()
	s.slowEnds = func(t *testing.T) {
		if err := <-ended; errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("a sender of ten bytes a second was not cut off")
		}
		t.Logf("cut off after %s", took.Round(time.Second))
	}
}

func (s *studio) largeFile(t *testing.T) {
	const size = 96 << 20
	open, length, sum := large(t, size)
	b, _ := hex.DecodeString(sum)
	api, worker := peak(t, s.APIProc), peak(t, s.WorkerProc)
	id := s.film(t).ID
	res, text, err := s.put(t.Context(), id, open(), length, "Prefer", "wait=20", "Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(b)+":")
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v: %s", err, res, text)
	}
	f := s.ends(t, id, "PROCESSED", time.Minute)
	if f.Size != length || f.SHA256 != sum || f.Width != 64 || f.Height != 48 || f.DurationMS < 2000 || !strings.HasPrefix(f.Codecs, "avc1.") {
		t.Errorf("%+v", f)
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", s.API+"/v1/videos/"+id+"/content", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.client.Token)
	down, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer down.Body.Close()
	h := sha256.New()
	if n, err := io.Copy(h, down.Body); err != nil || n != length || hex.EncodeToString(h.Sum(nil)) != sum {
		t.Errorf("got %d bytes back, %v", n, err)
	}
	part := s.client.Do(t, "GET", "/v1/videos/"+id+"/content", "", "Range", "bytes=-8")
	if part.Status != http.StatusPartialContent || !bytes.Equal(part.Body, make([]byte, 8)) {
		t.Errorf("%d %v", part.Status, part.Body)
	}
	const allowed = 56 << 20 // a few parts and what the collector leaves: far less than the file
	grown := [2]int64{peak(t, s.APIProc) - api, peak(t, s.WorkerProc) - worker}
	t.Logf("a file of %d MiB: the api grew by %d MiB, the worker by %d MiB", length>>20, grown[0]>>20, grown[1]>>20)
	if grown[0] > allowed || grown[1] > allowed {
		t.Errorf("the file was held in memory: %d and %d bytes", grown[0], grown[1])
	}
}

func (s *studio) broken(t *testing.T) {
	whole := sample(t)
	for name, data := range map[string][]byte{
		"zero bytes": {}, "cut short": whole[:len(whole)/2], "its head": whole[:40], "text": []byte("this is no video"),
		"a claim of 2^64 bytes": append([]byte{0, 0, 0, 1, 'm', 'o', 'o', 'v'}, bytes.Repeat([]byte{0xff}, 8)...),
	} {
		id := s.film(t).ID
		s.send(t, id, data)
		if f := s.ends(t, id, "FAILED", soon); f.Failure == "" || f.Width != 0 {
			t.Errorf("%s: %+v", name, f)
		}
	}
	// Another file, and it is well again.
	f := s.film(t)
	s.send(t, f.ID, []byte("no"))
	s.ends(t, f.ID, "FAILED", soon)
	s.send(t, f.ID, whole)
	if f = s.ends(t, f.ID, "PROCESSED", soon); f.Failure != "" {
		t.Errorf("%+v", f)
	}
}

// killedWorker kills the worker while uploads are applied and probed: every
// video ends, with one result.
func (s *studio) killedWorker(t *testing.T) {
	open, length, _ := large(t, 24<<20)
	var ids []string
	for i := range 6 {
		id := s.film(t).ID
		ids = append(ids, id)
		res, text, err := s.put(t.Context(), id, open(), length)
		if err != nil || res.StatusCode != http.StatusAccepted {
			t.Fatalf("%v, %v: %s", err, res, text)
		}
		if i%2 == 1 {
			testkit.Eventually(t, soon, func() error { // at another point of the way each time
				var f film
				s.client.Do(t, "GET", "/v1/videos/"+id, "").Decode(t, &f)
				if want := []string{"", "PROCESSING", "PROCESSED"}[i/2]; want != "" && f.Status != want && f.Status != "PROCESSED" {
					return fmt.Errorf("it is %s", f.Status)
				}
				return nil
			})
			s.WorkerProc.Kill()
			s.WorkerProc.Start(t)
			outside.Ready(t, s.Worker, "")
		}
	}
	for _, id := range ids {
		s.ends(t, id, "PROCESSED", taken)
	}
	finals := map[string]int{}
	for _, r := range outside.Ledger(t, s.NATSServer.URL()) {
		if c := r.Event.Command; c.Action == "process" && strings.Contains(string(c.Body), `"PROCESSED"`) {
			finals[c.ResourceID]++
		}
	}
	for _, id := range ids {
		if finals[id] != 1 {
			t.Errorf("video %s has %d results", id, finals[id])
		}
	}
}

// killedAPI kills the api while a piece arrives. What it had stored is there,
// and the upload goes on.
func (s *studio) killedAPI(t *testing.T) {
	open, length, sum := large(t, 16<<20)
	id := s.film(t).ID
	asks := func() (*http.Response, error) {
		res, _, err := s.put(t.Context(), id, http.NoBody, 0, "Content-Range", fmt.Sprintf("bytes */%d", length))
		return res, err
	}
	r, w := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		_, _, err := s.put(context.WithoutCancel(t.Context()), id, r, length, "Content-Range", fmt.Sprintf("bytes 0-%d/%d", length-1, length))
		sent <- err
	}()
	if _, err := io.CopyN(w, open(), 7<<20); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, soon, func() error { // what it has read is not yet what it has stored
		res, err := asks()
		if err != nil {
			return err
		}
		if n, _ := strconv.Atoi(res.Header.Get("Upload-Offset")); n < 4<<20 {
			return fmt.Errorf("%v has %d bytes", res.Status, n)
		}
		return nil
	})
	s.APIProc.Kill()
	_ = w.CloseWithError(io.ErrUnexpectedEOF)
	if err := <-sent; err == nil {
		t.Fatal("the api is dead and answers")
	}
	s.APIProc.Start(t)
	outside.Ready(t, s.API, "")
	var offset int64
	testkit.Eventually(t, soon, func() error {
		res, err := asks()
		if err != nil || res.StatusCode != http.StatusNoContent {
			return fmt.Errorf("%v, %v", res, err)
		}
		offset, err = strconv.ParseInt(res.Header.Get("Upload-Offset"), 10, 64)
		return err
	})
	if offset < 4<<20 {
		t.Errorf("only %d bytes of 7 MiB are there", offset)
	}
	testkit.Eventually(t, taken, func() error { // the dead api's lease ends
		rest := open()
		if _, err := io.CopyN(io.Discard, rest, offset); err != nil {
			return err
		}
		res, text, err := s.put(t.Context(), id, rest, length-offset, "Prefer", "wait=20",
			"Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset, length-1, length))
		if err != nil || res.StatusCode != http.StatusOK {
			return fmt.Errorf("%v, %v: %s", err, res, text)
		}
		return nil
	})
	if f := s.ends(t, id, "PROCESSED", soon); f.SHA256 != sum {
		t.Errorf("%+v", f)
	}
}

// files counts the uploads in the content store.
func (s *studio) files(t *testing.T) map[string]bool {
	t.Helper()
	nc, err := nats.Connect(s.NATSServer.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := js.ObjectStore(t.Context(), "content")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	infos, err := bucket.List(t.Context())
	if err != nil && !errors.Is(err, jetstream.ErrNoObjectsFound) {
		t.Fatal(err)
	}
	for _, i := range infos {
		f := strings.Split(i.Name, "/")
		all[f[0]+"/"+f[1]] = true
	}
	return all
}

func (s *studio) putAway(t *testing.T) {
	f := s.film(t)
	s.send(t, f.ID, sample(t))
	first := s.ends(t, f.ID, "PROCESSED", soon)
	s.send(t, f.ID, []byte("another"))
	second := s.ends(t, f.ID, "FAILED", soon)
	is := func(f film, want bool) func() error {
		return func() error {
			if got := s.files(t)[f.ID+"/"+f.ContentID]; got != want {
				return fmt.Errorf("%s/%s is there: %t", f.ID, f.ContentID, got)
			}
			return nil
		}
	}
	testkit.Eventually(t, soon, is(first, false))
	if err := is(second, true)(); err != nil {
		t.Error(err)
	}
	s.client.Want(t, http.StatusNoContent, nil, "DELETE", "/v1/videos/"+f.ID, "", "Prefer", "wait=20")
	testkit.Eventually(t, soon, is(second, false))
	if a := s.client.Do(t, "GET", "/v1/videos/"+f.ID+"/content", ""); a.Status != http.StatusNotFound {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// commandLine looks after the jobs with writ jobs.
func (s *studio) commandLine(t *testing.T) {
	admin := s.SessionToken(t, "alice@example.com", "admin")
	writ := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), outside.Binary(t, "writ"), append([]string{"jobs"}, args...)...)
		cmd.Env = append(os.Environ(), "WRIT_URL="+s.API, "WRIT_TOKEN="+admin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("writ jobs %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	if out := writ("pause", "probe"); !strings.Contains(out, "true") {
		t.Errorf("%s", out)
	}
	f := s.film(t)
	s.send(t, f.ID, sample(t))
	var job struct{ ID, Status string }
	testkit.Eventually(t, soon, func() error {
		for line := range strings.Lines(writ("list", "--queue", "probe", "--status", "paused", "-o", "json")) {
			return json.Unmarshal([]byte(line), &job)
		}
		return errors.New("no job is paused")
	})
	if err := json.Unmarshal([]byte(writ("show", job.ID)), &job); err != nil || job.Status != "paused" {
		t.Errorf("%+v, %v", job, err)
	}
	if err := json.Unmarshal([]byte(writ("cancel", job.ID)), &job); err != nil || job.Status != "cancelled" {
		t.Errorf("%+v, %v", job, err)
	}
	writ("resume", "probe")
	if out := writ("queues"); !strings.Contains(out, "probe") || strings.Contains(out, "true") {
		t.Errorf("%s", out)
	}
	if err := json.Unmarshal([]byte(writ("retry", job.ID)), &job); err != nil || job.Status != "queued" {
		t.Errorf("%+v, %v", job, err)
	}
	s.ends(t, f.ID, "PROCESSED", soon)
}
