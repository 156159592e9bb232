package testkit

import (
	"context"
	"fmt"
	"strings"
	"sync"
)

// outputLimit is how much of a process's output is kept: enough to see why it failed, whatever it writes.
const outputLimit = 256 << 10

// output keeps the end of what is written to it and wakes those who wait for a line. It is safe for concurrent use.
type output struct {
	mu      sync.Mutex
	kept    []byte
	dropped int64         // bytes written before kept[0]
	grew    chan struct{} // closed and replaced with each write
}

func newOutput() *output { return &output{grew: make(chan struct{})} }

// Write never fails.
func (o *output) Write(data []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kept = append(o.kept, data...)
	if excess := len(o.kept) - outputLimit; excess > 0 {
		o.kept = append(o.kept[:0], o.kept[excess:]...)
		o.dropped += int64(excess)
	}
	close(o.grew)
	o.grew = make(chan struct{})
	return len(data), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.kept)
}

// Mark is the position of the next byte, for Wait.
func (o *output) Mark() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dropped + int64(len(o.kept))
}

// Wait returns the first complete line after mark that contains text.
func (o *output) Wait(ctx context.Context, mark int64, text string) (string, error) {
	for {
		line, found, grew := o.find(mark, text)
		if found {
			return line, nil
		}
		select {
		case <-grew:
		case <-ctx.Done():
			return "", fmt.Errorf("no line with %q: %w", text, ctx.Err())
		}
	}
}

func (o *output) find(mark int64, text string) (string, bool, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	rest := string(o.kept[max(0, mark-o.dropped):])
	for {
		line, after, complete := strings.Cut(rest, "\n")
		if !complete {
			return "", false, o.grew
		}
		if strings.Contains(line, text) {
			return line, true, o.grew
		}
		rest = after
	}
}
