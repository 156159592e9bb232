package server

import (
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/problem"
)

// The pace of requests that stream. They have no deadline as a whole, but who
// stops moving is cut off.
const (
	// paceBytes must pass within paceTime.
	paceBytes = 64 << 10
	paceTime  = 30 * time.Second
	// streamStop is how long a stream may go on when the service drains.
	streamStop = 4 * time.Second
)

// stream is a request that streams. It replaces the server's timeouts by its
// own pace.
type stream struct {
	rc      *http.ResponseController
	takes   bool // it takes a body: its answer has no pace
	stopped atomic.Bool
	done    chan struct{}
	ended   sync.WaitGroup
}

// newStream begins a stream; end it with close. When stopping is closed it is
// cut off, an upload at once, so that what came can be kept, the others after streamStop.
func newStream(w http.ResponseWriter, takes bool, stopping <-chan struct{}, grace time.Duration) *stream {
	s := &stream{rc: http.NewResponseController(w), takes: takes, done: make(chan struct{})}
	s.ended.Go(func() {
		select {
		case <-s.done:
			return
		case <-stopping:
		}
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-s.done:
		case <-timer.C:
			s.stopped.Store(true)
			s.until(time.Now())
		}
	})
	return s
}

func (s *stream) close() {
	close(s.done)
	s.ended.Wait()
}

// alive says that something moved: the next paceBytes may take paceTime.
func (s *stream) alive() {
	if s.stopped.Load() {
		return
	}
	s.until(time.Now().Add(paceTime))
	if s.stopped.Load() { // it came in between
		s.until(time.Now())
	}
}

// until sets the deadlines; that fails for a connection that is gone.
func (s *stream) until(at time.Time) {
	_ = s.rc.SetReadDeadline(at)
	if s.takes { // an answer may be waited for, and must reach also who is cut off
		at = time.Time{}
	}
	_ = s.rc.SetWriteDeadline(at)
}

// paced reads or writes at the stream's pace.
type paced struct {
	*stream
	r     io.Reader
	w     http.ResponseWriter
	moved int
}

func (p *paced) count(n int) {
	if p.moved += n; p.moved >= paceBytes {
		p.moved = 0
		p.alive()
	}
}

// Read implements io.Reader.
func (p *paced) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.count(n)
	return n, err
}

// Header implements http.ResponseWriter.
func (p *paced) Header() http.Header { return p.w.Header() }

// WriteHeader implements http.ResponseWriter.
func (p *paced) WriteHeader(status int) { p.w.WriteHeader(status) }

// Write implements io.Writer, in pieces, so that a slow reader is told from one
// that does not read.
func (p *paced) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		var m int
		m, err = p.w.Write(b[:min(len(b), paceBytes)])
		n, b = n+m, b[m:]
		p.count(m)
	}
	return n, err
}

// places bounds the streams of one kind in this process, and how many of them
// one principal may hold: as they last, a few slow ones would keep all others out.
type places struct {
	all, each int
	mu        sync.Mutex
	held      int
	by        map[string]int
}

func newPlaces(all, each int) *places { return &places{all: all, each: each, by: map[string]int{}} }

// take takes a place for a principal, or refuses at once.
func (p *places) take(who string) (release func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.by[who] >= p.each {
		return nil, problem.New(http.StatusTooManyRequests, "too-many-requests", "You have as many of these under way as one principal may").
			With("Retry-After", "5")
	}
	if p.held >= p.all {
		e := fault.New(fault.Unavailable, "overloaded", "too many of these are under way; nothing was done")
		e.RetryAfter = 5 * time.Second
		return nil, e
	}
	p.held++
	p.by[who]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.held--
		if p.by[who]--; p.by[who] == 0 {
			delete(p.by, who)
		}
	}, nil
}

// handler makes an http.HandlerFunc of one that may end with an error.
func (s *Server) handler(handle func(w http.ResponseWriter, r *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := handle(w, r); err != nil {
			problem.Write(w, r, problem.From(r.Context(), s.Log, err))
		}
	}
}

// brief bounds a step of a stream, as a whole request is bounded elsewhere.
func brief(ctx context.Context) (context.Context, context.CancelFunc) {
	return within(ctx, requestTimeout)
}
