package ledger

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// Letter is a dead letter as it stands in the stream DEAD. Its Record is the
// original event: subject, address and headers are those that it had.
type Letter struct {
	DeadLetter
	// ID names it for ever: <service>.<stream>.<address> of the event that it is
	// about (of other streams than the ledger, the message's sequence). It can be buried again under the same id after it was removed.
	ID string
	// At is its sequence in DEAD.
	At   uint64
	Died time.Time
}

// Letters reads dead letters in the order in which they were buried, from a
// sequence of DEAD on: at most limit of them and about 8 MiB. The next call goes
// on at next; 0 says that there were no more.
func (l *Ledger) Letters(ctx context.Context, from uint64, limit int) (found []Letter, next uint64, err error) {
	if !l.nc.IsConnected() { // see Range
		return nil, 0, fault.Unreachable(Dependency, nats.ErrDisconnected)
	}
	batch, err := jetstreamext.GetBatch(ctx, l.js, events.StreamDead, limit+1,
		jetstreamext.GetBatchSeq(max(from, 1)), jetstreamext.GetBatchSubject(events.AllDead), jetstreamext.GetBatchMaxBytes(maxGroupBytes))
	if err != nil {
		return nil, 0, fault.Unreachable(Dependency, err)
	}
	more := false
	for m, err := range batch {
		if errors.Is(err, jetstreamext.ErrNoMessages) {
			break
		}
		if err != nil {
			return nil, 0, fault.Unreachable(Dependency, err)
		}
		if len(found) == limit {
			return found, m.Sequence, nil
		}
		found = append(found, letter(m))
		// The server leaves out what does not fit and says how much that is.
		more = m.Header.Get("Nats-Num-Pending") != "0"
	}
	if more && len(found) > 0 {
		next = found[len(found)-1].At + 1
	}
	return found, next, nil
}

// Letter reads one dead letter; fault.NotFound when there is none of this id.
func (l *Ledger) Letter(ctx context.Context, id string) (Letter, error) {
	if !letterID(id) {
		return Letter{}, fault.Missing("dead letter", id)
	}
	dead, err := l.js.Stream(ctx, events.StreamDead)
	if err != nil {
		return Letter{}, fault.Unreachable(Dependency, err)
	}
	m, err := dead.GetLastMsgForSubject(ctx, deadPrefix+id)
	if isNotFound(err) {
		return Letter{}, fault.Missing("dead letter", id)
	}
	if err != nil {
		return Letter{}, fault.Unreachable(Dependency, err)
	}
	return letter(m), nil
}

// Remove takes a dead letter out of DEAD. One that is gone already is no error.
func (l *Ledger) Remove(ctx context.Context, d Letter) error {
	dead, err := l.js.Stream(ctx, events.StreamDead)
	if err != nil {
		return fault.Unreachable(Dependency, err)
	}
	if err = dead.DeleteMsg(ctx, d.At); err == nil {
		return nil
	}
	if _, getErr := dead.GetMsg(ctx, d.At); isNotFound(getErr) { // the server has several ways to say it
		return nil
	}
	return fault.Unreachable(Dependency, fmt.Errorf("remove dead letter %s: %w", d.ID, err))
}

// deadPrefix is what letters' subjects have before their ids.
const deadPrefix = "writ.dead."

// letterID reports whether id is one token for the service, one for the stream
// and a sequence, without wildcards.
func letterID(id string) bool {
	parts := strings.Split(id, ".")
	if len(parts) != 3 || len(id) > 128 {
		return false
	}
	for _, p := range parts {
		if p == "" || events.Token(p) != p {
			return false
		}
	}
	_, err := strconv.ParseUint(parts[2], 10, 64)
	return err == nil
}

// letter reads a dead letter. What is missing or odd in the headers stays zero:
// whoever can write to DEAD can write anything.
func letter(m *jetstream.RawStreamMsg) Letter {
	id := strings.TrimPrefix(m.Subject, deadPrefix)
	out := Letter{ID: id, At: m.Sequence, Died: m.Time}
	out.Service, out.Code, out.Reason = m.Header.Get(HeaderService), m.Header.Get(HeaderCode), m.Header.Get(HeaderReason)
	if parts := strings.Split(id, "."); len(parts) == 3 {
		out.Service, out.Stream = parts[0], parts[1]
		out.Record.Address, _ = strconv.ParseUint(parts[2], 10, 64) // zero otherwise
	}
	out.Deliveries, _ = strconv.Atoi(m.Header.Get(HeaderDeliveries))
	out.Record.Subject, out.Record.Data, out.Record.Header = m.Header.Get(HeaderSubject), m.Data, nats.Header{}
	for k, v := range m.Header {
		if name, ok := strings.CutPrefix(k, HeaderOriginal); ok {
			out.Record.Header[name] = v
		}
	}
	return out
}
