package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
)

// reading is what the ledger says of the measured time.
type reading struct {
	writs    int64
	requests int64 // decisions taken for requests, beside those in writs
	again    int64 // decisions taken again by the worker
	outcomes map[events.Status]int64
	applied  *hdrhistogram.Histogram
	pending  int64 // writs without an outcome
}

// readLedger reads the ledger from one sequence to another.
//
// From accepted to applied is measured as the time between two messages that the ledger stored: the writ's and its
// outcome's. Both stamps are the ledger's own clock, so the load generator's scheduling is not in them. The writ is stored
// just before the answer leaves and the outcome after the commit, so the effect was visible earlier than that: it is
// an upper bound. It is read when the load is over, so the reading costs the stack nothing while it is measured.
func readLedger(ctx context.Context, nc *nats.Conn, from, to uint64) (*reading, error) {
	r := &reading{outcomes: map[events.Status]int64{}, applied: newHistogram()}
	if from > to {
		return r, nil
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	consumer, err := js.OrderedConsumer(ctx, events.StreamLedger, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
	})
	if err != nil {
		return nil, err
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(1000))
	if err != nil {
		return nil, err
	}
	defer messages.Stop()
	accepted := map[events.Address]time.Time{}
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, err
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, err
		}
		parts, err := events.Split(m.Data(), m.Headers().Get(events.HeaderLengths))
		if err != nil {
			return nil, fmt.Errorf("message %d on %s: %w", meta.Sequence.Stream, m.Subject(), err)
		}
		for i, data := range parts {
			address := events.At(meta.Sequence.Stream, i)
			if err := r.take(data, address, meta.Timestamp, accepted); err != nil {
				return nil, fmt.Errorf("event %d on %s: %w", address, m.Subject(), err)
			}
		}
		if meta.Sequence.Stream >= to {
			break
		}
	}
	r.pending = int64(len(accepted))
	return r, nil
}

func (r *reading) take(data []byte, address events.Address, stored time.Time, accepted map[events.Address]time.Time) error {
	e, err := events.Parse(data)
	if err != nil {
		return err
	}
	switch {
	case e.Type == events.TypeWrit && e.Command.Kind == "contact":
		r.writs++
		accepted[address] = stored
	case e.Type == events.TypeDecision && e.Decision.Stage == events.StageApply:
		r.again++
	case e.Type == events.TypeDecision && e.Decision.Resource.Kind == "contact":
		r.requests++
	case e.Type == events.TypeOutcome:
		at, ok := accepted[e.Outcome.Sequence]
		if !ok {
			return nil // of a command from before, or of a token's renewal
		}
		r.outcomes[e.Outcome.Status]++
		record(r.applied, stored.Sub(at))
		delete(accepted, e.Outcome.Sequence)
	}
	return nil
}

// measurement is everything that one run found out.
type measurement struct {
	warm, load    *result
	before, after observation
	ledger        *reading // nil when the ledger cannot be reached
}

// verdict is an error when the run saw something that must not be.
func (m *measurement) verdict() error {
	var wrong []string
	for _, r := range []*result{m.warm, m.load} {
		for op := range operations {
			for status, n := range r.statuses[op] {
				if status != expected[op] {
					wrong = append(wrong, fmt.Sprintf("%d × %s answered %d", n, names[op], status))
				}
			}
		}
		if r.problem != "" {
			wrong = append(wrong, "first: "+r.problem)
		}
	}
	if l := m.ledger; l != nil {
		for status, n := range l.outcomes {
			if status != events.StatusApplied {
				wrong = append(wrong, fmt.Sprintf("%d commands ended %s", n, status))
			}
		}
		if l.pending > 0 {
			wrong = append(wrong, fmt.Sprintf("%d accepted commands have no outcome", l.pending))
		}
		if have, want := l.writs+l.requests, m.load.requests(); have != want {
			wrong = append(wrong, fmt.Sprintf("%d requests left %d events on the ledger, not one each", want, have))
		}
		if l.writs != m.load.commands() {
			wrong = append(wrong, fmt.Sprintf("%d commands were accepted, %d are on the ledger", m.load.commands(), l.writs))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("unexpected: %s", strings.Join(wrong, "; "))
	}
	return nil
}
