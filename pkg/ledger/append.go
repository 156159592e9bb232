package ledger

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/telemetry"
)

// Limits of the append queue. Past them an append fails at once.
const (
	maxQueue      = 4096     // appends
	maxQueueBytes = 64 << 20 // bytes
	maxGroup      = 1024     // events of one group: the messages that are in flight together
	maxGroupBytes = 8 << 20  // and their bytes
)

// gatherEvery is how far apart groups begin at most for the sake of their size: after
// one of several appends the next one waits that long since for as many, which then share
// what a message costs the server and all of its readers. After an append that was
// alone nobody waits.
const gatherEvery = 3 * time.Millisecond

// pending is an append that waits for its acknowledgement.
type pending struct {
	ctx  context.Context
	msgs []events.Message
	size int64
	sent time.Time
	done chan error // buffered: the loop never waits for a caller

	// Of the loop until done is told: the message that holds the first event,
	// where in it, and what went wrong.
	first *message
	index int
	err   error
}

// Append puts one event on the ledger and returns its address when the ledger
// has acknowledged it. Any error is fault.Unavailable; after one the event may or
// may not be on the ledger (a lost acknowledgement looks like a lost message),
// so the caller must not treat it as either.
func (l *Ledger) Append(ctx context.Context, m events.Message) (events.Address, error) {
	p := &pending{msgs: []events.Message{m}, size: int64(len(m.Data))}
	if err := l.append(ctx, p); err != nil {
		return 0, err
	}
	return events.At(p.first.sequence, p.index), nil
}

// AppendAll puts events on the ledger in order, as few messages: it returns when
// all are acknowledged. An error is fault.Unavailable and leaves open which are.
func (l *Ledger) AppendAll(ctx context.Context, all []events.Message) error {
	for len(all) > 0 {
		p := &pending{}
		for len(p.msgs) < maxGroup && len(p.msgs) < len(all) && p.size < maxGroupBytes {
			p.size += int64(len(all[len(p.msgs)].Data))
			p.msgs = all[:len(p.msgs)+1]
		}
		n := len(p.msgs)
		p.msgs = slices.Clone(p.msgs) // the caller's may be used again before the loop has looked
		if err := l.append(ctx, p); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

func (l *Ledger) append(ctx context.Context, p *pending) (err error) {
	ctx, span := l.sending(ctx, p.msgs)
	defer func() { sent(span, err) }()
	p.ctx, p.sent, p.done = ctx, time.Now(), make(chan error, 1)
	if trace := telemetry.TraceParent(ctx); trace != "" {
		for i := range p.msgs {
			p.msgs[i].Trace = trace
		}
	}
	if l.queued.Add(p.size) > maxQueueBytes {
		l.queued.Add(-p.size)
		return fault.Unreachable(Dependency, errors.New("append queue is full"))
	}
	select {
	case <-l.closed:
		l.queued.Add(-p.size)
		return fault.Unreachable(Dependency, errClosed)
	default:
	}
	select {
	case l.queue <- p:
	default:
		l.queued.Add(-p.size)
		return fault.Unreachable(Dependency, errors.New("append queue is full"))
	}
	select {
	case err := <-p.done:
		return l.answered(ctx, p, err)
	case <-l.ended:
		select {
		case err := <-p.done: // it was still in the last group
			return l.answered(ctx, p, err)
		default: // queued after the loop had looked for the last time
			return fault.Unreachable(Dependency, errClosed)
		}
	case <-ctx.Done():
		return fault.Unreachable(Dependency, ctx.Err())
	}
}

// sending begins the send span of an append (OpenTelemetry's messaging
// conventions); the events carry its context on.
func (l *Ledger) sending(ctx context.Context, msgs []events.Message) (context.Context, trace.Span) {
	ctx, span := l.cfg.Tracer.Start(ctx, "send "+events.StreamLedger, trace.WithSpanKind(trace.SpanKindProducer))
	if span.IsRecording() {
		span.SetAttributes(semconv.MessagingSystemKey.String("nats"), semconv.MessagingOperationName("send"),
			semconv.MessagingOperationTypeSend, semconv.MessagingDestinationName(l.subject(&msgs[0])))
		if len(msgs) == 1 {
			span.SetAttributes(semconv.MessagingMessageID(msgs[0].ID))
		} else {
			span.SetAttributes(semconv.MessagingBatchMessageCount(len(msgs)))
		}
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

func (l *Ledger) answered(ctx context.Context, p *pending, err error) error {
	l.appendTime.Record(ctx, time.Since(p.sent).Seconds())
	if err != nil {
		return fault.Unreachable(Dependency, err)
	}
	return nil
}

// subject is where an event goes.
func (l *Ledger) subject(m *events.Message) string {
	if m.Subject != "" {
		return m.Subject
	}
	return l.commandSubjects[events.Shard(m.Resource, l.cfg.Shards)]
}

// appendLoop groups appends: while one group is in flight the next one gathers.
func (l *Ledger) appendLoop() {
	defer close(l.ended)
	group := make([]*pending, 0, maxGroup)
	until := time.NewTimer(0)
	defer until.Stop()
	for {
		before := len(group)
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
		group = l.gather(group, before, until.C)
		until.Reset(gatherEvery)
		l.appendGroup(group)
		clear(group)
	}
}

// gather adds to a group what is queued, and until a time as many as there were before.
func (l *Ledger) gather(group []*pending, before int, until <-chan time.Time) []*pending {
	size, n := group[0].size, len(group[0].msgs)
	defer func() { l.queued.Add(-size) }()
	add := func(p *pending) {
		group = append(group, p)
		size += p.size
		n += len(p.msgs)
	}
	for n < maxGroup && size < maxGroupBytes {
		select {
		case p := <-l.queue:
			add(p)
			continue
		default:
		}
		if len(group) >= before {
			break
		}
		select {
		case p := <-l.queue:
			add(p)
		case <-until:
			before = 0
		case <-l.closed:
			before = 0
		}
	}
	return group
}

// message is one message of a group: events of several appends on one subject.
type message struct {
	subject  string
	events   []events.Message
	size     int
	appends  []*pending // that have events in it
	ack      jetstream.PubAckFuture
	sequence uint64
	err      error
}

// appendGroup puts what was gathered on the ledger: one message a subject, as
// long as it holds no more than 256 events and its size is allowed. All of them
// are in flight together; an append is done when each that it is part of is.
func (l *Ledger) appendGroup(group []*pending) {
	ctx, cancel := context.WithTimeout(context.Background(), l.cfg.AppendTimeout)
	defer cancel()
	all := l.compose(group)
	reconnects := l.reconnects()
	for _, m := range all {
		l.groupSize.Record(ctx, int64(len(m.events)))
		m.ack, m.err = l.js.PublishMsgAsync(newMsg(m.subject, m.events))
	}
	for _, m := range all {
		if m.err == nil {
			m.sequence, m.err = acknowledged(ctx, m.ack)
		}
		if m.err == nil {
			l.appended(m.sequence)
		} else {
			l.appendFailed(m.subject, m.events, m.size, reconnects, m.err)
		}
		for _, p := range m.appends {
			p.err = errors.Join(p.err, m.err)
		}
	}
	for _, p := range group {
		p.done <- p.err
	}
}

// compose makes the messages of a group, in the order in which they were begun.
func (l *Ledger) compose(group []*pending) (all []*message) {
	open := map[string]*message{}
	for _, p := range group {
		if p.err = p.ctx.Err(); p.err != nil { // the caller has answered already: do nothing
			continue
		}
		for i := range p.msgs {
			subject, size := l.subject(&p.msgs[i]), sizeOf(&p.msgs[i])
			m := open[subject]
			if m == nil || len(m.events) == events.MaxBatch || m.size+size > events.MaxBody {
				m = &message{subject: subject}
				open[subject], all = m, append(all, m)
			}
			if i == 0 {
				p.first, p.index = m, len(m.events)
			}
			if n := len(m.appends); n == 0 || m.appends[n-1] != p {
				m.appends = append(m.appends, p)
			}
			m.events, m.size = append(m.events, p.msgs[i]), m.size+size
		}
	}
	return all
}

// sizeOf is how much an event adds to a body at most.
func sizeOf(m *events.Message) int { return len(m.Data) + len(m.Trace) + 32 }

func acknowledged(ctx context.Context, ack jetstream.PubAckFuture) (sequence uint64, err error) {
	select {
	case a := <-ack.Ok():
		return a.Sequence, nil
	case err := <-ack.Err():
		return 0, err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func newMsg(subject string, all []events.Message) *nats.Msg {
	body, lengths := events.Join(all)
	return &nats.Msg{Subject: subject, Data: body, Header: nats.Header{
		"Content-Type":         {events.BatchContentType},
		nats.ExpectedStreamHdr: {events.StreamLedger},
		events.HeaderLengths:   {lengths},
	}}
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
