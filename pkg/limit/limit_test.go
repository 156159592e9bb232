package limit_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/limit"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestPastTheLimitIsRefusedAtOnceAndTheRestIsFinished(t *testing.T) {
	const max = 3
	inside, release := make(chan struct{}, max), make(chan struct{})
	h := limit.InFlight(max)(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		inside <- struct{}{}
		<-release
		w.WriteHeader(http.StatusNoContent)
	}))
	answers := make([]*httptest.ResponseRecorder, max)
	var all sync.WaitGroup
	for i := range answers {
		answers[i] = httptest.NewRecorder()
		all.Go(func() { h.ServeHTTP(answers[i], httptest.NewRequest(http.MethodGet, "/", nil)) })
	}
	for range max {
		<-inside
	}
	for range 5 {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("%d %v", w.Code, w.Header())
		}
	}
	close(release)
	all.Wait()
	for _, w := range answers {
		if w.Code != http.StatusNoContent {
			t.Errorf("one that was let in was answered %d", w.Code)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != http.StatusNoContent {
		t.Errorf("after the rush: %d", w.Code)
	}
}

func TestOneWhoAsksTooOftenDoesNotHinderOthers(t *testing.T) {
	l := limit.NewRate(10)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	refused := 0
	for range 50 {
		if p := l.Allow(httptest.NewRecorder(), r, "greedy"); p != nil {
			refused++
			if p.Status != http.StatusTooManyRequests || p.GetHeaders().Get("Retry-After") == "" {
				t.Fatalf("%+v", p)
			}
		}
	}
	if refused < 25 { // two windows at most
		t.Errorf("%d of 50 at once were refused at 10 a second", refused)
	}
	if p := l.Allow(httptest.NewRecorder(), r, "modest"); p != nil {
		t.Errorf("another one was refused: %v", p)
	}
	if p := limit.NewRate(0).Allow(httptest.NewRecorder(), r, "anybody"); p != nil {
		t.Errorf("without a limit: %v", p)
	}
}

func TestNewWorkWaitsWhileTheBacklogIsFull(t *testing.T) {
	var n atomic.Uint64
	n.Store(11)
	measured := make(chan struct{}, 100)
	b := limit.NewBacklog(10, func(context.Context) (uint64, error) {
		defer func() { measured <- struct{}{} }()
		if v := n.Load(); v > 0 {
			return v, nil
		}
		return 0, errors.New("does not answer")
	})
	if err := b.Check(); err != nil {
		t.Errorf("before the first measurement: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	<-measured
	full := func() error {
		err := b.Check()
		if !fault.Is(err, fault.Unavailable) {
			return errors.New("not refused")
		}
		if e, _ := errors.AsType[*fault.Error](err); e.RetryAfter <= 0 {
			t.Error("no Retry-After")
		}
		return nil
	}
	testkit.Eventually(t, 10*time.Second, full)
	n.Store(0) // an outage of the measure is not the end of the backlog
	<-measured
	if err := full(); err != nil {
		t.Error(err)
	}
	n.Store(10)
	testkit.Eventually(t, 10*time.Second, b.Check)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
