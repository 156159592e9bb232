package server

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/content"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/video"
)

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
