package ledger

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// The headers of a dead letter. Its body is the original message's bytes; the
// original's headers follow with HeaderOriginal before their names.
const (
	HeaderReason     = "Writ-Reason"
	HeaderCode       = "Writ-Code"
	HeaderService    = "Writ-Service"
	HeaderSubject    = "Writ-Subject"
	HeaderSequence   = "Writ-Sequence" // the event's address; of other streams the message's sequence
	HeaderDeliveries = "Writ-Deliveries"
	HeaderDeadAt     = "Writ-Dead-At"
	HeaderOriginal   = "Writ-Original-"
)

// maxReason bounds the reason in a dead letter's header, in bytes.
const maxReason = 2 << 10

// DeadLetter is what could not be processed and why.
type DeadLetter struct {
	Service    string // worker, auditor
	Stream     string // where the message stood; "" means the ledger
	Code       string // bad-seal, expired, …
	Reason     string
	Deliveries int
	Record     Record // of another stream than the ledger: Address is the message's sequence
}

// Bury stores a dead letter. Burying the same message of the same service
// again is no error and stores nothing: there is one subject for each, which
// takes one message only.
func (l *Ledger) Bury(ctx context.Context, d DeadLetter) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.AppendTimeout)
	defer cancel()
	reason := d.Reason
	if len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "") // the cut may split a character
	}
	stream := d.Stream
	if stream == "" {
		stream = events.StreamLedger
	}
	m := &nats.Msg{Subject: events.DeadSubject(d.Service, stream, d.Record.Address), Data: d.Record.Data, Header: nats.Header{
		HeaderService:    {d.Service},
		HeaderCode:       {d.Code},
		HeaderReason:     {oneLine(reason)},
		HeaderSubject:    {d.Record.Subject},
		HeaderSequence:   {strconv.FormatUint(d.Record.Address, 10)},
		HeaderDeliveries: {strconv.Itoa(d.Deliveries)},
		HeaderDeadAt:     {time.Now().UTC().Format(time.RFC3339Nano)},
	}}
	for k, v := range d.Record.Header {
		if k == events.HeaderLengths { // of the message that held the event among others
			continue
		}
		m.Header[HeaderOriginal+k] = v
	}
	_, err := l.js.PublishMsg(ctx, m, jetstream.WithExpectLastSequencePerSubject(0))
	if wrongLast(err) {
		return nil // buried before
	}
	if err != nil {
		return fault.Unreachable(Dependency, err)
	}
	return nil
}

// oneLine makes s fit for a header.
func oneLine(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c == '\r' || c == '\n' {
			b[i] = ' '
		}
	}
	return string(b)
}

func isNotFound(err error) bool { return errors.Is(err, jetstream.ErrMsgNotFound) }
