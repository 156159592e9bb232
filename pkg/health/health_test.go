package health_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/writ-project/writ/pkg/health"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func ok(context.Context) error { return nil }

func down(context.Context) error { return errors.New("connection refused") }

func ask(h *health.Health, target, accept string) *httptest.ResponseRecorder {
	recorder := httptest.NewRecorder()
	request := httptest.NewRequest(http.MethodGet, target, nil)
	request.Header.Set("Accept", accept)
	h.Handler().ServeHTTP(recorder, request)
	return recorder
}

func TestLivezAsksNobody(t *testing.T) {
	h := health.New(health.Check{Name: "nats", Critical: true, Func: func(context.Context) error {
		t.Error("asked")
		return nil
	}})
	h.Drain()
	if answer := ask(h, "/livez", ""); answer.Code != http.StatusOK {
		t.Fatalf("status %d", answer.Code)
	}
}

func TestReadyzNamesEachDependency(t *testing.T) {
	h := health.New(
		health.Check{Name: "nats", Func: ok, Critical: true},
		health.Check{Name: "redis", Func: down},
		health.Check{Name: "cerbos", Func: down, Critical: true},
	)
	if answer := ask(h, "/readyz", ""); answer.Code != http.StatusServiceUnavailable || answer.Body.String() != "not ready: cerbos\n" {
		t.Fatalf("%d %q", answer.Code, answer.Body)
	}
	answer := ask(h, "/readyz?verbose", "")
	want := regexp.MustCompile(`^\[\+\]nats ok \(\S+\)
\[!\]redis failed, not critical \(\S+\): connection refused
\[-\]cerbos failed \(\S+\): connection refused
readyz check failed
$`)
	if answer.Code != http.StatusServiceUnavailable || !want.MatchString(answer.Body.String()) {
		t.Fatalf("%d\n%s", answer.Code, answer.Body)
	}
	var report struct {
		Ready  bool
		Checks []struct {
			Name, Error string
			OK          bool
		}
	}
	if err := json.Unmarshal(ask(h, "/readyz?verbose", "application/json").Body.Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	if report.Ready || len(report.Checks) != 3 || !report.Checks[0].OK || report.Checks[2].Error != "connection refused" {
		t.Fatalf("%+v", report)
	}
}

func TestReadyWithoutWhatIsNotCritical(t *testing.T) {
	h := health.New(health.Check{Name: "redis", Func: down})
	if answer := ask(h, "/readyz", ""); answer.Code != http.StatusOK {
		t.Fatalf("status %d", answer.Code)
	}
	h.Drain()
	if answer := ask(h, "/readyz", ""); answer.Code != http.StatusServiceUnavailable || !strings.Contains(answer.Body.String(), "draining") {
		t.Fatalf("draining: %d %q", answer.Code, answer.Body)
	}
}

func TestProbesShareOneRoundASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		h := health.New(health.Check{Name: "nats", Critical: true, Func: func(context.Context) error {
			<-time.After(100 * time.Millisecond)
			asked.Add(1)
			return nil
		}})
		var probes sync.WaitGroup
		for range 50 {
			probes.Go(func() {
				if ready, _, err := h.Ready(t.Context()); !ready || err != nil {
					t.Errorf("ready %t: %v", ready, err)
				}
			})
		}
		probes.Wait()
		if n := asked.Load(); n != 1 {
			t.Fatalf("asked %d times by probes at once", n)
		}
		<-time.After(health.Fresh)
		if _, _, err := h.Ready(t.Context()); err != nil || asked.Load() != 2 {
			t.Fatalf("asked %d times after a second (%v)", asked.Load(), err)
		}
	})
}

func TestAHangingCheckFailsAtItsDeadlineAndIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var asked atomic.Int32
		h := health.New(
			health.Check{Name: "stuck", Critical: true, Func: func(context.Context) error { asked.Add(1); <-release; return nil }},
			health.Check{Name: "panics", Func: func(context.Context) error { panic("boom") }},
		)
		for range 3 {
			began := time.Now()
			ready, results, err := h.Ready(t.Context())
			if ready || err != nil || results[0].Err == nil || results[1].Err == nil {
				t.Fatalf("ready %t, results %v (%v)", ready, results, err)
			}
			if took := time.Since(began); took > health.Deadline {
				t.Fatalf("took %s", took)
			}
			<-time.After(health.Fresh)
		}
		if n := asked.Load(); n != 1 {
			t.Fatalf("a hanging check was started %d times", n)
		}
		close(release)
		synctest.Wait()
		if ready, results, err := h.Ready(t.Context()); !ready || err != nil {
			t.Fatalf("not ready once it answers: %v (%v)", results, err)
		}
	})
}

func TestAProbeThatHangsUpDoesNotWait(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	h := health.New(health.Check{Name: "stuck", Func: func(context.Context) error { <-release; return nil }})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := h.Ready(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
}
