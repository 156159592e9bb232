package stream

import (
	"context"
	"errors"
	"fmt"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
)

// follower copies from one beginning.
type follower struct {
	*Writer
	head audit.Head // where Redis stands, as far as is known
	// edges are the trees in Redis at head when they are still to be compared.
	edges *audit.Trees
	// signed is the ledger address of the last checkpoint that was there at the
	// beginning: before it nothing is signed, or the log would seem to go back.
	signed events.Address
}

// begin finds where Redis stands, and trees to go on from that were computed
// from the ledger, or vouched for by it. Logs that have lost something are
// deleted, to be filled from the ledger.
func (w *Writer) begin(ctx context.Context) (*follower, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*appendTimeout)
	defer cancel()
	head, err := w.Appender.Head(ctx)
	if err != nil {
		return nil, err
	}
	last, err := w.Ledger.Last(ctx)
	if err != nil {
		return nil, err
	}
	if head.Sequence > events.End(last) { // what is left of another ledger's logs must not be deleted either
		return nil, ErrAhead
	}
	f := &follower{Writer: w}
	if head.Damaged == "" && !head.Empty() {
		f.edges, err = w.load(ctx, head.Decisions.Size, head.Outcomes.Size)
		if errors.Is(err, audit.ErrDamaged) {
			head.Damaged = err.Error()
		} else if err != nil {
			return nil, err
		}
	}
	if head.Damaged != "" {
		w.Log.WarnContext(ctx, "the audit log has lost entries, filling it from the beginning", "damaged", head.Damaged)
		if head, err = w.Appender.Reset(ctx, head); err != nil {
			return nil, err
		}
		f.edges = nil
	}
	f.head = head
	w.begun++
	w.met(head.Sequence)
	if err := f.base(ctx); err != nil {
		return nil, err
	}
	w.position.Store(head.Sequence)
	return f, f.arrived(ctx)
}

// base chooses the trees to go on from.
func (f *follower) base(ctx context.Context) error {
	cp, address, err := f.lastCheckpoint(ctx)
	if err != nil {
		return err
	}
	f.signed = address
	if cp != nil { // what it accounts for was in Redis, and buried before that
		f.buried = max(f.buried, cp.Sequence)
	}
	switch {
	case f.own != nil && f.own.sequence <= f.head.Sequence: // Redis has gone on, or not: what was computed here stays true
		return nil
	case f.head.Empty() || cp == nil:
		f.own = &trees{Trees: audit.Trees{Decisions: &audit.Tree{}, Outcomes: &audit.Tree{}}}
	case cp.Sequence <= f.head.Sequence:
		signed, err := f.contains(ctx, cp, f.head.State)
		if err != nil {
			return err
		}
		f.own = &trees{Trees: *signed, sequence: cp.Sequence}
	default: // Redis has lost what was signed last: that is compared when it is there again
		f.own = &trees{Trees: *f.edges, sequence: f.head.Sequence}
	}
	return nil
}

// met takes note that everything up to an address is in Redis: it was buried or
// told of when it came there.
func (w *Writer) met(a events.Address) { w.buried, w.told = max(w.buried, a), max(w.told, a) }

// lastCheckpoint gives the last believable checkpoint of the ledger, or none,
// and its address.
func (w *Writer) lastCheckpoint(ctx context.Context) (*events.Checkpoint, events.Address, error) {
	for _, subject := range []string{events.AllCheckpoints, events.CheckpointSubject(w.Key.ID())} {
		rec, found, err := w.Ledger.LastOn(ctx, subject)
		if err != nil || !found {
			return nil, 0, err
		}
		e, err := events.Parse(rec.Data)
		if err == nil {
			if err = e.Verify(w.Seals, rec.Subject); err == nil || e.Type == events.TypeCheckpoint && w.signedHere(&e.Checkpoint) {
				return &e.Checkpoint, rec.Address, nil
			}
		}
		// A forged one must not hide the one before: the subject of this key holds
		// fewer, and without any everything is compared from the beginning.
		w.Log.WarnContext(ctx, "a checkpoint on the ledger is not to be believed", "address", rec.Address, "error", err)
	}
	return nil, 0, nil
}

// signedHere tells whether this auditor's key signed a checkpoint: it is
// believed then, also when the key that sealed it was taken out of the ring,
// which is when the log would be filled with less than before.
func (w *Writer) signedHere(c *events.Checkpoint) bool {
	_, err1 := w.Key.Open(audit.Decisions, []byte(c.Decisions))
	_, err2 := w.Key.Open(audit.Outcomes, []byte(c.Outcomes))
	return err1 == nil && err2 == nil
}

// load reads the trees of these sizes from Redis.
func (w *Writer) load(ctx context.Context, decisions, outcomes int64) (*audit.Trees, error) {
	d, err := audit.LoadTree(ctx, w.Reader, audit.Decisions, decisions)
	if err != nil {
		return nil, err
	}
	o, err := audit.LoadTree(ctx, w.Reader, audit.Outcomes, outcomes)
	if err != nil {
		return nil, err
	}
	return &audit.Trees{Decisions: d, Outcomes: o}, nil
}

// contains checks that the logs, which stand at s, had the trees of a
// checkpoint, and gives them. It reports ErrContradiction.
func (w *Writer) contains(ctx context.Context, cp *events.Checkpoint, s audit.State) (*audit.Trees, error) {
	var notes [2]audit.Checkpoint
	for i, l := range audit.Logs {
		text := cp.Decisions
		if l == audit.Outcomes {
			text = cp.Outcomes
		}
		var err error
		if notes[i], err = audit.ParseCheckpoint([]byte(text)); err != nil {
			return nil, fmt.Errorf("%w: checkpoint %s: %w", ErrContradiction, cp.ID, err)
		}
		if have := s.Of(l).Size; notes[i].Tree.N > have {
			return nil, fmt.Errorf("%w: %s has %d entries at ledger address %d, checkpoint %s says %d by %d",
				ErrContradiction, l, have, s.Sequence, cp.ID, notes[i].Tree.N, cp.Sequence)
		}
	}
	trees, err := w.load(ctx, notes[0].Tree.N, notes[1].Tree.N)
	if errors.Is(err, audit.ErrDamaged) {
		return nil, fmt.Errorf("%w: %w", ErrContradiction, err)
	}
	if err != nil {
		return nil, err
	}
	for i, l := range audit.Logs {
		if got := trees.Of(l).Tree(); got != notes[i].Tree {
			return nil, fmt.Errorf("%w: the first %d entries of %s have the root hash %s, checkpoint %s says %s",
				ErrContradiction, got.N, l, got.Hash, cp.ID, notes[i].Tree.Hash)
		}
	}
	return trees, nil
}
