package ledger

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// tailBatch is how many messages Tail asks for at once, and tailBytes how large
// one answer may be.
const (
	tailBatch = 32
	tailBytes = 4 << 20
)

// Tail hands the last events of the ledger to look, the newest first: at most
// limit of them, and none after look says false. It reads the messages in
// stretches from the end, so little is read that is not looked at. It gives how
// many events were looked at.
//
// A replica that lags behind may lack the very last ones. Errors: fault.Unavailable.
func (l *Ledger) Tail(ctx context.Context, limit int, look func(Record) bool) (looked int, err error) {
	to, err := l.Last(ctx)
	if err != nil {
		return 0, err
	}
	for limit > 0 && to > 0 {
		n := min(tailBatch, uint64(limit), to) // messages, of which each holds an event or more
		records, err := l.stretch(ctx, to-n+1, to)
		if err != nil {
			return looked, err
		}
		for i := len(records) - 1; i >= 0 && limit > 0; i-- {
			looked, limit = looked+1, limit-1
			if !look(records[i]) {
				return looked, nil
			}
		}
		if len(records) == 0 {
			return looked, nil // the ledger begins later
		}
		to -= n
	}
	return looked, nil
}

// stretch reads the events of the messages from one sequence to another, both
// inclusive.
func (l *Ledger) stretch(ctx context.Context, from, to uint64) ([]Record, error) {
	var out []Record
	for from <= to {
		// GetBatch subscribes before it asks, and keeps the subscription when it
		// cannot ask: an outage would fill the connection with them.
		if !l.nc.IsConnected() {
			return nil, fault.Unreachable(Dependency, nats.ErrDisconnected)
		}
		batch, err := jetstreamext.GetBatch(ctx, l.js, events.StreamLedger, int(to-from+1),
			jetstreamext.GetBatchSeq(from), jetstreamext.GetBatchMaxBytes(tailBytes))
		if err != nil {
			return nil, fault.Unreachable(Dependency, err)
		}
		before := from
		for m, err := range batch {
			if errors.Is(err, jetstreamext.ErrNoMessages) {
				return out, nil
			}
			if err != nil {
				return nil, fault.Unreachable(Dependency, err)
			}
			if m.Sequence > to {
				return out, nil
			}
			out = append(out, stored(m)...)
			from = m.Sequence + 1
		}
		if from == before {
			return out, nil // not there yet on the replica that was asked
		}
	}
	return out, nil
}
