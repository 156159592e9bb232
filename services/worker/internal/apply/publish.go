package apply

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/telemetry"
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
		more, err := l.encode(r.second, r.raw, &r.made, r.row.Outcome)
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
		l.notify(ctx, r)
	}
	return nil
}

// messages makes the ledger's messages of a command that is done, from what
// SQL has of it: the same bytes and ids whenever it is called.
func (l *Loop) messages(row store.Command) ([]events.Message, error) {
	var second events.Decision
	if len(row.Apply) > 0 {
		if err := json.Unmarshal(row.Apply, &second); err != nil {
			return nil, fmt.Errorf("read the second decision of command %s: %w", row.ID, err)
		}
	}
	var o events.Outcome
	if err := json.Unmarshal(row.Outcome, &o); err != nil {
		return nil, fmt.Errorf("read the outcome of command %s: %w", row.ID, err)
	}
	return l.encode(&second, row.Apply, &o, row.Outcome)
}

// encode makes the messages of an outcome and, if there is one, of the second
// decision before it.
func (l *Loop) encode(second *events.Decision, rawSecond []byte, o *events.Outcome, raw []byte) ([]events.Message, error) {
	out := make([]events.Message, 0, 2)
	if len(rawSecond) > 0 {
		m, err := events.DecisionMessage(l.keys, second, rawSecond)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	m, err := events.OutcomeMessage(l.keys, o, raw)
	return append(out, m), err
}

func (l *Loop) notify(ctx context.Context, r *resultOf) {
	to := r.it.event.Command.ReplyTo
	if to == "" {
		return
	}
	n := events.Notice{CommandID: r.row.ID, Status: r.row.Status, Code: r.row.Code, Reason: r.row.Reason, Version: r.row.Version,
		Attempts: r.row.Attempts, DecisionID: r.row.DecisionID, Result: r.row.Result, At: r.row.At}
	data, err := json.Marshal(n)
	if err == nil {
		err = l.ledger.Notify(to, data)
	}
	if err != nil { // the api finds the row in commands
		l.log.DebugContext(ctx, "nobody was told of an outcome", "command", r.row.ID, "error", err)
	}
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
		more, err := l.messages(row)
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
