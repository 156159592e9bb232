package store

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/writ-project/writ/pkg/fault"
)

// The bounds of reads that share a query.
const (
	// maxShared is how many reads one round trip answers.
	maxShared = 128
	// maxQueued is how many may wait for the next one.
	maxQueued = 4096
	// maxRuns is how many round trips there are at a time. There is one, unless
	// it takes longer than slowRun: then a read that comes begins another, so that
	// a connection that hangs does not hold up everybody.
	maxRuns = 4
	slowRun = 10 * time.Millisecond
	// longestRun bounds a round trip with its repetitions, for readers who have
	// no deadline of their own.
	longestRun = 15 * time.Second
)

var errTooManyReads = errors.New("too many reads wait for the database")

// shared lets reads that wait at the same moment share one round trip, as
// appends share one message: what comes while one is under way goes together
// with the next. Nobody waits for a timer, and one that is alone goes at once.
// What is read was read after the request for it came.
type shared[T any] struct {
	// run answers items in one round trip. Where nobody waits any more, its
	// context ends.
	run func(ctx context.Context, items []T) error

	mu      sync.Mutex
	waiting []*reader[T]
	runs    int       // under way
	began   time.Time // the last of them
}

// reader is somebody who waits.
type reader[T any] struct {
	item T
	trip *trip         // nil until it is under way
	done chan struct{} // closed when it is over
}

// trip is one round trip. Its lock is the one of shared.
type trip struct {
	cancel   context.CancelFunc
	left     int // how many still wait for it
	err      error
	panicked any
}

// do waits until item is answered. When ctx ends it returns at once, and the
// item must not be looked at.
func (s *shared[T]) do(ctx context.Context, item T) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.runs == 0 {
		return s.alone(ctx, item)
	}
	r := &reader[T]{item: item, done: make(chan struct{})}
	if len(s.waiting) >= maxQueued {
		s.mu.Unlock()
		return fault.Unreachable(dependency, errTooManyReads)
	}
	s.waiting = append(s.waiting, r)
	if s.runs < maxRuns && time.Since(s.began) > slowRun {
		s.runs++
		s.began = time.Now()
		go s.serve()
	}
	s.mu.Unlock()
	select {
	case <-r.done:
		if r.trip.panicked != nil {
			panic(r.trip.panicked) // here it is caught as if nothing had been shared
		}
		return r.trip.err
	case <-ctx.Done():
		s.leave(r)
		return ctx.Err()
	}
}

// alone answers an item without another goroutine, and lets those go on who came
// meanwhile. It is called with the lock.
func (s *shared[T]) alone(ctx context.Context, item T) error {
	s.runs++
	s.began = time.Now()
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.waiting) > 0 {
			go s.serve() // in its place
		} else {
			s.runs--
		}
	}()
	return s.run(ctx, []T{item})
}

// leave takes away somebody who waits no longer.
func (s *shared[T]) leave(r *reader[T]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.trip != nil {
		if r.trip.left--; r.trip.left == 0 {
			r.trip.cancel()
		}
		return
	}
	for i, w := range s.waiting {
		if w == r {
			s.waiting = append(s.waiting[:i], s.waiting[i+1:]...)
			return
		}
	}
}

// serve makes round trips until nobody waits.
func (s *shared[T]) serve() {
	for {
		ctx, t, readers := s.board()
		if len(readers) == 0 {
			return
		}
		items := make([]T, len(readers))
		for i, r := range readers {
			items[i] = r.item
		}
		s.travel(ctx, t, items)
		for _, r := range readers {
			close(r.done)
		}
	}
}

// board gives those who wait a round trip; nobody, where it is the last one's end.
func (s *shared[T]) board() (context.Context, *trip, []*reader[T]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(s.waiting), maxShared)
	if n == 0 {
		s.runs--
		return nil, nil, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), longestRun)
	t := &trip{cancel: cancel, left: n}
	readers := append([]*reader[T](nil), s.waiting[:n]...)
	s.waiting = append(s.waiting[:0], s.waiting[n:]...)
	clear(s.waiting[len(s.waiting):cap(s.waiting)])
	for _, r := range readers {
		r.trip = t
	}
	s.began = time.Now()
	return ctx, t, readers
}

// travel makes one round trip. A panic is kept for those who wait for it.
func (s *shared[T]) travel(ctx context.Context, t *trip, items []T) {
	defer t.cancel()
	defer func() {
		if p := recover(); p != nil {
			t.panicked = fmt.Sprintf("a shared read: %v\n%s", p, debug.Stack())
		}
	}()
	t.err = s.run(ctx, items)
}
