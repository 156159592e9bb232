package jobs

import (
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
)

// Jobs and their records are sealed as events are: what acts in the system's name
// must not do so for whoever can write to NATS. A job that is not believed is a
// dead letter; a record that is not is as none, and written over.

// headerSeal holds the seal of a message: <key id>:<MAC>.
const headerSeal = "Writ-Seal"

// sealed is what a seal is over: no event has such bytes, and no message of
// another subject.
func sealed(subject string, data []byte) []byte {
	const purpose = "writ job\x00"
	b := make([]byte, 0, len(purpose)+len(subject)+1+len(data))
	b = append(b, purpose...)
	b = append(b, subject...)
	b = append(b, 0)
	return append(b, data...)
}

// seal makes a sealed message.
func (c *Config) seal(subject string, data []byte) *nats.Msg {
	s := c.Keys.Seal(sealed(subject, data))
	return &nats.Msg{Subject: subject, Data: data, Header: nats.Header{headerSeal: {s.KeyID + ":" + s.MAC}}}
}

// verify reports events.ErrSeal unless a message is sealed.
func (c *Config) verify(subject string, header nats.Header, data []byte) error {
	return verify(c.Keys, subject, header, data)
}

func verify(keys *events.Keyring, subject string, header nats.Header, data []byte) error {
	id, mac, _ := strings.Cut(header.Get(headerSeal), ":")
	return keys.Verify(sealed(subject, data), events.Seal{KeyID: id, MAC: mac})
}

// Buried gives the job that a dead letter of the stream JOBS is about. An error
// says that it is none: events.ErrSeal, that it is not believed.
func Buried(keys *events.Keyring, r ledger.Record) (Job, error) {
	m, err := parse(keys, r.Subject, r.Header, r.Data)
	if err != nil {
		return Job{}, err
	}
	j := m.job(r.Address)
	j.Status = Dead
	return *j, nil
}
