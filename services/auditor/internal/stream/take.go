package stream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
)

// Batches that are smaller than fullBatch are begun copyEvery apart at least: events
// that come in between share what a batch costs, which is more than they do
// themselves. One that comes alone is copied at once.
const (
	copyEvery = 10 * time.Millisecond
	fullBatch = 256 // events
)

// run copies until something fails. The next batch is read while this one is
// appended: two batches are in memory beside what the ledger keeps ready.
func (f *follower) run(ctx context.Context, progress *bool) error {
	g, ctx := errgroup.WithContext(ctx)
	batches := make(chan []message)
	from := f.own.sequence + 1
	g.Go(func() error {
		return f.Ledger.Follow(ctx, from, func(ctx context.Context, batch []ledger.Record) error {
			select {
			case batches <- f.read(batch):
			case <-ctx.Done():
				return ctx.Err()
			}
			if len(batch) < fullBatch && !pause(ctx, copyEvery) {
				return ctx.Err()
			}
			return nil
		})
	})
	g.Go(func() error {
		for {
			select {
			case batch := <-batches:
				*progress = true
				if err := f.take(ctx, batch); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	return g.Wait()
}

// take appends a batch, or what of it is not in Redis yet.
func (f *follower) take(ctx context.Context, batch []message) error {
	if err := f.connects(batch[0].Address); err != nil {
		return err
	}
	checkpoint := (*events.Checkpoint)(nil)
	for len(batch) > 0 {
		n := 0
		for n < len(batch) && batch[n].Address <= f.head.Sequence {
			n++
		}
		c, err := f.step(ctx, batch, n)
		if errors.Is(err, audit.ErrMoved) {
			if err = f.moved(ctx); err == nil {
				continue
			}
		}
		if err != nil {
			return err
		}
		if c.checkpoint != nil {
			checkpoint = c.checkpoint
		}
		batch = batch[c.taken:]
	}
	if checkpoint != nil { // the last one contains those before
		if _, err := f.contains(ctx, checkpoint, f.own.state()); err != nil {
			return err
		}
		f.signer.saw(checkpoint)
	}
	return f.arrived(ctx)
}

// state is where the logs stand by the trees.
func (t *trees) state() audit.State {
	return audit.State{Decisions: audit.Position{Size: t.Decisions.Size()}, Outcomes: audit.Position{Size: t.Outcomes.Size()}, Sequence: t.sequence}
}

// connects reports an error unless the event at this address comes next: the
// ledger may begin later than the log.
func (f *follower) connects(a events.Address) error {
	want := f.own.sequence + 1
	if f.own.sequence == 0 {
		if f.head.Empty() {
			return nil
		}
		want = f.head.Start
	}
	if a != want {
		return fmt.Errorf("the ledger goes on with event %d, the audit log needs %d", a, want)
	}
	return nil
}

// step takes the first there events of a batch, which Redis has already, or if
// there are none appends all of it.
func (f *follower) step(ctx context.Context, batch []message, there int) (*converted, error) {
	if there > 0 {
		batch = batch[:there]
	}
	c, err := f.convert(ctx, batch)
	if err != nil {
		return nil, err
	}
	next := &trees{f.own.Clone(), c.Sequence, max(f.own.refused, c.refused)}
	if there > 0 {
		for _, l := range audit.Logs {
			next.Of(l).Append(c.Leaves(l)...)
		}
		f.own = next
		return c, nil
	}
	if f.own.sequence != f.head.Sequence {
		if f.own.sequence != 0 || !f.head.Empty() {
			return nil, fmt.Errorf("%w: Redis stands at ledger address %d, which is not the end of a batch", ErrContradiction, f.head.Sequence)
		}
	}
	started := time.Now()
	// A stop must not cut an append off half way through its answer.
	actx, cancel := context.WithTimeout(context.WithoutCancel(ctx), appendTimeout)
	defer cancel()
	head, err := f.Appender.Append(actx, f.head, next.Trees, c.Batch)
	if err != nil {
		return nil, err
	}
	f.head, f.own = head, next
	f.position.Store(head.Sequence)
	f.tell(ctx, c)
	f.observe(ctx, c, started)
	return c, nil
}

// moved finds out where another auditor has brought Redis. It reports ErrMoved
// if Redis has lost something.
func (f *follower) moved(ctx context.Context) error {
	head, err := f.Appender.Head(ctx)
	if err != nil {
		return err
	}
	if head.Damaged != "" || head.Sequence <= f.own.sequence {
		return audit.ErrMoved
	}
	f.head = head
	f.met(head.Sequence)
	return nil
}

// arrived is called when a batch was taken: if that is where Redis stands, what
// is there must be what was computed here, and may be signed.
func (f *follower) arrived(context.Context) error {
	if f.own.sequence < f.head.Sequence {
		return nil
	}
	for _, l := range audit.Logs {
		if have, want := f.head.Of(l).Size, f.own.Of(l).Size(); have != want {
			return fmt.Errorf("%w: %s has %d entries at ledger address %d, the ledger %d", ErrContradiction, l, have, f.head.Sequence, want)
		}
		if f.edges == nil || f.edges.Of(l).Size() != f.own.Of(l).Size() {
			continue
		}
		if have, want := f.edges.Of(l).Tree(), f.own.Of(l).Tree(); have != want {
			return fmt.Errorf("%w: the %d entries of %s have the root hash %s, by the ledger %s", ErrContradiction, have.N, l, have.Hash, want.Hash)
		}
	}
	f.edges = nil
	f.position.Store(f.head.Sequence)
	f.sound()
	if f.own.sequence >= f.signed {
		f.current.Store(&snapshot{f.own, f.begun})
	}
	return nil
}
