package outside

import (
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

// Record is one message of the ledger.
type Record struct {
	Sequence uint64
	Subject  string
	MsgID    string
	Time     time.Time // when it was stored
	Event    *events.Event
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

// Ledger reads the ledger from its first message to the one that is the last at the moment. A message that is not an
// event, whose id is not that of its event or was there before, or a gap in the sequence fails the test.
func Ledger(t testing.TB, url string) []Record {
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
		ids := map[string]uint64{}
		for {
			m, err := messages.Next(jetstream.NextContext(ctx))
			if err != nil {
				return fmt.Errorf("after %d of %d messages: %w", len(all), info.State.LastSeq, err)
			}
			r, err := record(m)
			if err != nil {
				return err
			}
			if want := uint64(len(all)) + 1; r.Sequence != want {
				return fmt.Errorf("message %d where %d was expected", r.Sequence, want)
			}
			if before, again := ids[r.MsgID]; again {
				return fmt.Errorf("message %d has the id %s, as %d has", r.Sequence, r.MsgID, before)
			}
			ids[r.MsgID] = r.Sequence
			all = append(all, r)
			if r.Sequence >= info.State.LastSeq {
				return nil
			}
		}
	})
	return all
}

func record(m jetstream.Msg) (Record, error) {
	meta, err := m.Metadata()
	if err != nil {
		return Record{}, err
	}
	e, err := events.Parse(m.Data())
	if err != nil {
		return Record{}, fmt.Errorf("message %d on %s: %w", meta.Sequence.Stream, m.Subject(), err)
	}
	r := Record{
		Sequence: meta.Sequence.Stream, Subject: m.Subject(), MsgID: m.Headers().Get(nats.MsgIdHdr), Time: meta.Timestamp, Event: e,
	}
	if r.MsgID != e.ID {
		return r, fmt.Errorf("message %d has the id %q and holds event %q", r.Sequence, r.MsgID, e.ID)
	}
	if strings.HasPrefix(r.Subject, "writ.cmd.") != (e.Type == events.TypeWrit) {
		return r, fmt.Errorf("message %d: a %s on %s", r.Sequence, e.Type, r.Subject)
	}
	return r, nil
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
