package content_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/content"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

// TestBucketsThatAreSoAreLeftAlone: a start asks for no update where nothing is
// new, and another setting is still taken.
func TestBucketsThatAreSoAreLeftAlone(t *testing.T) {
	nc, err := ledger.Connect(testkit.NATS(t).URL(), "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	start := func(cfg content.Config) {
		t.Helper()
		if _, err := content.Open(t.Context(), nc, cfg); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ first, other content.Config }{
		{content.Config{}, content.Config{MaxBytes: 16 << 20}},
		{content.Config{MaxBytes: 16 << 20}, content.Config{MaxBytes: 32 << 20}},
	} {
		start(c.first)
		updates, err := nc.SubscribeSync("$JS.API.STREAM.UPDATE.*")
		if err != nil {
			t.Fatal(err)
		}
		start(c.first)
		if m, err := updates.NextMsg(200 * time.Millisecond); err == nil {
			t.Errorf("%s although nothing is new", m.Subject)
		}
		start(c.other)
		if _, err := updates.NextMsg(10 * time.Second); err != nil {
			t.Error("no update for another size")
		}
		if err := updates.Unsubscribe(); err != nil {
			t.Fatal(err)
		}
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), "OBJ_content")
	if err != nil {
		t.Fatal(err)
	}
	if have := s.CachedInfo().Config.MaxBytes; have != 32<<20 {
		t.Errorf("max bytes %d", have)
	}
}
