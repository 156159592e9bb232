package server

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/request"
)

type deadReplayInput struct {
	DeadPath
	Prefer string `header:"Prefer" doc:"wait=N: answer when the command is done, or after N seconds (RFC 7240; at most 30)" example:"wait=5"`
	Body   struct {
		Reason string `json:"reason" minLength:"1" maxLength:"500" doc:"Why; it stands in the decision"`
	}
}

type deadReplayOutput struct {
	Location string `header:"Location"`
	Body     Accepted
}

// replayDead gives a command that failed once more. Two decisions are recorded:
// that the caller may replay the letter, and in the new writ that the principal
// whose command it is may give it today. The caller is the second one's asker.
func (s *Server) replayDead(ctx context.Context, in *deadReplayInput) (*deadReplayOutput, error) {
	who := gate.CallerOf(ctx)
	o := &order{commandID: replayID(in.ID)}
	o.wait, o.waits = preferWait([]string{in.Prefer})
	l, err := s.findDead(ctx, who, in.ID)
	if fault.Is(err, fault.NotFound) {
		return s.replayedBefore(ctx, who, o, in)
	}
	if err != nil {
		return nil, err
	}
	if err := s.mayDead(ctx, who, l.resource(in.Body.Reason), actionReplay); err != nil {
		return nil, err
	}
	c, why := l.writ()
	if c == nil {
		return nil, fault.Conflict("not-replayable", "dead letter %s cannot be replayed: %s", l.ID, why)
	}
	if err := s.settled(ctx, l, c); err != nil {
		return nil, err
	}
	done, err := s.again(ctx, who, o, l, *c)
	if err != nil {
		return nil, err
	}
	if err := s.Ledger.Remove(ctx, l.Letter); err != nil {
		// The command is on the ledger. To replay the letter that stays is to give the same command: nothing.
		s.Log.WarnContext(ctx, "a replayed dead letter is still there", "id", l.ID, "command", done.ID, "error", err)
	}
	return replayed(done), nil
}

func replayed(c *command) *deadReplayOutput {
	return &deadReplayOutput{Location: "/v1/commands/" + c.ID, Body: c.accepted()}
}

// replayID derives the id of a letter's new command, so that the letter replayed
// twice, at once or after a crash, is one command: a UUIDv8 (RFC 9562, 5.8).
func replayID(letter string) string {
	return derivedID("writ replay of dead letter", letter)
}

// replayedBefore answers a replay of a letter that is gone because it was
// replayed: the client may not have had the answer.
func (s *Server) replayedBefore(ctx context.Context, who *gate.Caller, o *order, in *deadReplayInput) (*deadReplayOutput, error) {
	missing := s.noLetter(ctx, who, in.ID, in.Body.Reason, actionReplay)
	if !fault.Is(missing, fault.NotFound) {
		return nil, missing
	}
	c, err := s.findCommand(ctx, o.commandID)
	if err != nil || c.Tenant != who.Tenant {
		if fault.Is(err, fault.Unavailable) {
			return nil, err
		}
		return nil, missing
	}
	if c, err = s.await(ctx, o, c, nil); err != nil {
		return nil, err
	}
	return replayed(c), nil
}

// settled makes sure that the letter is about a message of the ledger that was
// not applied and will not be: whoever can write to NATS can bury a copy of a
// writ, and a worker that died between burying one and moving past it may still
// apply it.
func (s *Server) settled(ctx context.Context, l *letter, c *events.Command) error {
	not := fault.Conflict("not-replayable", "dead letter %s cannot be replayed: its message is not the ledger's", l.ID)
	last, err := s.Ledger.Last(ctx)
	if err != nil {
		return err
	}
	if l.Record.Address < 1 || events.SequenceOf(l.Record.Address) > last {
		return not
	}
	original, err := s.Ledger.Get(ctx, l.Record.Address)
	if err != nil {
		return err
	}
	if original.Subject != l.Record.Subject || !bytes.Equal(original.Data, l.Record.Data) {
		return not
	}
	row, err := s.Store.Command(ctx, c.ID)
	switch {
	case err == nil && row.Fingerprint == c.Fingerprint && row.Status == events.StatusApplied:
		return fault.Conflict("already-applied", "command %s was applied after all: discard the dead letter", c.ID)
	case err == nil && !row.Status.Final(): // queued for Stytch, say: its position moved on when it was
		return fault.Conflict("not-settled", "the worker is not done with the command of dead letter %s: try again", l.ID)
	case err == nil && row.Sequence == l.Record.Address && row.Status.Final():
		return nil
	case err != nil && !fault.Is(err, fault.NotFound):
		return err
	}
	positions, err := s.Store.Positions(ctx)
	if err != nil {
		return err
	}
	if positions[events.Shard(c.ResourceID, s.Ledger.Shards())] < l.Record.Address {
		return fault.Conflict("not-settled", "the worker is not done with the command of dead letter %s: try again", l.ID)
	}
	return nil
}

// again decides whether the principal whose command it is may give it today, and
// puts it on the ledger as a new one.
func (s *Server) again(ctx context.Context, who *gate.Caller, o *order, l *letter, c events.Command) (*command, error) {
	row, err := s.Store.Command(ctx, o.commandID)
	if err == nil {
		return s.await(ctx, o, fromRow(row), nil) // replayed before; only the letter stayed
	}
	if !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	if o.caller, err = s.onBehalf(ctx, c.PrincipalID, c.Tenant); err != nil {
		return nil, err
	}
	o.fingerprint, c.ReplyTo = c.Fingerprint, ""
	res, err := s.commandResource(ctx, l, &c)
	if err != nil {
		return nil, err
	}
	all, err := s.decide(ctx, o.caller, res, c.Action)
	if err != nil {
		return nil, err
	}
	d := all[0]
	d.Asker = who.ID
	if d.Effect != events.Allow {
		if err := s.record(ctx, d); err != nil {
			return nil, err
		}
		e := fault.New(fault.Denied, "denied", "the principal of the command may not %s this %s any more: %s", c.Action, c.Kind, reason(d))
		e.DecisionID = d.ID
		return nil, e
	}
	return s.submit(ctx, o, d, c)
}

// onBehalf makes a caller of the principal of an earlier command, as the
// directory knows them now; the request is the one in hand.
func (s *Server) onBehalf(ctx context.Context, id, tenant string) (*gate.Caller, error) {
	row, err := s.Store.Get(ctx, user.Kind, id)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	u, _ := row.Value.(*user.User) // nil: a guest
	return &gate.Caller{Principal: u.Principal(id, tenant, request.Info(ctx), time.Now()), Tenant: tenant, User: u}, nil
}

// commandResource gives what a command is about as it is now. Of kinds that the
// api does not serve it is what it was: the worker decides again if it has changed.
func (s *Server) commandResource(ctx context.Context, l *letter, c *events.Command) (events.Resource, error) {
	def, ok := s.kindNamed(c.Kind)
	if !ok {
		return l.event.Decision.Resource, nil
	}
	row, err := s.Store.Get(ctx, def, c.ResourceID)
	if err == nil && row.Tenant != c.Tenant {
		err = fault.Missing(c.Kind, c.ResourceID)
	}
	res := events.Resource{Kind: c.Kind, ID: c.ResourceID}
	if err == nil {
		res.Version = row.Version
	}
	switch {
	case fault.Is(err, fault.NotFound) && c.Action == kind.ActionCreate:
		if row, err = def.Create(c.ResourceID, c.Tenant, c.PrincipalID, c.Body, time.Now()); err != nil {
			return res, fault.Conflict("not-replayable", "dead letter %s cannot be replayed: %v", l.ID, err)
		}
		res.Attr = def.ChangeAttrs(row, c.Changes)
	case fault.Is(err, fault.NotFound):
		return res, fault.Conflict("not-replayable", "dead letter %s cannot be replayed: there is no %s %s any more", l.ID, c.Kind, c.ResourceID)
	case err != nil:
		return res, fmt.Errorf("load what dead letter %s is about: %w", l.ID, err)
	case c.Action == kind.ActionCreate:
		return res, fault.Conflict("already-exists", "%s %s exists already: discard the dead letter", c.Kind, c.ResourceID)
	case c.Action == kind.ActionUpdate:
		res.Attr = def.ChangeAttrs(row, c.Changes)
	default:
		res.Attr = def.Attrs(row)
	}
	return res, nil
}
