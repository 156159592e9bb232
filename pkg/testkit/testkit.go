// Package testkit starts real servers for tests: NATS, PostgreSQL, Redis and the Cerbos PDP, each on a free
// loopback port and in its own temporary folder, and breaks them on demand (kill, pause, restart, cut network).
//
// Every server started for a test ends with that test; only processes started here are ever signalled, by pid.
// A program that is not installed skips the tests that need it, by name; with WRIT_TEST_REQUIRE=all, as in
// continuous integration, it fails them instead, so that nothing is skipped unseen.
//
// Programs are looked for in this order: the variable named below, PATH, .tools/bin of the repository, and the
// places where distributions put them.
//
//	WRIT_POSTGRES_BIN  folder with initdb and postgres
//	WRIT_REDIS_BIN     redis-server
//	WRIT_CERBOS_BIN    the Cerbos PDP
//	WRIT_NATS_BIN      nats-server (otherwise built once from the module that go.mod requires)
package testkit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// startTimeout is how long a server may take until it is ready. Generous: two cores may be compiling beside it.
const startTimeout = 60 * time.Second

// shared holds what outlives one test: it is filled by [Postgres] and emptied by [Main].
var shared struct {
	sync.Mutex
	active bool // Main runs and will call stop
	stop   []func()
}

// Main runs a package's tests, stops the servers that they shared, and fails the run when goroutines are left
// over. Call it from TestMain:
//
//	func TestMain(m *testing.M) { testkit.Main(m) }
//
// opts excuse what a library keeps for the life of the process, for example goleak.IgnoreTopFunction.
func Main(m *testing.M, opts ...goleak.Option) {
	shared.Lock()
	shared.active = true
	shared.Unlock()

	code := m.Run()

	shared.Lock()
	shared.active = false
	stops := shared.stop
	shared.stop = nil
	shared.Unlock()
	for _, stop := range stops {
		stop()
	}
	http.DefaultClient.CloseIdleConnections()
	// A connection that closes right after its first asynchronous publish leaves this one behind, on a channel that was
	// never made: nats.go 1.55, jetstream/publish.go.
	opts = append(opts, goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"))
	if code == 0 {
		if err := goleak.Find(opts...); err != nil {
			fmt.Fprintf(os.Stderr, "testkit: goroutines outlived the tests: %v\n", err)
			code = 1
		}
	}
	os.Exit(code)
}

// Need skips the test because what is not installed, or fails it when WRIT_TEST_REQUIRE=all.
func Need(t testing.TB, what string, err error) {
	t.Helper()
	if os.Getenv("WRIT_TEST_REQUIRE") == "all" {
		t.Fatalf("needs %s: %v (WRIT_TEST_REQUIRE=all)", what, err)
	}
	t.Skipf("needs %s: %v", what, err)
}

// Eventually polls check until it returns nil, first at once, then after growing pauses of up to 100 ms, and
// fails the test with check's last error once within has passed. It is for states that give no signal.
func Eventually(t testing.TB, within time.Duration, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := poll(ctx, func(context.Context) error { return check() }); err != nil {
		t.Fatalf("not within %s: %v", within, err)
	}
}

// poll repeats check with growing pauses until it succeeds or ctx ends; it then returns the last error of check.
func poll(ctx context.Context, check func(context.Context) error) error {
	const longest = 100 * time.Millisecond
	pause := time.Millisecond
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
		pause = min(2*pause, longest)
	}
}

// Twice delivers every message to handle two times, as a ledger may: the second delivery must find the effect of
// the first and add none. An error of the first delivery does not prevent the second; both are returned.
func Twice[M any](handle func(context.Context, M) error) func(context.Context, M) error {
	return func(ctx context.Context, message M) error {
		return errors.Join(handle(ctx, message), handle(ctx, message))
	}
}
