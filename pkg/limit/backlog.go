package limit

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/writ-project/writ/pkg/fault"
)

// backlogEvery is how often the backlog is measured, and so by how much a
// limit may be overrun: a second's worth of commands.
const backlogEvery = time.Second

// Backlog refuses new work while too much that was accepted waits to be done.
type Backlog struct {
	max     uint64
	measure func(context.Context) (uint64, error)
	waiting atomic.Uint64
}

// NewBacklog makes a Backlog that measures with measure while Run runs. It
// refuses while there are more than max; 0 means no limit.
func NewBacklog(max uint, measure func(context.Context) (uint64, error)) *Backlog {
	return &Backlog{max: uint64(max), measure: measure}
}

// Run measures until ctx ends. While it cannot measure it keeps the last
// figure: an outage of what is measured shows by itself.
func (b *Backlog) Run(ctx context.Context) error {
	if b.max == 0 {
		return nil
	}
	tick := time.NewTicker(backlogEvery)
	defer tick.Stop()
	for {
		one, cancel := context.WithTimeout(ctx, 5*backlogEvery)
		if n, err := b.measure(one); err == nil {
			b.waiting.Store(n)
		}
		cancel()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Check gives fault.Unavailable with RetryAfter while too much waits. A nil
// Backlog lets everything through.
func (b *Backlog) Check() error {
	if b == nil || b.max == 0 {
		return nil
	}
	n := b.waiting.Load()
	if n <= b.max {
		return nil
	}
	return &fault.Error{
		Kind: fault.Unavailable, Code: "backlog-full", RetryAfter: 5 * time.Second,
		Message: fmt.Sprintf("%d commands wait to be applied, more than the %d that may; nothing was done", n, b.max),
	}
}
