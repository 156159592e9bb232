package apply

import (
	"context"
	"fmt"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/services/worker/internal/command"
)

// publish puts second decisions and outcomes on the ledger as one message and
// then tells those who wait.
func (s *shard) publish(ctx context.Context, results []*resultOf) error {
	answers := make([]ledger.Answer, 0, len(results))
	for _, r := range results {
		if r.it.recorded != nil {
			continue // it is on the ledger
		}
		all, err := command.Encode(s.keys, r.second, r.raw, &r.made, r.row.Outcome)
		if err != nil {
			return err
		}
		answers = append(answers, answer(r.it.Address, r.it.trace(), all))
	}
	if err := s.append(ctx, answers); err != nil {
		return err
	}
	for _, r := range results {
		command.Notify(ctx, s.ledger, s.log, r.it.event.Command.ReplyTo, r.row)
	}
	return nil
}

func answer(to events.Address, trace string, all []events.Message) ledger.Answer {
	for i := range all {
		all[i].Trace = trace
	}
	return ledger.Answer{Command: to, Events: all}
}

func (s *shard) append(ctx context.Context, answers []ledger.Answer) error {
	last, err := s.ledger.AppendOutcomes(ctx, events.OutcomeSubject(s.number), s.outcomes, answers)
	if err != nil {
		return fmt.Errorf("publish %d outcomes: %w", len(answers), err)
	}
	s.outcomes = last
	return nil
}

// republish publishes the recorded outcomes of the commands that were applied
// and not answered: their worker died, or lost the ledger, in between.
func (s *shard) republish(ctx context.Context) error {
	for from := s.outcomes.Answered + 1; from <= s.position; {
		records, err := s.ledger.Commands(ctx, s.number, from, s.position, maxBatch)
		if err != nil || len(records) == 0 {
			return err
		}
		from = records[len(records)-1].Address + 1
		if err := s.tell(ctx, records); err != nil {
			return err
		}
	}
	return nil
}

// tell publishes what SQL has of some commands that were applied.
func (s *shard) tell(ctx context.Context, records []ledger.Record) error {
	var ids []string
	told := map[events.Address]*events.Event{}
	for _, r := range records {
		e, err := command.Read(s.keys, r, s.ledger.Shards())
		if err != nil {
			continue // it was a dead letter
		}
		ids, told[r.Address] = append(ids, e.Command.ID), e
	}
	var rows map[string]store.Command
	if err := s.store.Update(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		rows, err = tx.Commands(ctx, ids)
		return err
	}); err != nil {
		return err
	}
	there, err := s.toldAlready(ctx, records[0].Address, ids)
	if err != nil {
		return err
	}
	var answers []ledger.Answer
	for _, r := range records {
		e := told[r.Address]
		if e == nil {
			continue
		}
		row, ok := rows[e.Command.ID]
		if !ok || !row.Status.Final() || row.Queued || row.Sequence != r.Address || there(e.Command.ID) {
			continue // the role worker's to publish, answered where it came first, or there
		}
		all, err := command.Messages(s.keys, row)
		if err != nil {
			return err
		}
		answers = append(answers, answer(r.Address, e.Trace, all))
	}
	if err := s.append(ctx, answers); err != nil {
		return err
	}
	for _, e := range told {
		if row, ok := rows[e.Command.ID]; ok && row.Status.Final() {
			command.Notify(ctx, s.ledger, s.log, e.Command.ReplyTo, row)
		}
	}
	return nil
}

// toldAlready looks for outcomes of commands on the ledger. The header that tells
// up to where they stand there is not sealed: one that was forged too low must
// not have them published twice.
func (s *shard) toldAlready(ctx context.Context, from events.Address, commands []string) (func(command string) bool, error) {
	ids := make(map[string]bool, len(commands))
	for _, id := range commands {
		ids[events.OutcomeID(id)] = true
	}
	found, err := s.ledger.Find(ctx, from, []string{events.OutcomeSubject(s.number)}, ids)
	if err != nil {
		return nil, fmt.Errorf("look for %d outcomes: %w", len(ids), err)
	}
	return func(command string) bool {
		r, ok := found[events.OutcomeID(command)]
		if !ok {
			return false
		}
		e, err := events.Parse(r.Data)
		return err == nil && e.Verify(s.keys, r.Subject) == nil
	}, nil
}
