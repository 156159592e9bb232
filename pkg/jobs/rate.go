package jobs

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/fault"
)

// maxSkew is by how much the clocks of two workers may differ.
const maxSkew = time.Minute

// turn takes a turn of the queue's rate, which all processes share, or tells
// how long to wait for one: the generic cell rate algorithm. Its one number, the time
// at which the queue will have caught up with its rate, is a record that is
// changed by compare and set. Clocks that differ shift it by their difference.
func (c *Client) turn(ctx context.Context, q Queue) (wait time.Duration, err error) {
	if q.Rate <= 0 {
		return 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	each := time.Duration(float64(time.Second) / q.Rate)
	for {
		var revision uint64
		caughtUp := time.Time{}
		m, err := c.states.stream.GetLastMsgForSubject(ctx, prefixRate+q.Name)
		switch {
		case err == nil:
			micros, _ := strconv.ParseInt(string(m.Data), 10, 64) // anything else: no turn was taken yet
			revision, caughtUp = m.Sequence, time.UnixMicro(micros)
		case !errors.Is(err, jetstream.ErrMsgNotFound):
			return 0, fault.Unreachable(Dependency, err)
		}
		at := time.Now()
		if caughtUp.Sub(at) > time.Duration(q.Burst)*each+maxSkew { // nobody's turns reach so far: a clock was wrong
			caughtUp = time.Time{}
		}
		next := at
		if caughtUp.After(at) {
			next = caughtUp
		}
		next = next.Add(each)
		if ahead := next.Sub(at) - time.Duration(q.Burst)*each; ahead > 0 {
			return min(ahead, time.Minute), nil
		}
		_, err = c.states.set(ctx, prefixRate+q.Name, strconv.AppendInt(nil, next.UnixMicro(), 10), revision)
		if !errors.Is(err, errChanged) {
			return 0, err
		}
	}
}
