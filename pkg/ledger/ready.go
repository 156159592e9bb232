package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// refusedFor is how long a refusal counts whose reason nobody can look up, such
// as a limit of the server's: then an append has to try again.
const refusedFor = 10 * time.Second

// failure is an append that failed and after which none succeeded.
type failure struct {
	err        error
	at         time.Time
	reconnects uint64 // of the connection, when it was sent
	after      uint64 // the last sequence that was acknowledged before it
	subject    string
	id         string // of its first event
	size       int
}

// appended remembers whether the last append was acknowledged.
func (l *Ledger) appended(sequence uint64) {
	l.failing.Store(nil)
	for {
		before := l.acknowledged.Load()
		if sequence <= before || l.acknowledged.CompareAndSwap(before, sequence) {
			return
		}
	}
}

func (l *Ledger) appendFailed(subject string, all []events.Message, size int, reconnects uint64, err error) {
	var api *jetstream.APIError
	if errors.Is(err, context.Canceled) || errors.Is(err, nats.ErrMaxPayload) ||
		errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamMessageExceedsMaximum {
		return // the caller's doing
	}
	l.failing.Store(&failure{err: err, at: time.Now(), reconnects: reconnects, after: l.acknowledged.Load(),
		subject: subject, id: all[0].ID, size: size})
}

// Ready reports whether the ledger answers and takes appends.
//
// After a write error, a full disk for one, nats-server answers everything but
// appends, until it is started again (its filestore keeps the error). So an
// append without an answer counts until one succeeds, or something shows that it
// says nothing about the ledger of now.
func (l *Ledger) Ready(ctx context.Context) error {
	if s := l.nc.Status(); s != nats.CONNECTED {
		return fault.Unreachable(Dependency, fmt.Errorf("NATS connection is %s", s))
	}
	info, err := l.stream.Info(ctx)
	if err != nil {
		return fault.Unreachable(Dependency, err)
	}
	f := l.failing.Load()
	if f == nil {
		return nil
	}
	mended, err := l.mended(ctx, f, info)
	if err != nil {
		return err
	}
	if !mended {
		return fault.Unreachable(Dependency, fmt.Errorf("appends fail: %w", f.err))
	}
	l.failing.CompareAndSwap(f, nil)
	return nil
}

// mended reports whether appends may succeed again after one that failed.
func (l *Ledger) mended(ctx context.Context, f *failure, info *jetstream.StreamInfo) (bool, error) {
	switch {
	case !unanswered(f.err):
		if most := info.Config.MaxBytes; most > 0 && info.State.Bytes+uint64(f.size) > uint64(most) {
			return false, nil // full: what failed would fail again
		}
		return time.Since(f.at) > refusedFor, nil
	case l.reconnects() != f.reconnects:
		return true, nil // lost on its way, or to a server that was started again since
	case info.Config.Replicas > 1:
		return true, nil // of a replica that cannot write, another one takes over
	}
	// The server takes messages in order and has just answered: what it had been
	// sent before is stored, if late, or it cannot store.
	found, err := l.Find(ctx, events.End(f.after)+1, []string{f.subject}, map[string]bool{f.id: true})
	return len(found) > 0, err
}

// unanswered reports whether an append failed since nothing was heard of it.
func unanswered(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, jetstream.ErrAsyncPublishTimeout) || errors.Is(err, nats.ErrTimeout)
}

func (l *Ledger) reconnects() uint64 { return l.nc.Stats().Reconnects }
