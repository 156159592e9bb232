package ledger

import (
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
)

// Record is one event of the ledger.
type Record struct {
	Address events.Address
	// Last says that the message holds no event after this one.
	Last    bool
	Subject string
	Header  nats.Header // the message's, which the events in it share
	Data    []byte      // the event's exact bytes
	Time    time.Time   // when the ledger stored it
}

// records splits a message into its events. One that cannot be split is one
// record that nobody can read: so it becomes a dead letter like any other.
func records(sequence uint64, subject string, header nats.Header, data []byte, at time.Time) []Record {
	parts, err := events.Split(data, header.Get(events.HeaderLengths))
	if err != nil {
		parts = [][]byte{data}
	}
	out := make([]Record, len(parts))
	for i, p := range parts {
		out[i] = Record{Address: events.At(sequence, i), Last: i == len(parts)-1, Subject: subject, Header: header, Data: p, Time: at}
	}
	return out
}

// delivered gives the events of a message that a consumer delivered.
func delivered(m jetstream.Msg) ([]Record, *jetstream.MsgMetadata, error) {
	meta, err := m.Metadata()
	if err != nil {
		return nil, nil, err
	}
	return records(meta.Sequence.Stream, m.Subject(), m.Headers(), m.Data(), meta.Timestamp), meta, nil
}

// stored gives the events of a message that was read from the stream.
func stored(m *jetstream.RawStreamMsg) []Record {
	return records(m.Sequence, m.Subject, m.Header, m.Data, m.Time)
}

// from leaves out the events before an address.
func from(all []Record, address events.Address) []Record {
	for len(all) > 0 && all[0].Address < address {
		all = all[1:]
	}
	return all
}
