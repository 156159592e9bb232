package testkit_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"

	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func TestPostgresGivesEachCallItsOwnDatabase(t *testing.T) {
	first, second := testkit.Postgres(t), testkit.Postgres(t)
	query(t, first, "CREATE TABLE seen (id int)")
	query(t, second, "CREATE TABLE seen (id int)")
}

func TestPostgresKeepsCommittedRowsWhenKilled(t *testing.T) {
	server := testkit.PostgresServer(t, testkit.PGSetting("max_connections", "20"))
	url := server.Database(t)
	query(t, url, "CREATE TABLE kept (id int)")
	query(t, url, "INSERT INTO kept VALUES (1)")
	server.Kill()
	server.Start(t)
	if n := query(t, url, "SELECT id FROM kept"); n != 1 {
		t.Fatalf("%d rows after a kill, want 1", n)
	}
	server.Stop(t)
	server.Start(t)
	if n := query(t, url, "SELECT id FROM kept"); n != 1 {
		t.Fatalf("%d rows after a stop, want 1", n)
	}
}

func query(t *testing.T, url, statement string) int64 {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tag, err := conn.Exec(t.Context(), statement)
	if err != nil {
		t.Fatal(err)
	}
	return tag.RowsAffected()
}

func TestRedisKeepsItsAppendOnlyFileWhenKilled(t *testing.T) {
	server := testkit.RedisServer(t, testkit.RedisAppendOnly("always"))
	options, err := redis.ParseURL(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(options)
	defer client.Close()
	if err := client.Set(t.Context(), "key", "kept", 0).Err(); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	if server.Running() {
		t.Fatal("running after Kill")
	}
	server.Start(t)
	if got := client.Get(t.Context(), "key").Val(); got != "kept" {
		t.Fatalf("key is %q after a kill", got)
	}
}

func TestCerbosServesAFolderOfPolicies(t *testing.T) {
	dir := t.TempDir()
	policy := `apiVersion: api.cerbos.dev/v1
resourcePolicy:
  resource: note
  version: default
  rules:
    - actions: [read]
      effect: EFFECT_ALLOW
      roles: [user]
`
	if err := os.WriteFile(filepath.Join(dir, "note.yaml"), []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	server := testkit.CerbosServer(t, dir)
	body := `{"principal":{"id":"p","roles":["user"]},"resources":[{"resource":{"kind":"note","id":"n"},"actions":["read"]}]}`
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.HTTPURL()+"/api/check/resources", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(answer), "EFFECT_ALLOW") {
		t.Fatalf("%s: %s (%v)", response.Status, answer, err)
	}
	conn, err := net.Dial("tcp", server.GRPCAddr())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// natsUnderTest is what both kinds of server offer.
type natsUnderTest interface {
	URL() string
	Start(testing.TB)
	Stop(testing.TB)
}

func TestNATSKeepsItsStreamsOverARestart(t *testing.T) {
	for name, start := range map[string]func() natsUnderTest{
		"embedded": func() natsUnderTest { return testkit.NATS(t, testkit.NATSSyncAlways()) },
		"process": func() natsUnderTest {
			return testkit.NATSProcess(t, testkit.NATSSyncAlways(), testkit.NATSMaxStore(64<<20))
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := start()
			publish(t, server.URL(), 1)
			server.Stop(t)
			server.Start(t)
			publish(t, server.URL(), 2)
			if process, ok := server.(*testkit.NATSProc); ok {
				process.Kill()
				process.Start(t)
				publish(t, server.URL(), 3)
			}
		})
	}
}

// publish appends one message and checks its sequence.
func publish(t *testing.T, url string, want uint64) {
	t.Helper()
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	config := jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, MaxBytes: 1 << 20}
	if _, err := js.CreateOrUpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	ack, err := js.Publish(t.Context(), "s", []byte("x"))
	if err != nil || ack.Sequence != want {
		t.Fatalf("sequence %v, want %d (%v)", ack, want, err)
	}
}

func TestProcessIsReadyPausedAndWaitedFor(t *testing.T) {
	script := `trap 'exit 3' TERM; echo booting; echo ready at $WHERE; while :; do :; done`
	p := testkit.StartProcess(t, testkit.Spec{
		Name: "script", Path: "/bin/bash", Args: []string{"-c", script}, Env: []string{"WHERE=here"}, ReadyLine: "ready at here",
	})
	if line := p.WaitLine(t, 10*time.Second, "booting"); line != "booting" {
		t.Fatalf("line %q", line)
	}
	p.Pause(t)
	testkit.Eventually(t, 10*time.Second, func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid()))
		if err == nil && !strings.Contains(string(stat), ") T ") {
			err = errors.New("not stopped")
		}
		return err
	})
	p.Resume(t)
	if code := p.Stop(t, 10*time.Second); code != 3 {
		t.Fatalf("exit code %d, want 3\n%s", code, p.Output())
	}
	p.Start(t)
	p.Kill()
	if code := p.Wait(t, time.Second); code != -1 {
		t.Fatalf("exit code %d after Kill, want -1", code)
	}
}

func TestProxyCutsStallsAndRestores(t *testing.T) {
	server := testkit.RedisServer(t)
	proxy := testkit.NewProxy(t, server.Addr())
	client := redis.NewClient(&redis.Options{Addr: proxy.Addr(), MaxRetries: -1, DisableIdentity: true, ContextTimeoutEnabled: true})
	defer client.Close()
	ping := func(within time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		return client.Ping(ctx).Err()
	}
	if err := ping(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	proxy.Cut()
	if err := ping(10 * time.Second); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("cut: %v, want an error at once", err)
	}
	proxy.Restore()
	if err := ping(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	proxy.Stall()
	if err := ping(50 * time.Millisecond); err == nil {
		t.Fatal("stalled, and it answered")
	}
	proxy.Restore()
	proxy.Delay(20 * time.Millisecond)
	began := time.Now()
	if err := ping(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 40*time.Millisecond {
		t.Fatalf("took %s through a delay of 20 ms each way", took)
	}
}

func TestTwiceDeliversTwice(t *testing.T) {
	delivered := 0
	handle := testkit.Twice(func(context.Context, string) error { delivered++; return nil })
	if err := handle(t.Context(), "message"); err != nil || delivered != 2 {
		t.Fatalf("%d deliveries (%v)", delivered, err)
	}
}
