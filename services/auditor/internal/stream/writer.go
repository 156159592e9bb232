// Package stream writes the audit log: it follows the ledger and appends every
// decision and outcome, once and in order, to the logs of pkg/audit.
//
//	LEDGER ──▶ read ──▶ take ──▶ Append (compare and append) ──▶ Redis ──▶ feed (core NATS)
//	                      │
//	                      └─▶ snapshot ──▶ signer ──▶ checkpoints: Redis, LEDGER
//
// The logs in Redis are the position, so two auditors may race: the one that
// loses goes on behind what the other has written. Each keeps the trees that it
// computed from the ledger itself and compares: what it signs is never taken
// from Redis alone.
package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/telemetry"
)

// appendTimeout bounds one call to Redis.
const appendTimeout = 5 * time.Second

const (
	minBackoff = 10 * time.Millisecond
	maxBackoff = 2 * time.Second
)

// What ends the copying beside outages.
var (
	// ErrAhead means that Redis holds entries of addresses that the ledger has
	// not got: they do not belong together, or the ledger was lost.
	ErrAhead = errors.New("the audit streams are ahead of the ledger: they do not belong together, or the ledger was lost (docs/runbook.md)")
	// ErrContradiction means that the audit log is not the one that was signed.
	ErrContradiction = errors.New("the audit log contradicts what was signed (docs/runbook.md)")
)

// Config is what a Writer is made of.
type Config struct {
	Ledger   *ledger.Ledger
	Appender *audit.Appender
	Reader   *audit.Reader // of the same Redis
	Seals    *events.Keyring
	Key      *audit.Key // signs checkpoints
	// Retention is how long entries are kept; 0 means for ever.
	Retention time.Duration
	Log       *slog.Logger
	Telemetry *telemetry.Telemetry
}

// Writer copies the ledger's decisions and outcomes into the logs.
type Writer struct {
	Config
	metrics

	own      *trees                   // of the copying goroutine, as are the next three
	begun    uint64                   // how often it has begun
	buried   events.Address           // refused events up to here have had their dead letters
	told     events.Address           // events up to here are not told of on the feed (again)
	feed     chan []notice            // what is to be told of
	position atomic.Uint64            // ledger address up to which all is in Redis
	wrong    atomic.Pointer[string]   // what contradicts; nil if nothing does
	current  atomic.Pointer[snapshot] // what may be signed; nil: nothing
	signer   signer
}

// trees are the logs' trees as computed from the ledger.
type trees struct {
	audit.Trees                // not changed: replaced
	sequence    events.Address // everything up to here is in them
	refused     events.Address // the last one before that was refused, as far as is known
}

// NewWriter makes a Writer.
func NewWriter(c Config) (*Writer, error) {
	w := &Writer{Config: c, feed: make(chan []notice, feedQueue)}
	err := w.instrument()
	return w, err
}

// Lag is how many messages of the ledger are not in Redis yet.
func (w *Writer) Lag(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	last, err := w.Ledger.Last(ctx)
	if err != nil {
		return 0, err
	}
	// The position is at the end of a message, or in the middle of one that is not done.
	done := max(events.SequenceOf(w.position.Load()+1), 1) - 1
	return last - min(last, done), nil
}

// Sound reports ErrContradiction and how, if the audit log is not the one that
// was signed: then nothing is appended or signed.
func (w *Writer) Sound(context.Context) error {
	if wrong := w.wrong.Load(); wrong != nil {
		return fmt.Errorf("%w: %s", ErrContradiction, *wrong)
	}
	return nil
}

// Run copies, signs and trims until ctx ends. Outages are waited out: while
// Redis is slow, full or gone the ledger keeps what is to be copied.
func (w *Writer) Run(ctx context.Context) error {
	var beside sync.WaitGroup
	defer beside.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	beside.Go(func() { w.sign(ctx) })
	beside.Go(func() { w.trim(ctx) })
	beside.Go(func() { w.tellAll(ctx) })

	wait := minBackoff
	for ctx.Err() == nil {
		progress := false
		err := w.follow(ctx, &progress)
		w.current.Store(nil)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrAhead):
			return err
		case errors.Is(err, ErrContradiction):
			w.contradicted(ctx, err)
		case !errors.Is(err, audit.ErrMoved):
			w.Log.WarnContext(ctx, "audit log waits", "error", err, "wait", wait)
		}
		if progress {
			wait = minBackoff
		}
		pause(ctx, wait/2+rand.N(wait/2+1))
		wait = min(2*wait, maxBackoff)
	}
	return nil
}

// contradicted keeps what was found for /readyz; the next attempt starts from
// what was signed, not from this writer's memory.
func (w *Writer) contradicted(ctx context.Context, err error) {
	w.own = nil
	text := err.Error()
	if before := w.wrong.Swap(&text); before == nil || *before != text {
		w.Log.ErrorContext(ctx, "the audit log is not the one that was signed: nothing is appended or signed", "error", err)
	}
}

// sound tells that Redis holds what the ledger says.
func (w *Writer) sound() { w.wrong.Store(nil) }

// follow copies from where Redis stands until something fails.
func (w *Writer) follow(ctx context.Context, progress *bool) error {
	f, err := w.begin(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var guard sync.WaitGroup
	defer guard.Wait()
	defer cancel(nil)
	guard.Go(func() { w.guard(ctx, cancel) })
	err = f.run(ctx, progress)
	if cause := context.Cause(ctx); errors.Is(cause, audit.ErrMoved) {
		return cause
	}
	return err
}

// guardEvery is how often Redis is asked whether it still has what it was given.
const guardEvery = time.Second

// guard ends the copying when Redis has lost entries, so that it begins again
// from what is left: without traffic no append would notice.
func (w *Writer) guard(ctx context.Context, end context.CancelCauseFunc) {
	for pause(ctx, guardEvery) {
		known := w.position.Load()
		head, err := w.Appender.Head(ctx)
		if err == nil && (head.Damaged != "" || head.Sequence < known) {
			w.Log.WarnContext(ctx, "Redis has lost entries", "has", head.Sequence, "had", known, "damaged", head.Damaged)
			end(audit.ErrMoved)
			return
		}
	}
}

// pause waits; false means that ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
