package signin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// TestCountsAreBoundedAndNeverTooLow: whoever floods the limiter takes no memory and gets nobody more than the limit.
func TestCountsAreBoundedAndNeverTooLow(t *testing.T) {
	t.Parallel()
	l, r := newLimits(), httptest.NewRequest(http.MethodPost, "/", nil)
	for i := range 100_000 {
		_ = allow(l.address, r, fmt.Sprintf("flood-%d", i)) // some are refused: they share their counters by now
	}
	passed := 0
	for range 3 * perAddress {
		if err := allow(l.address, r, "one@example.com"); err == nil {
			passed++
		} else if !fault.Is(err, fault.Limited) {
			t.Fatal(err)
		}
	}
	if passed > perAddress {
		t.Errorf("%d of %d passed", passed, perAddress)
	}
	s := newSketch()
	if size := 4 * (len(s.now) + len(s.old)); size > 512<<10 {
		t.Errorf("a counter takes %d bytes", size)
	}
}

func TestWindowsTurn(t *testing.T) {
	t.Parallel()
	s, at := newSketch(), time.Unix(0, 0).Add(time.Hour)
	s.Config(0, time.Minute)
	count := func(window time.Time) (now, old int) {
		t.Helper()
		now, old, err := s.Get("k", window, window.Add(-time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		return now, old
	}
	for range 3 {
		if err := s.Increment("k", at); err != nil {
			t.Fatal(err)
		}
	}
	if now, old := count(at); now != 3 || old != 0 {
		t.Errorf("%d %d", now, old)
	}
	if now, old := count(at.Add(time.Minute)); now != 0 || old != 3 {
		t.Errorf("in the next window %d %d", now, old)
	}
	if now, old := count(at); now != 0 || old != 3 { // a clock that steps back starts nothing anew
		t.Errorf("back in time %d %d", now, old)
	}
	if now, old := count(at.Add(3 * time.Minute)); now != 0 || old != 0 {
		t.Errorf("much later %d %d", now, old)
	}
}

// TestLinksAreTriedAgainAndNotForEver: what may go well later is tried three times, what is refused once, and a stop
// waits for what is queued but no longer than a second.
func TestLinksAreTriedAgainAndNotForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		tried := map[string]int{}
		s, err := newSender(noop.Meter{}, quiet, func(ctx context.Context, m mailing) error {
			mu.Lock()
			tried[m.email]++
			n := tried[m.email]
			mu.Unlock()
			switch {
			case m.email == "hangs":
				<-ctx.Done()
				return fault.Unreachable("stytch", ctx.Err())
			case m.email == "refused":
				return fault.New(fault.Invalid, "invalid-email", "no")
			case m.email == "down" || m.email == "once" && n == 1:
				return fault.Unreachable("stytch", errors.New("down"))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, email := range []string{"sent", "once", "down", "refused"} {
			if err := s.queue(mailing{email: email}); err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(mailTime) // of the bubble's clock
		synctest.Wait()
		mu.Lock()
		if got := fmt.Sprint(tried); got != "map[down:3 once:2 refused:1 sent:1]" {
			t.Errorf("tried %s", got)
		}
		mu.Unlock()
		refused := 0
		for range maxMailings + mailers + 10 {
			if err := s.queue(mailing{email: "hangs"}); fault.Is(err, fault.Unavailable) {
				refused++
			}
		}
		if refused == 0 {
			t.Error("any number may wait")
		}
		began := time.Now()
		s.close()
		if took := time.Since(began); took > closeTime {
			t.Errorf("the stop took %s", took)
		}
		if err := s.queue(mailing{email: "late"}); !fault.Is(err, fault.Unavailable) {
			t.Errorf("after the stop: %v", err)
		}
	})
}

func TestSealedCookiesAreOurs(t *testing.T) {
	t.Parallel()
	ring := func(text string) *box {
		t.Helper()
		keys, err := events.ParseKeyring(text)
		if err != nil {
			t.Fatal(err)
		}
		b, err := newBox(keys)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	old, fresh := events.GenerateKey("old"), events.GenerateKey("fresh")
	text, err := ring(old).seal(asked{Verifier: "v", Email: "sam@example.com", Until: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := ring(fresh + "," + old).open(text); !ok || got.Verifier != "v" {
		t.Error("a cookie does not outlive the rotation of the keys")
	}
	if _, ok := ring(fresh).open(text); ok {
		t.Error("a cookie of another key is opened")
	}
	for i := range text {
		changed := []byte(text)
		if changed[i]++; changed[i] == text[i] {
			continue
		}
		if got, ok := ring(old).open(string(changed)); ok && got.Verifier != "v" {
			t.Fatalf("a changed cookie is opened: %+v", got)
		}
	}
}

func TestPublicURL(t *testing.T) {
	t.Parallel()
	for raw, good := range map[string]bool{
		"https://writ.example": true, "https://writ.example/": true, "https://writ.example:8443": true, "http://localhost:8080": true,
		"http://127.0.0.1:8080": true, "http://[::1]:8080": true, "http://writ.example": false, "https://writ.example/path": false, "": false,
		"writ.example": false, "ftp://writ.example": false, "https://u:p@writ.example": false, "https://writ.example?x": false, "http://localhost.evil.example": false,
	} {
		if _, err := parsePublicURL(raw); (err == nil) != good {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

func TestEmailAddresses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"Sam@Example.com": "sam@example.com", " sam@example.com ": "sam@example.com", "a+b@example.com": "a+b@example.com",
		"Sam <sam@example.com>": "", "sam": "", "sam@": "", "a@b@c": "", `"a b"@example.com`: "", "a@example.com,b@example.com": "", "a@example.com\r\nBcc: b": "",
	} {
		got, err := parseEmail(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}
