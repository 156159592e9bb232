package server

import (
	"context"
	"sync"
	"time"

	"github.com/writ-project/writ/pkg/audit"
)

// watchEvery is how often the log is asked whether it has grown: how much later
// than Redis a stream may hear of a decision.
const watchEvery = 100 * time.Millisecond

// watch tells streams that the log has moved, with one question for all of them
// and none while nobody follows. Streams read the log for themselves, each at
// its own pace; nothing is kept for them.
type watch struct {
	log    *audit.Reader
	cancel context.CancelFunc
	done   chan struct{}
	begin  chan struct{} // somebody follows

	mu        sync.Mutex
	followers int
	moved     chan struct{} // closed when the log moves
}

func newWatch(log *audit.Reader) *watch {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watch{log: log, cancel: cancel, done: make(chan struct{}), begin: make(chan struct{}, 1), moved: make(chan struct{})}
	go w.run(ctx)
	return w
}

func (w *watch) close() {
	w.cancel()
	<-w.done
}

// follow keeps the log watched until leave is called.
func (w *watch) follow() (leave func()) {
	w.mu.Lock()
	w.followers++
	w.mu.Unlock()
	select {
	case w.begin <- struct{}{}:
	default:
	}
	return sync.OnceFunc(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.followers--
	})
}

// next is closed when the log moves after this call. A stream takes it first
// and reads the log then, so that it misses nothing.
func (w *watch) next() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.moved
}

func (w *watch) run(ctx context.Context) {
	defer close(w.done)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var last audit.ID
	for {
		if !w.followed() {
			select {
			case <-w.begin:
			case <-ctx.Done():
				return
			}
			continue
		}
		if now, ok := w.last(ctx); ok && now != last {
			last = now
			w.tell()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (w *watch) followed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.followers > 0
}

// last is where the log ends; an outage of Redis shows in the streams themselves.
func (w *watch) last(ctx context.Context) (audit.ID, bool) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	state, err := w.log.State(ctx)
	return state.Decisions.Last, err == nil
}

func (w *watch) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.moved)
	w.moved = make(chan struct{})
}
