package apply

import (
	"context"
	"fmt"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/telemetry"
	"github.com/writ-project/writ/services/worker/internal/command"
)

// publish puts second decisions and outcomes on the ledger as one atomic batch
// and then tells those who wait.
func (l *Loop) publish(ctx context.Context, results []*resultOf) error {
	msgs := make([]events.Message, 0, len(results))
	ctxs := make([]context.Context, 0, len(results))
	for _, r := range results {
		if r.it.recorded != nil {
			continue // it is on the ledger
		}
		more, err := command.Encode(l.keys, r.second, r.raw, &r.made, r.row.Outcome)
		if err != nil {
			return err
		}
		for range more {
			ctxs = append(ctxs, r.it.ctx)
		}
		msgs = append(msgs, more...)
	}
	if err := l.ledger.AppendAll(ctx, ctxs, msgs); err != nil {
		return fmt.Errorf("publish %d outcomes: %w", len(results), err)
	}
	for _, r := range results {
		command.Notify(ctx, l.ledger, l.log, r.it.event.Command.ReplyTo, r.row)
	}
	return nil
}

// republishAfter is the age from which a repeated outcome is looked for on the
// ledger first: JetStream may have forgotten its id by then.
const republishAfter = ledger.DedupWindow / 2

// republish publishes the recorded outcomes of commands that were delivered
// again although they had been applied: their worker died, or lost the ledger,
// before it acknowledged them.
func (l *Loop) republish(ctx context.Context, repeats []ledger.Delivery) error {
	if len(repeats) == 0 {
		return nil
	}
	ids := make([]string, 0, len(repeats))
	traces := map[string]context.Context{}
	first := repeats[0].Sequence
	for _, d := range repeats {
		first = min(first, d.Sequence)
		e, err := events.Parse(d.Data)
		if err != nil || e.Type != events.TypeWrit || e.Verify(l.keys, d.Subject) != nil {
			continue // it was a dead letter
		}
		ids = append(ids, e.Command.ID)
		traces[e.Command.ID] = telemetry.Extract(context.Background(), d.Header)
	}
	var rows map[string]store.Command
	if err := l.store.Update(ctx, func(ctx context.Context, tx *store.Tx) (err error) {
		rows, err = tx.Commands(ctx, ids)
		return err
	}); err != nil {
		return err
	}
	var msgs []events.Message
	var ctxs []context.Context
	old := map[string]bool{}
	for id, row := range rows {
		if !row.Status.Final() {
			continue // it is queued: its outcome is the role worker's to publish
		}
		more, err := command.Messages(l.keys, row)
		if err != nil {
			return err
		}
		for _, m := range more {
			msgs, ctxs = append(msgs, m), append(ctxs, traces[id])
			if time.Since(row.At) > republishAfter {
				old[m.ID] = true
			}
		}
	}
	there, err := l.ledger.Contains(ctx, first, []string{events.AllDecisions, events.AllOutcomes}, old)
	if err != nil {
		return err
	}
	missing, of := msgs[:0], ctxs[:0]
	for i, m := range msgs {
		if !there[m.ID] {
			missing, of = append(missing, m), append(of, ctxs[i])
		}
	}
	return l.ledger.AppendAll(ctx, of, missing)
}
