package server

import (
	"encoding/json"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
)

// waiters hands notices to the requests that wait for them.
type waiters struct {
	subject string
	stop    func()

	mu   sync.Mutex
	byID map[string][]chan events.Notice
}

func newWaiters(l *ledger.Ledger) (*waiters, error) {
	w := &waiters{subject: events.WaitSubject(uuid.NewString()), byID: map[string][]chan events.Notice{}}
	var err error
	w.stop, err = l.Listen(w.subject, w.deliver)
	return w, err
}

func (w *waiters) close() { w.stop() }

func (w *waiters) deliver(data []byte) {
	var n events.Notice
	if json.Unmarshal(data, &n) != nil {
		return // not the worker's: the row in commands is the answer
	}
	w.mu.Lock()
	waiting := w.byID[n.CommandID]
	delete(w.byID, n.CommandID)
	w.mu.Unlock()
	for _, c := range waiting {
		c <- n // buffered, and taken out of the map above: it never blocks
	}
}

// wait registers for a command's notice; call done when it is no longer wanted.
func (w *waiters) wait(commandID string) (c <-chan events.Notice, done func()) {
	ch := make(chan events.Notice, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.byID[commandID] = append(w.byID[commandID], ch) // retries under one key may wait together
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		rest := slices.DeleteFunc(w.byID[commandID], func(c chan events.Notice) bool { return c == ch })
		if len(rest) == 0 {
			delete(w.byID, commandID)
		} else {
			w.byID[commandID] = rest
		}
	}
}
