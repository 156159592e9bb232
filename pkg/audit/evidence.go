package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// EvidenceFormat names the format of evidence files.
const EvidenceFormat = "writ-evidence/1"

// ErrNotYet means that an entry is newer than the latest checkpoint, of which
// there is one every second: ask again.
var ErrNotYet = errors.New("no checkpoint covers the entry yet")

// Evidence is one decision, or one whole mutation, and the proof that it was
// recorded: what writ audit prove writes and writ audit check reads. With the
// log's public key it is checked without any of writ's services.
type Evidence struct {
	Format string `json:"format"` // EvidenceFormat
	// Decisions are the decision that the request got and, where it had gone
	// stale, the one that the command was applied (or rejected) by.
	Decisions []Proven `json:"decisions"`
	// Outcome is what became of the command: absent without a command, or while
	// it is not applied.
	Outcome *Proven `json:"outcome,omitempty"`
	// Checkpoints are signed notes, by log.
	Checkpoints map[Log]string `json:"checkpoints"`
}

// Proven is an entry with the proof that it is in its log's checkpoint.
type Proven struct {
	ID     string `json:"id"`     // <ms>-<ledger address>
	Record string `json:"record"` // the exact bytes
	Seal   string `json:"seal"`   // kid.mac
	Proof  Proof  `json:"proof"`
}

// Evidence collects the evidence of a decision and, if it is about a command,
// of the whole mutation. It reports fault.NotFound, ErrNotYet and ErrNoCheckpoint.
func (r *Reader) Evidence(ctx context.Context, decisionID string) (*Evidence, error) {
	decisions, outcome, err := r.mutation(ctx, decisionID)
	if err != nil {
		return nil, err
	}
	signed, err := r.Checkpoints(ctx)
	if err != nil {
		return nil, err
	}
	ev := &Evidence{Format: EvidenceFormat, Checkpoints: map[Log]string{}}
	for _, e := range append(decisions, outcome...) {
		c, err := ParseCheckpoint(signed.Of(e.Log))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if e.Index >= c.Tree.N {
			return nil, fmt.Errorf("%s %s: %w", e.Log.Field(), e.ID, ErrNotYet)
		}
		proof, err := Prove(ctx, r, e.Log, c.Tree, e.Index)
		if err != nil {
			return nil, err
		}
		if err := proof.Check(c.Tree, e.Record); err != nil {
			return nil, fmt.Errorf("%w: entry %s of %s: %w", ErrDamaged, e.ID, e.Log, err)
		}
		p := Proven{ID: e.ID.String(), Record: string(e.Record), Seal: e.Seal, Proof: proof}
		ev.Checkpoints[e.Log] = string(c.Note)
		if e.Log == Outcomes {
			ev.Outcome = &p
		} else {
			ev.Decisions = append(ev.Decisions, p)
		}
	}
	return ev, nil
}

// mutation gives a decision's entry and those that belong to it: the decision
// that the request got first, and the outcome or none.
func (r *Reader) mutation(ctx context.Context, id string) (decisions, outcome []Entry, err error) {
	e, err := r.Get(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	var d events.Decision
	if err := json.Unmarshal(e.Record, &d); err != nil {
		return nil, nil, fmt.Errorf("%w: entry %s: %w", ErrDamaged, e.ID, err)
	}
	decisions = []Entry{e}
	if d.Command == nil {
		return decisions, nil, nil
	}
	var o Entry
	if d.Stage == events.StageApply {
		o, err = r.OutcomeActingOn(ctx, id)
	} else {
		o, err = r.OutcomeOf(ctx, e.ID.Sequence)
	}
	if fault.Is(err, fault.NotFound) {
		return decisions, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var out events.Outcome
	if err := json.Unmarshal(o.Record, &out); err != nil {
		return nil, nil, fmt.Errorf("%w: entry %s: %w", ErrDamaged, o.ID, err)
	}
	switch {
	case d.Stage == events.StageApply:
		first, err := r.ByAddress(ctx, Decisions, out.Sequence)
		if err != nil {
			return nil, nil, err
		}
		decisions = []Entry{first, e}
	case out.DecisionID != id:
		again, err := r.Get(ctx, out.DecisionID)
		if err != nil {
			return nil, nil, err
		}
		decisions = append(decisions, again)
	}
	return decisions, []Entry{o}, nil
}

// Checked is what evidence proves.
type Checked struct {
	Decision events.Decision
	// Again is the decision that was taken again when the first had gone stale.
	Again *events.Decision
	// Outcome is what became of the command.
	Outcome     *events.Outcome
	Checkpoints map[Log]Checkpoint
}

// Check checks evidence with nothing but the log's public key: the checkpoints'
// signatures, that every record is in them, and that the records belong
// together. Seals are not checked: that takes writ's own keys.
func (ev *Evidence) Check(key PublicKey) (*Checked, error) {
	if ev.Format != EvidenceFormat {
		return nil, fmt.Errorf("evidence of the format %q, want %q", ev.Format, EvidenceFormat)
	}
	if len(ev.Decisions) < 1 || len(ev.Decisions) > 2 {
		return nil, fmt.Errorf("evidence of %d decisions, want 1 or 2", len(ev.Decisions))
	}
	c := &Checked{Checkpoints: map[Log]Checkpoint{}}
	if err := ev.proven(key, c, Decisions, "decision", &ev.Decisions[0], &c.Decision); err != nil {
		return nil, err
	}
	if len(ev.Decisions) == 2 {
		c.Again = &events.Decision{}
		if err := ev.proven(key, c, Decisions, "second decision", &ev.Decisions[1], c.Again); err != nil {
			return nil, err
		}
	}
	if ev.Outcome != nil {
		c.Outcome = &events.Outcome{}
		if err := ev.proven(key, c, Outcomes, "outcome", ev.Outcome, c.Outcome); err != nil {
			return nil, err
		}
	}
	return c, ev.belong(c)
}

// proven checks one record's proof and reads it.
func (ev *Evidence) proven(key PublicKey, c *Checked, l Log, what string, p *Proven, into any) error {
	cp, err := key.Open(l, []byte(ev.Checkpoints[l]))
	if err != nil {
		return fmt.Errorf("checkpoint of %s: %w", l, err)
	}
	c.Checkpoints[l] = cp
	if err := p.Proof.Check(cp.Tree, []byte(p.Record)); err != nil {
		return fmt.Errorf("the %s is not in the checkpoint: %w", what, err)
	}
	if err := json.Unmarshal([]byte(p.Record), into); err != nil {
		return fmt.Errorf("the %s cannot be read: %w", what, err)
	}
	return nil
}

// belong checks that the records are about one mutation.
func (ev *Evidence) belong(c *Checked) error {
	d, last := &c.Decision, &c.Decision
	differ := func(what string) error { return fmt.Errorf("the records do not belong together: %s", what) }
	if a := c.Again; a != nil {
		switch {
		case d.Command == nil || a.Command == nil || d.Stage != events.StageRequest || a.Stage != events.StageApply:
			return differ("the second decision is not about the first one's command")
		case a.Command.ID != d.Command.ID || a.Command.SHA256 != d.Command.SHA256:
			return differ("the decisions are about two commands")
		case a.Tenant != d.Tenant || a.Resource.Kind != d.Resource.Kind || a.Resource.ID != d.Resource.ID || a.Action != d.Action || a.Principal.ID != d.Principal.ID:
			return differ("the decisions are about different acts")
		}
		last = a
	}
	o := c.Outcome
	if o == nil {
		return nil
	}
	id, err := ParseID(ev.Decisions[0].ID)
	switch {
	case err != nil:
		return differ(err.Error())
	case d.Command == nil || o.CommandID != d.Command.ID:
		return differ("the outcome is another command's")
	case o.Tenant != d.Tenant || o.Kind != d.Resource.Kind || o.ResourceID != d.Resource.ID || o.Action != d.Action:
		return differ("the outcome is another act's")
	case o.DecisionID != last.ID:
		return differ("the outcome was acted on by another decision")
	case o.Sequence != id.Sequence:
		return differ("the command's ledger address is not the decision's")
	}
	return nil
}
