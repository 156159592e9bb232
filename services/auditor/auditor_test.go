package auditor

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// TestCopyingNeedsNobodyWhoAsks starts an auditor of which the database, Cerbos
// and Stytch have never been there: it copies and signs, says so in /readyz, and
// answers 503 to who asks.
func TestCopyingNeedsNobodyWhoAsks(t *testing.T) {
	t.Parallel()
	const nowhere = "127.0.0.1:1"
	key := filepath.Join(t.TempDir(), "audit.key")
	if _, err := audit.CreateKey(key, "test"); err != nil {
		t.Fatal(err)
	}
	seals := events.GenerateKey("test")
	keys, err := events.ParseKeyring(seals)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		NATSURL: testkit.NATS(t).URL(), LedgerReplicas: 1, RedisURL: testkit.Redis(t), SealKeys: seals, AuditKeyFile: key,
		DatabaseURL: "postgres://nobody@" + nowhere + "/writ?sslmode=disable", Cerbos: "grpc://" + nowhere, PolicyRevision: "r",
		StytchProjectID: "project-test-00000000-0000-4000-8000-000000000001", StytchSecret: "secret", StytchBaseURL: "http://" + nowhere,
		Listener: ln, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Version: "test",
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})

	nc, err := ledger.Connect(cfg.NATSURL, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	led, err := ledger.Open(ctx, nc, ledger.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = led.Close(context.Background()) })
	m, err := events.NewDecision(keys, events.SourceAPI, &events.Decision{
		ID: uuid.Must(uuid.NewV7()).String(), Stage: events.StageRequest, Tenant: "default", Principal: events.Principal{ID: "sam", Roles: []string{"user"}},
		Resource: events.Resource{Kind: "contact", ID: "c"}, Action: "read", Effect: events.Allow, EvaluatedAt: time.Now().UTC(),
	})
	if err == nil {
		_, err = led.Append(ctx, m)
	}
	if err != nil {
		t.Fatal(err)
	}

	options, err := redis.ParseURL(cfg.RedisURL)
	if err != nil {
		t.Fatal(err)
	}
	rdb := redis.NewClient(options)
	t.Cleanup(func() { _ = rdb.Close() })
	get := func(path string) (int, string) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ln.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.Repeat("A", 44)) // an opaque token, which Stytch is asked about
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	testkit.Eventually(t, 20*time.Second, func() error {
		signed, err := audit.NewReader(rdb).Checkpoints(ctx)
		if err == nil {
			var cp audit.Checkpoint
			if cp, err = audit.ParseCheckpoint(signed.Decisions); err == nil && cp.Tree.N < 1 {
				err = fmt.Errorf("%d are signed", cp.Tree.N)
			}
		}
		return err
	})
	if status, body := get("/readyz?verbose"); status != http.StatusOK || strings.Count(body, "failed, not critical") != 3 {
		t.Errorf("%d %s", status, body)
	}
	if status, body := get("/v1/decisions"); status != http.StatusServiceUnavailable {
		t.Errorf("%d %s", status, body)
	}
	if status, body := get("/checkpoint"); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
}
