package server

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/problem"
)

// streamStep is how many entries a stream has in memory.
const streamStep = 64

func (s *Server) registerStream() {
	registerStreamed(s, huma.Operation{
		OperationID: "stream-decisions", Path: "/v1/decisions/stream", Summary: "Follow decisions as they are recorded (server-sent events)",
		Description: "Roles auditor and admin. Events are called decision and hold what a list's items hold. Without Last-Event-ID and from it begins now. " +
			"Last-Event-ID goes on behind that event: none is missed and none comes twice. A comment comes at least every 15 s, with the id of the last decision " +
			"that was looked at. An event called end tells why the stream ends, as a problem: the session has ended (session JWTs last 5 minutes), " +
			"the permission is gone or could not be asked about again, the service stops. A client that does not read is cut off. Come back with Last-Event-ID.",
		Errors: []int{http.StatusForbidden, http.StatusGone, http.StatusTooManyRequests},
		Responses: map[string]*huma.Response{"200": {
			Description: "Events until either side ends it", Content: map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString}}},
			Headers: map[string]*huma.Header{"Cache-Control": {Required: true, Schema: &huma.Schema{Type: huma.TypeString}}},
		}},
	}, s.stream)
}

type streamInput struct {
	Filter
	LastEventID string `header:"Last-Event-ID" maxLength:"64" doc:"The id of the last event that was received"`
}

// follower is one stream.
type follower struct {
	*Server
	filter *Filter
	caller *gate.Caller
	seen   *events.Decision // that permits it: the latest one recorded
	index  int64            // of the last entry looked at, -1 if that is not known
	span   audit.Span
	at     audit.ID // the last entry looked at
	told   audit.ID // the last id that the client has
	out    *sink
}

func (s *Server) stream(ctx context.Context, in *streamInput) (*huma.StreamResponse, error) {
	c := gate.CallerOf(ctx)
	leave, err := s.streams.take(c.ID)
	if err != nil {
		return nil, err
	}
	f := &follower{Server: s, filter: &in.Filter, caller: c, index: -1, span: in.span()}
	f.span.Limit = streamStep
	if err := f.open(ctx, in); err != nil {
		leave()
		return nil, err
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		defer leave()
		r, w := humachi.Unwrap(hc)
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Accel-Buffering", "no") // nginx would wait for more
		w.WriteHeader(http.StatusOK)
		if r.Method == http.MethodHead {
			return
		}
		f.out = newSink(w, s.limits.write)
		if err := f.follow(r.Context()); err != nil {
			f.end(r.Context(), err)
		}
	}}, nil
}

// open decides about the stream, records the decision and finds its beginning.
func (f *follower) open(ctx context.Context, in *streamInput) (err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var from audit.ID
	if in.LastEventID != "" {
		if from, err = audit.ParseID(in.LastEventID); err != nil || from == (audit.ID{}) {
			return fault.InvalidField("header.Last-Event-ID", "want the id of an event")
		}
	}
	if !in.To.IsZero() {
		return fault.InvalidField("query.to", "a stream goes on")
	}
	if in.Tenant != "" && in.Tenant != f.caller.Tenant {
		return f.ofAnotherTenant(ctx, f.caller, actionStream)
	}
	// Before the decision is recorded, so that the stream begins with it.
	state, err := f.Audit.State(ctx)
	if err != nil {
		return err
	}
	if f.seen, err = f.permit(ctx, f.caller, about(wholeLog, f.caller.Tenant, in.Principal), actionStream); err != nil {
		return err
	}
	if in.LastEventID != "" {
		if err := f.known(ctx, from.Sequence); err != nil {
			return err
		}
		return f.resume(ctx, from)
	}
	if in.From.IsZero() {
		f.span = after(f.span, state.Decisions.Last)
	}
	return nil
}

// known reports an error for an id that no event has yet: neither the log has
// come to it nor, while Redis is filled again and behind what clients have seen,
// the ledger.
func (f *follower) known(ctx context.Context, address events.Address) error {
	state, err := f.Audit.State(ctx)
	if err != nil || address <= state.Sequence {
		return err
	}
	last, err := f.Ledger.Last(ctx)
	if err == nil && events.SequenceOf(address) > last {
		err = fault.InvalidField("header.Last-Event-ID", "no event has this id yet")
	}
	return err
}

// resume goes on behind an entry. It reports audit.ErrTrimmed when some of what
// came after it may be gone.
func (f *follower) resume(ctx context.Context, from audit.ID) error {
	f.span, f.told = after(f.span, from), from
	e, err := f.Audit.ByAddress(ctx, audit.Decisions, from.Sequence)
	if err == nil && e.ID == from {
		f.index = e.Index
		return nil
	}
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	first, done, err := f.step(ctx, audit.Span{To: audit.MaxID, Limit: 1})
	if err != nil {
		return err
	}
	defer done()
	if len(first) == 1 && first[0].Index > 0 && from.Less(first[0].ID) {
		return audit.ErrTrimmed
	}
	return nil
}

// follow sends what there is and waits for more, until the client is gone
// (nil) or there is a reason to end.
func (f *follower) follow(ctx context.Context) error {
	leave := f.watch.follow()
	defer leave()
	recheck, beat := time.NewTicker(f.limits.recheck), time.NewTicker(f.limits.beat)
	defer recheck.Stop()
	defer beat.Stop()
	if f.out.text("retry: 1000\n\n") != nil || f.out.flush() != nil {
		return nil
	}
	for {
		moved := f.watch.next()
		more, err := f.send(ctx)
		if err != nil {
			return err
		}
		wait := moved
		if more {
			wait = closed
		}
		select {
		case <-f.Stopping:
			return problem.New(http.StatusServiceUnavailable, "stopping", "The service stops: come back")
		case <-recheck.C:
			if f.caller, f.seen, err = f.again(ctx, f.caller, f.seen); err != nil {
				return err
			}
			continue
		default:
		}
		select {
		case <-wait:
		case <-recheck.C:
			if f.caller, f.seen, err = f.again(ctx, f.caller, f.seen); err != nil {
				return err
			}
		case <-beat.C:
			if f.heartbeat() != nil {
				return nil
			}
		case <-f.Stopping:
			return problem.New(http.StatusServiceUnavailable, "stopping", "The service stops: come back")
		case <-ctx.Done():
			return nil
		}
	}
}

// closed is a channel that never makes anybody wait.
var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// send sends one step of the log; more says that there may be another one.
func (f *follower) send(ctx context.Context) (more bool, err error) {
	entries, done, err := f.step(ctx, f.span)
	if err != nil {
		return false, err
	}
	done()
	for _, e := range entries {
		if f.index >= 0 && e.Index != f.index+1 {
			return false, audit.ErrTrimmed // or the log was filled anew from a later beginning
		}
		f.index, f.at = e.Index, e.ID
		f.span = after(f.span, e.ID)
		g, ok := glanceAt(e.Record)
		if !ok || !f.filter.fits(g, f.caller.Tenant) {
			continue
		}
		if err := f.out.event(e.ID.String(), "decision", entryOf(e)); err != nil {
			return false, errGone
		}
		f.told = e.ID
	}
	if len(entries) > 0 && f.out.flush() != nil {
		return false, errGone
	}
	return len(entries) == streamStep, nil
}

// heartbeat says that the stream lives and, by an id without an event, how far
// it has looked: a client that comes back with it need not wait while the same
// entries are passed over again.
func (f *follower) heartbeat() error {
	text := ": alive\n\n"
	if f.told.Less(f.at) {
		text, f.told = ": alive\nid: "+f.at.String()+"\n\n", f.at
	}
	if err := f.out.text(text); err != nil {
		return err
	}
	return f.out.flush()
}

// end tells the client why the stream ends. What cannot be written any more is
// cut off by the end of the connection.
func (f *follower) end(ctx context.Context, err error) {
	if err == errGone || ctx.Err() != nil { //nolint:errorlint // never wrapped
		return
	}
	if f.out.event("", "end", f.problem(ctx, err)) == nil {
		_ = f.out.flush()
	}
}
