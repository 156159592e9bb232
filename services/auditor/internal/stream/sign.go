package stream

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
)

// How often is signed while there is traffic, and looked whether there was any.
const (
	signEvery = 900 * time.Millisecond
	signLook  = 100 * time.Millisecond
)

// snapshot is what may be signed: it is in Redis, and computed from the ledger.
type snapshot struct {
	*trees
	begun uint64 // which beginning it goes back to: Redis may have lost a checkpoint before
}

// sizes are those of both trees; the zero value is of no checkpoint.
type sizes struct {
	decisions, outcomes int64
	any                 bool
}

// signer is what is known of the checkpoints made so far.
type signer struct {
	mu       sync.Mutex
	onLedger sizes          // of the last one seen on the ledger
	through  events.Address // up to where that one accounts for everything
	seen     time.Time      // when that was, or one was tried
}

// saw takes note of a checkpoint on the ledger, another auditor's too: one a
// second is enough for all.
func (s *signer) saw(c *events.Checkpoint) {
	d, err1 := audit.ParseCheckpoint([]byte(c.Decisions))
	o, err2 := audit.ParseCheckpoint([]byte(c.Outcomes))
	if err1 != nil || err2 != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onLedger, s.through, s.seen = sizes{d.Tree.N, o.Tree.N, true}, c.Sequence, time.Now()
}

// due tells whether a checkpoint of these sizes is to be put on the ledger now. One
// of the same sizes is when an event was refused behind the last one: then it says
// that there is a dead letter of it, for whoever fills the log again.
func (s *signer) due(of sizes, refused events.Address) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.onLedger == of && refused <= s.through || time.Since(s.seen) < signEvery {
		return false
	}
	s.seen = time.Now()
	return true
}

// sign signs until ctx ends: a checkpoint of what is new, at most every
// signEvery. Readers get it from Redis; the ledger keeps it.
func (w *Writer) sign(ctx context.Context) {
	var served sizes
	var begun uint64
	var at time.Time
	for pause(ctx, signLook) {
		now := w.current.Load()
		if now == nil {
			continue
		}
		if now.begun != begun {
			served, begun = sizes{}, now.begun
		}
		have := sizes{now.Decisions.Size(), now.Outcomes.Size(), true}
		due := w.signer.due(have, now.refused)
		if !due && (have == served || time.Since(at) < signEvery) {
			continue
		}
		at = time.Now()
		if err := w.publish(ctx, now, have, due); err == nil {
			served = have
		} else if ctx.Err() == nil {
			w.Log.WarnContext(ctx, "no checkpoint", "error", err)
		}
	}
}

// publish signs a snapshot, stores the checkpoint and, if that is due, puts it
// on the ledger.
func (w *Writer) publish(ctx context.Context, s *snapshot, have sizes, due bool) error {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	decisions, err := w.Key.Sign(audit.Decisions, s.Decisions.Tree())
	if err != nil {
		return err
	}
	outcomes, err := w.Key.Sign(audit.Outcomes, s.Outcomes.Tree())
	if err != nil {
		return err
	}
	if _, err := w.Appender.Publish(ctx, decisions, outcomes, s.sequence); err != nil {
		return err
	}
	if !due {
		return nil
	}
	m, err := events.NewCheckpoint(w.Seals, &events.Checkpoint{
		ID: events.CheckpointID(w.Key.ID(), have.decisions, have.outcomes), Key: w.Key.ID(), Sequence: s.sequence,
		Decisions: string(decisions.Note), Outcomes: string(outcomes.Note), At: time.Now().UTC(),
	})
	if err != nil {
		return err
	}
	if err := w.Ledger.AppendNext(ctx, m); err != nil {
		return fmt.Errorf("checkpoint of ledger address %d: %w", s.sequence, err)
	}
	w.signed.Add(ctx, 1)
	return nil
}
