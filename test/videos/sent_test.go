// Package videos sends files to the services and does to them what happens to
// files: they are large, broken, cut short, replaced and deleted, and the
// processes that work on them are killed.
package videos

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/testkit"
)

// slow begins a request that goes on beside the others and must end by itself.
func (s *studio) slow(t *testing.T) (ends func(*testing.T)) {
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
	return func(t *testing.T) {
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
