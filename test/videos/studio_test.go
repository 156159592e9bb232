// Package videos sends files to the services and does to them what happens to
// files: they are large, broken, cut short, replaced and deleted, and the
// processes that work on them are killed.
package videos

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
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
