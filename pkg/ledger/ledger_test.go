package ledger_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// open connects a ledger; both end with the test.
func open(t testing.TB, url string, cfg ledger.Config, opts ...nats.Option) *ledger.Ledger {
	t.Helper()
	l, _ := openConn(t, url, cfg, opts...)
	return l
}

func openConn(t testing.TB, url string, cfg ledger.Config, opts ...nats.Option) (*ledger.Ledger, *nats.Conn) {
	t.Helper()
	nc, err := ledger.Connect(url, "test", opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	l, err := ledger.Open(within(t, patience), nc, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := l.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return l, nc
}

// through opens a ledger behind a proxy.
func through(t testing.TB, url string, cfg ledger.Config) (*ledger.Ledger, *nats.Conn, *testkit.Proxy) {
	t.Helper()
	proxy := testkit.NewProxy(t, strings.TrimPrefix(url, "nats://"))
	l, nc := openConn(t, "nats://"+proxy.Addr(), cfg)
	t.Cleanup(proxy.Restore) // first, so that Close finds a way out
	return l, nc, proxy
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// message is a command on a resource, in the form of events, without its parts.
func message(id, resource string) events.Message {
	return events.Message{ID: id, Resource: resource, Data: event(id, 0)}
}

// event is an event's bytes, with so many more than it needs.
func event(id string, more int) []byte {
	return fmt.Appendf(nil, `{"specversion":"1.0","id":%q,"source":"/writ/test","data":{"x":%q}}`, id, strings.Repeat("x", more))
}

// on is an event on a subject.
func on(subject, id string) events.Message {
	return events.Message{ID: id, Subject: subject, Data: event(id, 0)}
}

func appendOne(t testing.TB, l *ledger.Ledger, m events.Message) events.Address {
	t.Helper()
	address, err := l.Append(within(t, patience), m)
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// appendEach appends n commands with ids <prefix>-<i> on one resource, one after the other.
func appendEach(t testing.TB, l *ledger.Ledger, prefix, resource string, n int) (addresses []events.Address) {
	t.Helper()
	for i := range n {
		addresses = append(addresses, appendOne(t, l, message(fmt.Sprintf("%s-%d", prefix, i), resource)))
	}
	return addresses
}

// appendAll appends messages together.
func appendAll(t testing.TB, l *ledger.Ledger, all []events.Message) {
	t.Helper()
	if err := l.AppendAll(within(t, patience), all); err != nil {
		t.Fatal(err)
	}
}

type appended struct {
	address events.Address
	err     error
}

// appendTogether appends concurrently and gives the results in the order of msgs.
func appendTogether(ctx context.Context, l *ledger.Ledger, msgs []events.Message) []appended {
	out := make([]appended, len(msgs))
	var all sync.WaitGroup
	for i, m := range msgs {
		all.Go(func() { out[i].address, out[i].err = l.Append(ctx, m) })
	}
	all.Wait()
	return out
}

// inBackground is appendTogether, of which the results come when all are there.
func inBackground(t *testing.T, l *ledger.Ledger, msgs []events.Message) <-chan []appended {
	done, ctx := make(chan []appended, 1), within(t, patience)
	go func() { done <- appendTogether(ctx, l, msgs) }()
	return done
}

// messages are n commands on as many resources.
func messages(prefix string, n int) []events.Message {
	out := make([]events.Message, n)
	for i := range out {
		out[i] = message(fmt.Sprintf("%s-%d", prefix, i), fmt.Sprintf("resource-%d", i))
	}
	return out
}

// inShard is a resource of a shard.
func inShard(shard, shards int) string {
	for i := 0; ; i++ {
		if id := fmt.Sprintf("r%d", i); events.Shard(id, shards) == shard {
			return id
		}
	}
}

// holdUp stalls the proxy and waits until one append is in flight behind it,
// so that all further ones gather in one group. The function that it returns
// lets them go and gives the held one's result.
func holdUp(t *testing.T, l *ledger.Ledger, proxy *testkit.Proxy) (release func() appended) {
	t.Helper()
	proxy.Stall()
	held := make(chan appended, 1)
	ctx := &lookedAt{Context: within(t, patience), looked: make(chan struct{})}
	go func() {
		address, err := l.Append(ctx, message("held", "held"))
		held <- appended{address, err}
	}()
	<-ctx.looked
	return func() appended {
		proxy.Restore()
		return <-held
	}
}

// lookedAt tells when the append loop has taken a message and looks whether
// its caller still waits.
type lookedAt struct {
	context.Context
	once   sync.Once
	looked chan struct{}
}

func (c *lookedAt) Err() error {
	c.once.Do(func() { close(c.looked) })
	return c.Context.Err()
}

// waitQueued waits until n appends are in the queue.
func waitQueued(t *testing.T, l *ledger.Ledger, n int) {
	t.Helper()
	testkit.Eventually(t, patience, func() error {
		if have := l.Queued(); have != n {
			return fmt.Errorf("%d appends are queued, want %d", have, n)
		}
		return nil
	})
}

func unavailable(t testing.TB, what string, err error) {
	t.Helper()
	if !fault.Is(err, fault.Unavailable) {
		t.Errorf("%s: %v, want unavailable", what, err)
	}
}

// record reads one event back.
func record(t testing.TB, l *ledger.Ledger, address events.Address) ledger.Record {
	t.Helper()
	r, err := l.Get(within(t, patience), address)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// ids are those of the events.
func ids(all []ledger.Record) (out []string) {
	for _, r := range all {
		out = append(out, events.IDOf(r.Data))
	}
	return out
}

// stream is the ledger as JetStream shows it.
func stream(t testing.TB, nc *nats.Conn) jetstream.Stream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(within(t, patience), events.StreamLedger)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func last(t testing.TB, l *ledger.Ledger) uint64 {
	t.Helper()
	n, err := l.Last(within(t, patience))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestOpenMakesTheStreamsAndLeavesThemAsTheyAre(t *testing.T) {
	server := testkit.NATS(t)
	first := open(t, server.URL(), ledger.Config{})
	appendEach(t, first, "m", "r", 2)
	second, nc := openConn(t, server.URL(), ledger.Config{})
	if n := last(t, second); n != 2 {
		t.Errorf("last is %d after a second Open", n)
	}
	stream := stream(t, nc)
	cfg := stream.CachedInfo().Config
	if cfg.Discard != jetstream.DiscardNew || !cfg.DenyDelete || !cfg.DenyPurge || cfg.Retention != jetstream.LimitsPolicy ||
		cfg.Storage != jetstream.FileStorage || cfg.MaxAge != 0 || cfg.MaxMsgs > 0 || cfg.MaxMsgsPerSubject > 0 {
		t.Errorf("the ledger could forget: %+v", cfg)
	}
	if err := stream.DeleteMsg(t.Context(), 1); err == nil {
		t.Error("a message can be deleted")
	}
	if err := stream.Purge(t.Context()); err == nil {
		t.Error("the ledger can be purged")
	}
}

func TestConnectNeedsAServer(t *testing.T) {
	if _, err := ledger.Connect(fmt.Sprintf("nats://127.0.0.1:%d", testkit.FreePort(t)), "test"); err == nil || !strings.Contains(err.Error(), "WRIT_NATS_URL") {
		t.Errorf("%v does not name the setting", err)
	}
}

func TestNotifyReachesWhoListensAndLeavesNoRecord(t *testing.T) {
	server := testkit.NATS(t)
	l, nc := openConn(t, server.URL(), ledger.Config{})
	heard := make(chan string, 1)
	stop, err := l.Listen(events.WaitSubject("api-1"), func(data []byte) { heard <- string(data) })
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	if err := l.Notify(events.WaitSubject("api-1"), []byte("done")); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-heard:
		if got != "done" {
			t.Errorf("heard %q", got)
		}
	case <-time.After(patience):
		t.Error("heard nothing")
	}
	stop()
	if n := last(t, l); n != 0 {
		t.Errorf("%d records", n)
	}
}
