package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/testkit"
)

// held is a shared whose round trips wait until the test lets them go.
type held struct {
	shared[*int]
	trips chan []*int   // those that have begun
	let   chan error    // how each of them is to end
	ended chan struct{} // closed, where the context of one ended
}

func hold(t *testing.T) *held {
	t.Helper()
	h := &held{trips: make(chan []*int), let: make(chan error), ended: make(chan struct{})}
	h.run = func(ctx context.Context, items []*int) error {
		h.trips <- slices.Clone(items)
		select {
		case err := <-h.let:
			if err != nil && err.Error() == "panic" {
				panic(err)
			}
			for _, i := range items {
				*i = -*i
			}
			return err
		case <-ctx.Done():
			close(h.ended)
			return ctx.Err()
		}
	}
	return h
}

// ask starts a reader and gives a channel with how it ended.
func (h *held) ask(ctx context.Context, item *int) <-chan error {
	end := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				end <- fmt.Errorf("panic: %v", p)
			}
		}()
		end <- h.do(ctx, item)
	}()
	return end
}

// begun waits for a round trip and gives what it is for. It is not slow, however
// long the test takes.
func (h *held) begun() []*int {
	items := <-h.trips
	h.mu.Lock()
	defer h.mu.Unlock()
	h.began = time.Now().Add(time.Hour)
	return items
}

// queued waits until n readers wait for the next round trip.
func (h *held) queued(t *testing.T, n int) {
	t.Helper()
	testkit.Eventually(t, 30*time.Second, func() error {
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.waiting) != n {
			return fmt.Errorf("%d readers wait for the next round trip, want %d", len(h.waiting), n)
		}
		return nil
	})
}

func numbers(n int) []*int {
	out := make([]*int, n)
	for i := range out {
		out[i] = new(i + 1)
	}
	return out
}

func TestReadsThatComeDuringARoundTripShareTheNext(t *testing.T) {
	h := hold(t)
	items := numbers(6)
	first := h.ask(t.Context(), items[0])
	if got := h.begun(); len(got) != 1 {
		t.Fatalf("a lone read was sent together with %d others", len(got)-1)
	}
	var ends []<-chan error
	for i, item := range items[1:] {
		ends = append(ends, h.ask(t.Context(), item))
		h.queued(t, i+1)
	}
	h.let <- nil
	ok(t, <-first)
	if got := h.begun(); !slices.Equal(got, items[1:]) {
		t.Errorf("the second round trip was for %d reads, want the %d that came during the first, in their order", len(got), len(items)-1)
	}
	for i, end := range ends {
		select {
		case err := <-end:
			t.Fatalf("read %d was answered by a round trip that had begun before it came: %v", i+1, err)
		default:
		}
	}
	h.let <- nil
	for i, end := range ends {
		if err := <-end; err != nil || *items[i+1] != -(i+2) {
			t.Errorf("read %d: error %v, answer %d, want %d", i+1, err, *items[i+1], -(i + 2))
		}
	}
}

func TestErrorsAndPanicsOfARoundTripGoToAllInIt(t *testing.T) {
	broken := errors.New("broken")
	for _, cause := range []error{broken, errors.New("panic")} {
		h := hold(t)
		items := numbers(4)
		first := h.ask(t.Context(), items[0])
		h.begun()
		var ends []<-chan error
		for i, item := range items[1:] {
			ends = append(ends, h.ask(t.Context(), item))
			h.queued(t, i+1)
		}
		h.let <- nil
		ok(t, <-first)
		h.begun()
		h.let <- cause
		for i, end := range ends {
			if err := <-end; err == nil || cause == broken && !errors.Is(err, broken) {
				t.Errorf("read %d of a round trip that ended with %q: %v", i+1, cause, err)
			}
		}
		after := h.ask(t.Context(), items[0]) // it goes on
		h.begun()
		h.let <- cause // alone, too
		if err := <-after; err == nil {
			t.Errorf("a lone read that ended with %q: no error", cause)
		}
		h.mu.Lock()
		if h.runs != 0 {
			t.Errorf("%d round trips are under way when all are over", h.runs)
		}
		h.mu.Unlock()
	}
}

func TestAReaderWhoLeavesDisturbsNobody(t *testing.T) {
	h := hold(t)
	items := numbers(4)
	first := h.ask(t.Context(), items[0])
	h.begun()
	gone, leaves := context.WithCancel(t.Context())
	waiting, leavesEarly := context.WithCancel(t.Context())
	a, b, c := h.ask(gone, items[1]), h.ask(t.Context(), items[2]), h.ask(waiting, items[3])
	h.queued(t, 3)
	leavesEarly()
	if err := <-c; !errors.Is(err, context.Canceled) {
		t.Errorf("who left before the round trip: %v, want %v", err, context.Canceled)
	}
	h.queued(t, 2)
	h.let <- nil
	ok(t, <-first)
	if got := h.begun(); len(got) != 2 {
		t.Errorf("the round trip is for %d reads, want 2: one has left", len(got))
	}
	leaves()
	if err := <-a; !errors.Is(err, context.Canceled) {
		t.Errorf("who left during the round trip: %v, want %v", err, context.Canceled)
	}
	h.let <- nil
	if err := <-b; err != nil || *items[2] != -3 {
		t.Errorf("who stayed: error %v, answer %d, want -3", err, *items[2])
	}

	// When the last one leaves, the round trip itself is given up.
	first = h.ask(t.Context(), items[0])
	h.begun()
	last, leaves := context.WithCancel(t.Context())
	a = h.ask(last, items[1])
	h.queued(t, 1)
	h.let <- nil
	ok(t, <-first)
	h.begun()
	leaves()
	<-h.ended
	if err := <-a; !errors.Is(err, context.Canceled) {
		t.Errorf("the last one to leave: %v, want %v", err, context.Canceled)
	}
}

func TestReadsAreBounded(t *testing.T) {
	h := hold(t)
	first := h.ask(t.Context(), new(1))
	h.begun()
	var all []<-chan error
	for range maxQueued {
		all = append(all, h.ask(t.Context(), new(1)))
	}
	h.queued(t, maxQueued)
	if err := h.do(t.Context(), new(1)); !fault.Is(err, fault.Unavailable) {
		t.Errorf("one more than may wait: %v, want unavailable", err)
	}
	h.let <- nil
	ok(t, <-first)
	for n := 0; n < maxQueued; {
		got := h.begun()
		if n += len(got); len(got) > maxShared {
			t.Errorf("a round trip for %d reads, want at most %d", len(got), maxShared)
		}
		h.let <- nil
	}
	for _, end := range all {
		ok(t, <-end)
	}
}

func TestASlowRoundTripDoesNotHoldUpOthers(t *testing.T) {
	h := hold(t)
	first := h.ask(t.Context(), new(1))
	h.begun()
	second := h.ask(t.Context(), new(2))
	h.queued(t, 1)
	h.mu.Lock()
	h.began = time.Now().Add(-2 * slowRun)
	h.mu.Unlock()
	third := h.ask(t.Context(), new(3))
	if got := h.begun(); len(got) != 2 {
		t.Errorf("beside the slow round trip another was for %d reads, want the 2 that wait", len(got))
	}
	h.let <- nil
	h.let <- nil
	ok(t, errors.Join(<-first, <-second, <-third))
}

// TestAReadSeesWhatWasCommittedBeforeIt: many read at the same time, the same
// rows and different ones, while somebody writes; a version that was committed
// before a read began is never missed, and no two readers share a row.
func TestAReadSeesWhatWasCommittedBeforeIt(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		rows := make([]kind.Row, 8)
		committed := make([]atomic.Int64, len(rows))
		for i := range rows {
			rows[i] = newContact(i)
			committed[i].Store(1)
		}
		person := *user.Sync{Email: "sam@example.com"}.Apply(nil, "sam", at(0))
		put1(t, s, contact.Kind, rows...)
		put1(t, s, user.Kind, person)
		var all sync.WaitGroup
		done := make(chan struct{})
		var reads atomic.Int64
		for r := range 32 {
			all.Go(func() {
				for n := r; ; n++ {
					select {
					case <-done:
						return
					default:
					}
					i := n % len(rows)
					before := committed[i].Load()
					row, err := s.Get(t.Context(), contact.Kind, rows[i].ID)
					if err != nil || row.ID != rows[i].ID || row.Version < before {
						t.Errorf("contact %d: error %v, row %s at version %d, want %s at %d or later", i, err, row.ID, row.Version, rows[i].ID, before)
						return
					}
					row.Value.(*contact.Contact).FirstName = fmt.Sprint("reader ", r) // the race detector tells if another has it, too
					if _, err := s.Get(t.Context(), user.Kind, "sam"); err != nil {
						t.Errorf("the user: %v", err)
						return
					}
					if _, err := s.Command(t.Context(), "none"); !fault.Is(err, fault.NotFound) {
						t.Errorf("a command that is not there: %v", err)
						return
					}
					reads.Add(1)
				}
			})
		}
		for v := int64(2); v < 100; v++ {
			i := int(v) % len(rows)
			row := kind.Row{Meta: rows[i].Meta, Value: rows[i].Value}
			row.Version = v
			put1(t, s, contact.Kind, row)
			committed[i].Store(v)
		}
		testkit.Eventually(t, 10*time.Second, func() error {
			if n := reads.Load(); n < 200 && !t.Failed() {
				return fmt.Errorf("%d reads", n)
			}
			return nil
		})
		close(done)
		all.Wait()
	})
}

func TestARowThatCannotBeReadFailsNobodyElse(t *testing.T) {
	onBoth(t, func(t *testing.T, s *Store) {
		good, bad := newContact(1), *user.Sync{Email: "sam@example.com"}.Apply(nil, "sam", at(0))
		put1(t, s, contact.Kind, good)
		put1(t, s, user.Kind, bad)
		_, err := s.writer.ExecContext(t.Context(), "UPDATE users SET tenants = 'no JSON' WHERE id = 'sam'")
		ok(t, err)
		all := []*wanted{{table: s.table(user.Kind), id: "sam"}, {table: s.table(contact.Kind), id: good.ID}, {table: commands, id: "none"}}
		ok(t, s.findAll(t.Context(), all))
		if all[0].err == nil || fault.Is(all[0].err, fault.Unavailable) {
			t.Errorf("the row that cannot be read: %v, want an error that is no outage", all[0].err)
		}
		if all[1].err != nil || !all[1].found || all[2].err != nil || all[2].found {
			t.Errorf("the others: found %t with %v, and %t with %v; want one found and one not", all[1].found, all[1].err, all[2].found, all[2].err)
		}
		if _, err := s.Get(t.Context(), user.Kind, "sam"); err == nil {
			t.Error("a row that cannot be read was given to its reader")
		}
	})
}
