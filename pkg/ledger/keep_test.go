package ledger_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

// TestStreamsThatAreSoAreLeftAlone: no update is asked for where nothing is
// new, and another setting is still taken.
func TestStreamsThatAreSoAreLeftAlone(t *testing.T) {
	url := testkit.NATS(t).URL()
	_, nc := openConn(t, url, ledger.Config{MaxBytes: 1 << 20})
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	updates, err := nc.SubscribeSync("$JS.API.STREAM.UPDATE.*")
	if err != nil {
		t.Fatal(err)
	}
	open(t, url, ledger.Config{MaxBytes: 1 << 20})
	if m, err := updates.NextMsg(200 * time.Millisecond); err == nil {
		t.Errorf("%s although nothing is new", m.Subject)
	}
	open(t, url, ledger.Config{MaxBytes: 2 << 20})
	if _, err := updates.NextMsg(patience); err != nil {
		t.Error("no update for another size")
	}
	s, err := js.Stream(within(t, patience), events.StreamLedger)
	if err != nil {
		t.Fatal(err)
	}
	if have := s.CachedInfo().Config.MaxBytes; have != 2<<20 {
		t.Errorf("max bytes %d", have)
	}
}
