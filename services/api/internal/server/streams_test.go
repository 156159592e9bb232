package server

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/content"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
)

// demote takes all roles away from somebody.
func (s *studio) demote(id string) {
	s.t.Helper()
	row := need(s.store.Get(s.t.Context(), user.Kind, id))(s.t)
	u := *row.Value.(*user.User)
	u.Tenants = nil
	u.Version++
	u.UpdatedAt = time.Now()
	s.put(user.Kind, kind.Row{Meta: &u.Meta, Value: &u})
}

func TestWatcherWhoMayNoLongerReadIsSentAway(t *testing.T) {
	t.Parallel()
	s := newStudio(t, func(r *rig) { r.streamCheck = 50 * time.Millisecond })
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
	s.demote(sam)
	if last := <-done; last != `end{"reason":"gone"}` {
		t.Errorf("it ended with %s", last)
	}
}

// slowReader is a client for whom the kernel keeps little: what it does not read
// waits in the server.
func slowReader() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if tcp, ok := conn.(*net.TCPConn); ok {
			err = tcp.SetReadBuffer(16 << 10)
		}
		return conn, err
	}}}
}

// TestDownloadOfWhoMayNoLongerReadIsCut: the reader takes a little and stops, so that
// most of the file waits in the server; when it goes on it may read no longer.
func TestDownloadOfWhoMayNoLongerReadIsCut(t *testing.T) {
	t.Parallel()
	s := newStudio(t, func(r *rig) { r.streamCheck = time.Nanosecond })
	sam, token := s.person("sam", "user")
	id, path := s.film(sam)
	data := pattern(studioMax)
	if a := s.do("PUT", path, token, string(data)); a.status != 202 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	s.apply(id)
	req := need(http.NewRequestWithContext(t.Context(), "GET", path, nil))(t)
	req.Header.Set("Authorization", "Bearer "+token)
	client := slowReader()
	defer client.CloseIdleConnections()
	res := need(client.Do(req))(t)
	defer res.Body.Close()
	if _, err := io.ReadFull(res.Body, make([]byte, 64<<10)); err != nil {
		t.Fatal(err)
	}
	s.demote(sam)
	n, err := io.Copy(io.Discard, res.Body)
	if err == nil {
		t.Errorf("%d more bytes came, to the end", n)
	}
}

func TestOnePrincipalCannotHoldAllPlaces(t *testing.T) {
	p := newPlaces(3, 2)
	var let []func()
	for i, want := range []struct {
		who string
		ok  bool
	}{{"a", true}, {"a", true}, {"a", false}, {"b", true}, {"c", false}} {
		release, err := p.take(want.who)
		if (err == nil) != want.ok {
			t.Errorf("%d: %s: %v", i, want.who, err)
		}
		if err == nil {
			let = append(let, release)
		}
	}
	for _, release := range let {
		release()
	}
	if p.held != 0 || len(p.by) != 0 {
		t.Errorf("%d are held, %v", p.held, p.by)
	}
}

// TestRetryOfASubmittedUploadKeepsItsFile: the answer to the last piece was
// lost, the command was not. Whatever comes of asking again, the file is the command's.
func TestRetryOfASubmittedUploadKeepsItsFile(t *testing.T) {
	t.Parallel()
	s := newStudio(t)
	sam, token := s.person("sam", "user")
	id, path := s.film(sam)
	if a := s.do("PUT", path, token, "ab", "Content-Range", "bytes 0-1/4"); a.status != 204 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	before := need(s.files.Find(t.Context(), user.DefaultTenant, sam, id))(t)
	if a := s.do("PUT", path, token, "cd", "Content-Range", "bytes 2-3/4", "If-Match", `"1"`); a.status != 202 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	s.apply(id) // now the video is at version 2
	// The session as a lost acknowledgement leaves it.
	again := need(s.files.Begin(t.Context(), user.DefaultTenant, sam, content.Session{
		Ref: before.Ref, Command: before.Command, ContentType: before.ContentType, Total: 4,
	}))(t)
	out := need(again.Resume(t.Context(), func(int64) {}))(t)
	_ = need(out.Write([]byte("abcd")))(t)
	must(t, out.Flush())
	must(t, again.Submit(t.Context()))
	must(t, again.Release(t.Context()))
	for _, headers := range [][]string{{"If-Match", `"1"`}, {"Repr-Digest", reprDigest(hexSum([]byte("other")))}} {
		a := s.do("PUT", path, token, "", append([]string{"Content-Range", "bytes */4"}, headers...)...)
		if a.status < 400 {
			t.Errorf("%v: %d %s", headers, a.status, a.body)
		}
		if a := s.do("GET", path, token, ""); a.status != 200 || string(a.body) != "abcd" {
			t.Fatalf("%v: the file is gone: %d %s", headers, a.status, a.body)
		}
	}
	if _, err := s.files.Find(t.Context(), user.DefaultTenant, sam, id); err != nil && !fault.Is(err, fault.NotFound) {
		t.Error(err)
	}
	if n := s.kept(); n != 1 {
		t.Error(fmt.Errorf("%d files are kept", n))
	}
}

// TestDownloadThatStandsStillEndsWhenTheServiceStops: its reader takes nothing, and
// must not hold up the service.
func TestDownloadThatStandsStillEndsWhenTheServiceStops(t *testing.T) {
	t.Parallel()
	stopping := make(chan struct{})
	s := newStudio(t, func(r *rig) { r.stopping = stopping })
	sam, token := s.person("sam", "user")
	id, path := s.film(sam)
	if a := s.do("PUT", path, token, string(pattern(studioMax))); a.status != 202 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	s.apply(id)
	req := need(http.NewRequestWithContext(t.Context(), "GET", path, nil))(t)
	req.Header.Set("Authorization", "Bearer "+token)
	client := slowReader()
	defer client.CloseIdleConnections()
	res := need(client.Do(req))(t)
	defer res.Body.Close()
	close(stopping)
	begun := time.Now()
	s.web.Config.SetKeepAlivesEnabled(false)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.web.Config.Shutdown(ctx); err != nil { // waits for what is served
		t.Errorf("after %s: %v", time.Since(begun), err)
	}
}
