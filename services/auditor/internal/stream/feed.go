package stream

import (
	"context"
	"time"
)

// The feed tells on core NATS of each event that has just come into Redis:
// events.Event.FeedSubject, with the event's exact bytes. It is told of what is
// copied while it is young, so a log that is filled again is not told of again,
// but for what is younger than feedAge when an auditor starts beside a Redis that
// has lost it. Nothing waits for the feed: what it does not keep up with, and what
// comes while there is no connection, is left out.
const (
	feedAge   = time.Minute // by this machine's clock and the ledger's
	feedQueue = 8           // batches that wait
)

// notice is an event that is told of.
type notice struct {
	subject string
	data    []byte
}

// tell has the feed tell of a batch that is in Redis now.
func (w *Writer) tell(ctx context.Context, c *converted) {
	w.told = max(w.told, c.Sequence)
	if len(c.notices) == 0 {
		return
	}
	select {
	case w.feed <- c.notices:
	default:
		w.untold.Add(ctx, int64(len(c.notices)))
	}
}

// tellAll sends what tell was given, until ctx ends.
func (w *Writer) tellAll(ctx context.Context) {
	for {
		select {
		case all := <-w.feed:
			for i, n := range all {
				if err := w.Ledger.Notify(n.subject, n.data); err != nil {
					w.untold.Add(ctx, int64(len(all)-i))
					break
				}
			}
		case <-ctx.Done():
			return
		}
	}
}
