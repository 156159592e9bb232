// Package videos sends files to the services and does to them what happens to
// files: they are large, broken, cut short, replaced and deleted, and the
// processes that work on them are killed.
package videos

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

// killedWorker kills the worker while uploads are applied and probed: every
// video ends, with one result.
func (s *studio) killedWorker(t *testing.T) (ends func(*testing.T)) {
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
	return func(t *testing.T) {
		for _, id := range ids {
			s.ends(t, id, "PROCESSED", taken)
		}
		finals, known := map[string]int{}, map[string]bool{}
		for _, r := range outside.Ledger(t, s.NATSServer.URL()) {
			// A job that was cut off may submit its command again: it is one.
			if c := r.Event.Command; c.Action == "process" && strings.Contains(string(c.Body), `"PROCESSED"`) && !known[c.ID] {
				known[c.ID] = true
				finals[c.ResourceID]++
			}
		}
		for _, id := range ids {
			if finals[id] != 1 {
				t.Errorf("video %s has %d results", id, finals[id])
			}
		}
	}
}

// killedAPI kills the api while a piece arrives. What it had stored is there,
// and the upload goes on.
func (s *studio) killedAPI(t *testing.T) (ends func(*testing.T)) {
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
	return func(t *testing.T) {
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
}
