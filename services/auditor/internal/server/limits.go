package server

import (
	"context"
	"sync"
	"time"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/fault"
)

// What all requests together may take.
const (
	maxSteps       = 8 // steps of the log in memory at once, of up to audit.MaxRange entries each
	maxStreams     = 128
	maxStreamsEach = 16 // of one principal
	maxExports     = 8
	maxExportsEach = 2
)

// limits of one request; tests tighten them.
type limits struct {
	entries int           // that one search looks at before it answers with a cursor
	search  time.Duration // or for how long
	bytes   int           // of records in one page
	write   time.Duration // for a client to take 32 KiB
	recheck time.Duration // how often a stream's permission is asked about again
	beat    time.Duration // how often a silent stream says that it lives
}

var defaults = limits{
	entries: 64 * audit.MaxRange, search: 2 * time.Second, bytes: 4 << 20,
	write: 10 * time.Second, recheck: 15 * time.Second, beat: 15 * time.Second,
}

// step reads one step of the log of decisions. Few are in memory at once: the
// entries are the caller's until done is called.
func (s *Server) step(ctx context.Context, span audit.Span) (entries []audit.Entry, done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	if done, err = s.room(ctx); err != nil {
		return nil, nil, err
	}
	if entries, err = s.Audit.Range(ctx, audit.Decisions, span); err != nil {
		done()
		return nil, nil, err
	}
	return entries, done, nil
}

// room waits for a place to hold a part of the log in memory.
func (s *Server) room(ctx context.Context) (done func(), err error) {
	select {
	case s.steps <- struct{}{}:
		return func() { <-s.steps }, nil
	case <-ctx.Done():
		return nil, fault.Unreachable(audit.Dependency, ctx.Err())
	}
}

// places bounds what goes on for long: together, and of one principal.
type places struct {
	name      string
	max, each int

	mu    sync.Mutex
	taken int
	by    map[string]int
}

func newPlaces(name string, limit, each int) *places {
	return &places{name: name, max: limit, each: each, by: map[string]int{}}
}

// take gives a place until leave is called, or fault.Limited.
func (p *places) take(principal string) (leave func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken >= p.max || p.by[principal] >= p.each {
		e := fault.New(fault.Limited, "too-many-"+p.name, "at most %d %s at once, and %d of one principal", p.max, p.name, p.each)
		e.RetryAfter = 5 * time.Second
		return nil, e
	}
	p.taken++
	p.by[principal]++
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.taken--
		if p.by[principal]--; p.by[principal] == 0 {
			delete(p.by, principal)
		}
	}), nil
}

func (p *places) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken
}
