package jobs

import (
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
)

// TestWrongClockStopsNoQueue: a worker whose clock was a day ahead took a turn.
func TestWrongClockStopsNoQueue(t *testing.T) {
	nc, err := nats.Connect(testkit.NATS(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	keys, err := events.ParseKeyring(events.GenerateKey("test"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := Open(t.Context(), nc, Config{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	q := Queue{Name: "q", Rate: 1}.withDefaults()
	for name, at := range map[string]time.Time{"tomorrow": time.Now().Add(24 * time.Hour), "long ago": time.Now().Add(-24 * time.Hour)} {
		if err := c.states.stream.Purge(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := c.states.set(t.Context(), prefixRate+"q", strconv.AppendInt(nil, at.UnixMicro(), 10), 0); err != nil {
			t.Fatal(err)
		}
		if wait, err := c.turn(t.Context(), q); err != nil || wait != 0 {
			t.Errorf("%s: wait %s, %v", name, wait, err)
		}
		if wait, err := c.turn(t.Context(), q); err != nil || wait <= 0 || wait > time.Second {
			t.Errorf("%s: then wait %s, %v", name, wait, err)
		}
	}
}
