// Package health tells orchestrators whether a service lives and whether it is ready.
//
//	/livez           200 while the process runs; asks nothing else, so an outage elsewhere restarts nobody
//	/readyz          200 while every critical dependency answers and the service is not draining, else 503
//	/readyz?verbose  each dependency by name, its state and how long the check took
//
// Answers are plain text as Kubernetes' own (https://kubernetes.io/docs/reference/using-api/health-checks/), or JSON
// with Accept: application/json.
package health

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Limits of a check.
const (
	// Deadline is how long one check may take until its dependency counts as down.
	Deadline = 2 * time.Second
	// Fresh is how long results are reused, so that probes cannot hammer dependencies.
	Fresh = time.Second
)

// Check asks one dependency whether it answers.
type Check struct {
	Name string
	// Func returns nil if the dependency answers. Its context ends at [Deadline]; a check that is still running
	// then counts as failed, and is not run again before it has returned.
	Func func(context.Context) error
	// Critical: without it the service cannot do its work. A failed check that is not critical is only reported.
	Critical bool
}

// Result is the outcome of one check.
type Result struct {
	Name     string
	Err      error // nil if the dependency answers
	Took     time.Duration
	Critical bool
}

// Health runs a service's checks. It is safe for concurrent use.
type Health struct {
	checks   []*guarded
	draining atomic.Bool

	mu     sync.Mutex
	latest *round
}

// guarded is a check that runs at most once at a time.
type guarded struct {
	Check
	running atomic.Bool
}

// round is one run of all checks; results and finished may be read once done is closed.
type round struct {
	done     chan struct{}
	results  []Result
	finished time.Time
}

// New returns a Health that runs checks when asked, all at the same time.
func New(checks ...Check) *Health {
	h := &Health{}
	for _, check := range checks {
		h.checks = append(h.checks, &guarded{Check: check})
	}
	return h
}

// Drain makes the service not ready for good: the first step of shutting down, so that no new requests are sent.
func (h *Health) Drain() { h.draining.Store(true) }

// Draining reports whether Drain was called.
func (h *Health) Draining() bool { return h.draining.Load() }

// Ready runs the checks, or reuses results younger than [Fresh], and reports whether the service can do its work. The
// results are in the order of [New]. An error is that of ctx, ended before the checks.
func (h *Health) Ready(ctx context.Context) (ready bool, results []Result, err error) {
	current := h.round()
	select {
	case <-current.done:
	case <-ctx.Done():
		return false, nil, ctx.Err()
	}
	ready = !h.Draining()
	for _, result := range current.results {
		if result.Critical && result.Err != nil {
			ready = false
		}
	}
	return ready, current.results, nil
}

// round is the one in progress, or a finished one that is still fresh, or a new one.
func (h *Health) round() *round {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.latest != nil {
		select {
		case <-h.latest.done:
			if time.Since(h.latest.finished) < Fresh {
				return h.latest
			}
		default:
			return h.latest
		}
	}
	started := &round{done: make(chan struct{}), results: make([]Result, len(h.checks))}
	h.latest = started
	go h.run(started)
	return started
}

// run asks all dependencies on a context of its own: a probe that hangs up must not fail the others'.
func (h *Health) run(r *round) {
	ctx, cancel := context.WithTimeout(context.Background(), Deadline)
	defer cancel()
	var all sync.WaitGroup
	for i, check := range h.checks {
		all.Go(func() { r.results[i] = check.run(ctx) })
	}
	all.Wait()
	r.finished = time.Now()
	close(r.done)
}

func (g *guarded) run(ctx context.Context) Result {
	began := time.Now()
	result := func(err error) Result {
		return Result{Name: g.Name, Err: err, Took: time.Since(began), Critical: g.Critical}
	}
	if !g.running.CompareAndSwap(false, true) {
		return result(fmt.Errorf("the check before has not returned yet"))
	}
	answer := make(chan error, 1)
	go func() {
		// Given back before the answer is: whoever has it may start the next round.
		err := g.call(ctx)
		g.running.Store(false)
		answer <- err
	}()
	select {
	case err := <-answer:
		return result(err)
	case <-ctx.Done():
		return result(fmt.Errorf("no answer within %s", Deadline))
	}
}

// call turns a panic into a failed check: a probe must not end the process.
func (g *guarded) call(ctx context.Context) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("the check panicked: %v", cause)
		}
	}()
	return g.Func(ctx)
}
