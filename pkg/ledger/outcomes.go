package ledger

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// ErrOvertaken says that outcomes do not end where AppendOutcomes was told:
// another worker has appended some.
var ErrOvertaken = errors.New("another worker has appended outcomes of this shard")

// Answer is what is said of one command: the decision that was taken again, if
// one was, and the outcome.
type Answer struct {
	Command events.Address
	Events  []events.Message
}

// Outcomes is where the outcomes on a subject end.
type Outcomes struct {
	Sequence uint64         // of the last message on the subject, 0 for none
	Answered events.Address // every command of the shard up to here has its outcome on the ledger
}

// LastOutcomes reads where a subject's outcomes end. Of a cluster it may be a
// replica's view, a little older: AppendOutcomes finds that out.
func (l *Ledger) LastOutcomes(ctx context.Context, subject string) (Outcomes, error) {
	m, err := l.stream.GetLastMsgForSubject(ctx, subject)
	if isNotFound(err) {
		return Outcomes{}, nil
	}
	if err != nil {
		return Outcomes{}, fault.Unreachable(Dependency, fmt.Errorf("read the last outcomes on %s: %w", subject, err))
	}
	o := Outcomes{Sequence: m.Sequence}
	for ok := false; !ok; {
		if o.Answered, ok = answers(m); ok {
			break
		}
		// Whoever can write to NATS can put it there: the one before it tells.
		if m, err = l.outcomesBefore(ctx, subject, m.Sequence); m == nil {
			break
		}
	}
	return o, err
}

// answers reads up to where a message answers commands; false if it cannot be
// one of ours, which answers nothing that stands behind it.
func answers(m *jetstream.RawStreamMsg) (events.Address, bool) {
	answered, err := strconv.ParseUint(m.Header.Get(events.HeaderAnswers), 10, 64)
	if err != nil || answered > events.End(m.Sequence) {
		return 0, false
	}
	return answered, true
}

// outcomesBefore gives the last message on a subject before a sequence, nil for none.
func (l *Ledger) outcomesBefore(ctx context.Context, subject string, sequence uint64) (*jetstream.RawStreamMsg, error) {
	if sequence <= 1 {
		return nil, nil
	}
	if !l.nc.IsConnected() { // else a subscription would be left
		return nil, fault.Unreachable(Dependency, nats.ErrDisconnected)
	}
	found, err := jetstreamext.GetLastMsgsFor(ctx, l.js, events.StreamLedger, []string{subject}, jetstreamext.GetLastMsgsUpToSeq(sequence-1))
	if err == nil {
		for m, each := range found {
			if each == nil {
				return m, nil
			}
			err = each
		}
	}
	if err == nil || errors.Is(err, jetstreamext.ErrNoMessages) {
		return nil, nil
	}
	return nil, fault.Unreachable(Dependency, fmt.Errorf("read the outcomes before %d on %s: %w", sequence, subject, err))
}

// AppendOutcomes puts answers, in the order of their commands, on a subject, if
// the subject still ends at last, and tells where it ends then. ErrOvertaken says
// that it does not; after any other error, which is fault.Unavailable, it is open
// how many of them are there: LastOutcomes tells.
//
// So an outcome is there once, whoever is killed, paused or cut off in between,
// and however long that takes.
func (l *Ledger) AppendOutcomes(ctx context.Context, subject string, last Outcomes, answers []Answer) (Outcomes, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.AppendTimeout)
	defer cancel()
	for len(answers) > 0 {
		n, size := 0, 0
		var all []events.Message
		for ; n < len(answers); n++ {
			more := 0
			for i := range answers[n].Events {
				more += sizeOf(&answers[n].Events[i])
			}
			if n > 0 && (len(all)+len(answers[n].Events) > events.MaxBatch || size+more > events.MaxBody) {
				break
			}
			all, size = append(all, answers[n].Events...), size+more
		}
		answered := max(last.Answered, answers[n-1].Command) // of a database that was restored, it is behind
		sequence, err := l.appendAfter(ctx, subject, last.Sequence, answered, all)
		if err != nil {
			return last, err
		}
		last, answers = Outcomes{sequence, answered}, answers[n:]
	}
	return last, nil
}

func (l *Ledger) appendAfter(ctx context.Context, subject string, last uint64, answered events.Address, all []events.Message) (sequence uint64, err error) {
	ctx, span := l.cfg.Tracer.Start(ctx, "send "+events.StreamLedger, trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(semconv.MessagingDestinationName(subject), semconv.MessagingBatchMessageCount(len(all))))
	defer func() { sent(span, err) }()
	l.groupSize.Record(ctx, int64(len(all)))
	m := newMsg(subject, all)
	m.Header.Set(events.HeaderAnswers, strconv.FormatUint(answered, 10))
	reconnects := l.reconnects()
	ack, err := l.js.PublishMsg(ctx, m, jetstream.WithExpectLastSequencePerSubject(last))
	if wrongLast(err) {
		return 0, ErrOvertaken
	}
	if err != nil {
		l.appendFailed(subject, all, len(m.Data), reconnects, err)
		return 0, fault.Unreachable(Dependency, fmt.Errorf("append %d outcomes to %s: %w", len(all), subject, err))
	}
	l.appended(ack.Sequence)
	return ack.Sequence, nil
}

// AppendNext puts an event on a subject of its own, unless the last one there has
// its id or somebody else appends one at the same moment: two auditors that sign
// alike have signed once. Errors are fault.Unavailable.
func (l *Ledger) AppendNext(ctx context.Context, m events.Message) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.AppendTimeout)
	defer cancel()
	last, found, err := l.LastOn(ctx, m.Subject)
	if err != nil || found && events.IDOf(last.Data) == m.ID {
		return err
	}
	_, err = l.js.PublishMsg(ctx, newMsg(m.Subject, []events.Message{m}), jetstream.WithExpectLastSequencePerSubject(events.SequenceOf(last.Address)))
	if err != nil && !wrongLast(err) {
		return fault.Unreachable(Dependency, fmt.Errorf("append %s: %w", m.ID, err))
	}
	return nil
}

// wrongLast reports whether the server refused a message since its subject's
// last one was another; replicated streams say it in the second way.
func wrongLast(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}
