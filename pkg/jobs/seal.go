package jobs

import (
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/writ-project/writ/pkg/events"
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
	id, mac, _ := strings.Cut(header.Get(headerSeal), ":")
	return c.Keys.Verify(sealed(subject, data), events.Seal{KeyID: id, MAC: mac})
}
