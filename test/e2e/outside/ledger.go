package outside

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
)

// readTimeout bounds reading the whole ledger.
const readTimeout = time.Minute

// Record is one event of the ledger.
type Record struct {
	Address events.Address
	Subject string
	Time    time.Time // when its message was stored
	Event   *events.Event
}

// Audited is the part of the event that goes into the audit log: the exact bytes, and in which stream.
func (r Record) Audited() (stream, field string, raw []byte) {
	if r.Event.Type == events.TypeOutcome {
		return Outcomes, "outcome", r.Event.RawOutcome
	}
	return Decisions, "decision", r.Event.RawDecision
}

// Last is the sequence of the last message of a stream.
func Last(t testing.TB, url, stream string) uint64 {
	t.Helper()
	var last uint64
	withStream(t, url, stream, func(ctx context.Context, s jetstream.Stream) error {
		info, err := s.Info(ctx)
		if err == nil {
			last = info.State.LastSeq
		}
		return err
	})
	return last
}

// Ledger reads the events of the ledger from its first message to the one that is the last at the moment. A message that
// is not a batch of events, an event whose id was there before, or a gap in the sequence fails the test. There again
// may be a command, under an idempotency key and with another decision, and what two auditors say.
func Ledger(t testing.TB, url string) []Record {
	t.Helper()
	return LedgerAfter(t, url, 0)
}

// LedgerAfter is Ledger for the events behind an address.
func LedgerAfter(t testing.TB, url string, after events.Address) []Record {
	t.Helper()
	var all []Record
	withStream(t, url, events.StreamLedger, func(ctx context.Context, s jetstream.Stream) error {
		info, err := s.Info(ctx)
		if err != nil || info.State.LastSeq == 0 {
			return err
		}
		consumer, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
		if err != nil {
			return err
		}
		messages, err := consumer.Messages()
		if err != nil {
			return err
		}
		defer messages.Stop()
		seen := ids{}
		for next := uint64(1); ; next++ {
			m, err := messages.Next(jetstream.NextContext(ctx))
			if err != nil {
				return fmt.Errorf("after %d of %d messages: %w", next-1, info.State.LastSeq, err)
			}
			batch, err := records(m, next)
			if err != nil {
				return err
			}
			for _, r := range batch {
				if r.Address <= after {
					continue
				}
				if err := seen.add(r); err != nil {
					return err
				}
				all = append(all, r)
			}
			if next >= info.State.LastSeq {
				return nil
			}
		}
	})
	return all
}

// records splits the message that must have a sequence into its events.
func records(m jetstream.Msg, sequence uint64) ([]Record, error) {
	meta, err := m.Metadata()
	if err != nil {
		return nil, err
	}
	if meta.Sequence.Stream != sequence {
		return nil, fmt.Errorf("message %d where %d was expected", meta.Sequence.Stream, sequence)
	}
	if kind := m.Headers().Get("Content-Type"); kind != events.BatchContentType {
		return nil, fmt.Errorf("message %d on %s is %q", sequence, m.Subject(), kind)
	}
	parts, err := events.Split(m.Data(), m.Headers().Get(events.HeaderLengths))
	if err != nil {
		return nil, fmt.Errorf("message %d on %s: %w", sequence, m.Subject(), err)
	}
	all := make([]Record, len(parts))
	for i, data := range parts {
		r := Record{Address: events.At(sequence, i), Subject: m.Subject(), Time: meta.Timestamp}
		if r.Event, err = events.Parse(data); err != nil {
			return nil, fmt.Errorf("event %d on %s: %w", r.Address, r.Subject, err)
		}
		if strings.HasPrefix(r.Subject, "writ.cmd.") != (r.Event.Type == events.TypeWrit) {
			return nil, fmt.Errorf("event %d: a %s on %s", r.Address, r.Event.Type, r.Subject)
		}
		all[i] = r
	}
	return all, nil
}

// ids are the ids of events and of the decisions in writs, and where they stand.
type ids map[string]Record

func (all ids) add(r Record) error {
	e := r.Event
	before, again := all[e.ID]
	// A retry of one request, or of a job that was cut off: one command, another decision.
	retry := again && e.Type == events.TypeWrit && e.Command.Key == before.Event.Command.Key && e.Command.Fingerprint != "" && e.Command.Fingerprint == before.Event.Command.Fingerprint
	// Two auditors say the same of the same audit log.
	same := again && e.Type == events.TypeCheckpoint && bytes.Equal(e.RawCheckpoint, before.Event.RawCheckpoint)
	if again && !retry && !same {
		return fmt.Errorf("event %d has the id %s, as %d has", r.Address, e.ID, before.Address)
	}
	all[e.ID] = r
	if e.Type == events.TypeWrit {
		permission := "permission " + e.Decision.ID
		if before, again := all[permission]; again {
			return fmt.Errorf("the writ at %d has the decision %s, as %d has", r.Address, e.Decision.ID, before.Address)
		}
		all[permission] = r
	}
	return nil
}

func withStream(t testing.TB, url, name string, use func(context.Context, jetstream.Stream) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	nc, err := nats.Connect(url, nats.Name("outside"))
	if err != nil {
		t.Fatalf("connect to %s: %v", url, err)
	}
	defer closeNATS(nc)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(ctx, name)
	if err == nil {
		err = use(ctx, s)
	}
	if err != nil {
		t.Fatalf("stream %s: %v", name, err)
	}
}

// closeNATS waits until the connection's goroutines are told, so that none is left when the tests end.
func closeNATS(nc *nats.Conn) {
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	nc.Close()
	<-closed
}
