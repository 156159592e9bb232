package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/telemetry"
)

// Limits of the append queue. Past them an append fails at once.
const (
	maxQueue      = 4096     // messages
	maxQueueBytes = 64 << 20 // bytes
	maxGroup      = 256      // messages that go together
	maxGroupBytes = 8 << 20  // bytes that go together
	atomicFrom    = 16       // messages from which one atomic batch beats single publishes (measured: docs/adr/0003)
)

// Ack is the ledger's acknowledgement of one message.
type Ack struct {
	Sequence uint64
	// Duplicate means that a message of this id was there already: Sequence is that one's.
	Duplicate bool
}

type pending struct {
	ctx  context.Context
	msg  events.Message
	sent time.Time
	done chan result // buffered: the loop never waits for a caller
}

type result struct {
	ack Ack
	err error
}

// Append puts one message on the ledger and returns when the ledger has
// acknowledged it. Any error is fault.Unavailable; after one the message may or
// may not be on the ledger (a lost acknowledgement looks like a lost message),
// so the caller must not treat it as either.
func (l *Ledger) Append(ctx context.Context, m events.Message) (ack Ack, err error) {
	ctx, span := l.sending(ctx, m)
	defer func() { sent(span, err) }()
	p := &pending{ctx: ctx, msg: m, sent: time.Now(), done: make(chan result, 1)}
	size := int64(len(m.Data))
	if l.queued.Add(size) > maxQueueBytes {
		l.queued.Add(-size)
		return Ack{}, fault.Unreachable(Dependency, errors.New("append queue is full"))
	}
	select {
	case <-l.closed:
		l.queued.Add(-size)
		return Ack{}, fault.Unreachable(Dependency, errClosed)
	default:
	}
	select {
	case l.queue <- p:
	default:
		l.queued.Add(-size)
		return Ack{}, fault.Unreachable(Dependency, errors.New("append queue is full"))
	}
	select {
	case r := <-p.done:
		return l.answered(ctx, p, r)
	case <-l.ended:
		select {
		case r := <-p.done: // it was still in the last group
			return l.answered(ctx, p, r)
		default: // queued after the loop had looked for the last time
			return Ack{}, fault.Unreachable(Dependency, errClosed)
		}
	case <-ctx.Done():
		return Ack{}, fault.Unreachable(Dependency, ctx.Err())
	}
}

// sending begins the send span of a message (OpenTelemetry's messaging
// conventions); the message carries its context on.
func (l *Ledger) sending(ctx context.Context, m events.Message) (context.Context, trace.Span) {
	ctx, span := l.cfg.Tracer.Start(ctx, "send "+events.StreamLedger, trace.WithSpanKind(trace.SpanKindProducer))
	if span.IsRecording() {
		span.SetAttributes(semconv.MessagingSystemKey.String("nats"), semconv.MessagingOperationName("send"),
			semconv.MessagingOperationTypeSend, semconv.MessagingDestinationName(m.Subject), semconv.MessagingMessageID(m.ID))
	}
	return ctx, span
}

func sent(span trace.Span, err error) {
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, "not acknowledged")
	}
	span.End()
}

func (l *Ledger) answered(ctx context.Context, p *pending, r result) (Ack, error) {
	l.appendTime.Record(ctx, time.Since(p.sent).Seconds())
	if r.err != nil {
		return Ack{}, fault.Unreachable(Dependency, r.err)
	}
	return r.ack, nil
}

// appendLoop groups appends: while one group is in flight the next one gathers.
func (l *Ledger) appendLoop() {
	defer close(l.ended)
	group := make([]*pending, 0, maxGroup)
	for {
		select {
		case p := <-l.queue:
			group = append(group[:0], p)
		case <-l.closed:
			select {
			case p := <-l.queue: // what was queued before is still appended
				group = append(group[:0], p)
			default:
				return
			}
		}
		bytes := len(group[0].msg.Data)
	gather:
		for len(group) < maxGroup && bytes < maxGroupBytes {
			select {
			case p := <-l.queue:
				group = append(group, p)
				bytes += len(p.msg.Data)
			default:
				break gather
			}
		}
		l.queued.Add(-int64(bytes))
		l.appendGroup(group)
	}
}

func (l *Ledger) appendGroup(group []*pending) {
	msgs := make([]*nats.Msg, 0, len(group))
	live := group[:0]
	for _, p := range group {
		if err := p.ctx.Err(); err != nil { // the caller has answered already: do nothing
			p.done <- result{err: err}
			continue
		}
		live = append(live, p)
		msgs = append(msgs, newMsg(p.ctx, p.msg))
	}
	if len(live) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), l.cfg.AppendTimeout)
	defer cancel()
	l.groupSize.Record(ctx, int64(len(live)))
	for i, r := range l.publish(ctx, msgs) {
		live[i].done <- r
	}
}

// publish appends the messages in order: as one atomic batch when there are
// many, else one by one with all of them in flight.
func (l *Ledger) publish(ctx context.Context, msgs []*nats.Msg) []result {
	out := make([]result, len(msgs))
	if len(msgs) >= atomicFrom {
		ack, err := jetstreamext.PublishMsgBatch(ctx, l.js, msgs, jetstreamext.BatchFlowControl{AckTimeout: l.cfg.AppendTimeout})
		if err == nil {
			first := ack.Sequence - uint64(len(msgs)) + 1 // a batch is contiguous
			for i := range out {
				out[i].ack.Sequence = first + uint64(i)
			}
			return out
		}
		if !refusedBatch(err) {
			for i := range out {
				out[i].err = err
			}
			return out
		}
		// The server refused the batch as a whole, so nothing of it is stored;
		// it does so when one message is a duplicate. One by one tells which.
		for _, m := range msgs {
			m.Reply = ""
			m.Header.Del(jetstreamext.BatchIDHeader)
			m.Header.Del(jetstreamext.BatchSeqHeader)
			m.Header.Del(jetstreamext.BatchCommitHeader)
		}
	}
	l.publishEach(ctx, msgs, out)
	for wait := inProcessWait; ; wait *= 2 {
		var again []*nats.Msg
		var at []int
		for i, r := range out {
			if inProcess(r.err) {
				again, at = append(again, msgs[i]), append(at, i)
			}
		}
		if len(again) == 0 || !pause(ctx, wait) {
			return out
		}
		results := make([]result, len(again))
		l.publishEach(ctx, again, results)
		for i, r := range results {
			out[at[i]] = r
		}
	}
}

// publishEach appends the messages one by one with all of them in flight.
func (l *Ledger) publishEach(ctx context.Context, msgs []*nats.Msg, out []result) {
	futures := make([]jetstream.PubAckFuture, len(msgs))
	for i, m := range msgs {
		futures[i], out[i].err = l.js.PublishMsgAsync(m)
	}
	for i, f := range futures {
		if f == nil {
			continue
		}
		select {
		case ack := <-f.Ok():
			out[i].ack = Ack{Sequence: ack.Sequence, Duplicate: ack.Duplicate}
		case out[i].err = <-f.Err():
		case <-ctx.Done():
			out[i].err = ctx.Err()
		}
	}
}

// inProcessWait is the first pause before a message is sent again whose id a
// cluster is still replicating.
const inProcessWait = 2 * time.Millisecond

// codeInProcess is the server's JSStreamDuplicateMessageConflict: the same id
// was sent a moment ago and is not stored yet, so there is no sequence to tell.
const codeInProcess jetstream.ErrorCode = 10158

func inProcess(err error) bool {
	var e *jetstream.APIError
	return errors.As(err, &e) && e.ErrorCode == codeInProcess
}

// pause waits and reports whether ctx has not ended by then.
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

// refusedBatch reports whether the server said that it stored nothing of a
// batch for a reason that single publishes do not share. A batch is incomplete
// when the server would not open it because too many were open (only its first
// message is told so, and nobody waits for that), or when the connection was
// renewed within it.
func refusedBatch(err error) bool {
	return inProcess(err) ||
		errors.Is(err, jetstreamext.ErrBatchPublishDuplicateMsgID) ||
		errors.Is(err, jetstreamext.ErrBatchPublishIncomplete) ||
		errors.Is(err, jetstreamext.ErrBatchPublishTooManyInflight) ||
		errors.Is(err, jetstreamext.ErrAtomicPublishTooManyInflight) ||
		errors.Is(err, jetstreamext.ErrBatchPublishNotEnabled)
}

// AppendAll puts the messages on the ledger in order, in atomic batches of up
// to 256 where there are 16 or more, each message in the trace of its own
// context (ctxs has one for each, and is changed). A message whose id is there already is
// dropped. It returns when all are acknowledged, at the latest after
// Config.AppendTimeout; an error is fault.Unavailable and leaves open which are.
func (l *Ledger) AppendAll(ctx context.Context, ctxs []context.Context, all []events.Message) (err error) {
	spans := make([]trace.Span, len(all))
	for i, m := range all {
		ctxs[i], spans[i] = l.sending(ctxs[i], m)
	}
	defer func() {
		for _, span := range spans {
			sent(span, err)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, l.cfg.AppendTimeout)
	defer cancel()
	for start := 0; start < len(all); {
		var msgs []*nats.Msg
		for bytes := 0; start < len(all) && len(msgs) < maxGroup && bytes < maxGroupBytes; start++ {
			msgs = append(msgs, newMsg(ctxs[start], all[start]))
			bytes += len(all[start].Data)
		}
		for i, r := range l.publish(ctx, msgs) {
			if r.err != nil {
				return fault.Unreachable(Dependency, fmt.Errorf("append %s: %w", msgs[i].Header.Get(nats.MsgIdHdr), r.err))
			}
		}
	}
	return nil
}

func newMsg(ctx context.Context, m events.Message) *nats.Msg {
	h := nats.Header{
		nats.MsgIdHdr:          {m.ID},
		"Content-Type":         {events.ContentType},
		nats.ExpectedStreamHdr: {events.StreamLedger},
	}
	telemetry.Inject(ctx, h)
	return &nats.Msg{Subject: m.Subject, Header: h, Data: m.Data}
}

// Notify tells whoever waits on subject, without a record: core NATS. It never
// blocks; a listener that is gone hears nothing.
func (l *Ledger) Notify(subject string, data []byte) error {
	return l.nc.Publish(subject, data)
}

// Listen calls fn for each message on a core NATS subject until stop is called.
// fn must not block.
func (l *Ledger) Listen(subject string, fn func(data []byte)) (stop func(), err error) {
	sub, err := l.nc.Subscribe(subject, func(m *nats.Msg) { fn(m.Data) })
	if err != nil {
		return nil, fault.Unreachable(Dependency, err)
	}
	return func() { _ = sub.Unsubscribe() }, nil // the connection may be gone, and the subscription with it
}
