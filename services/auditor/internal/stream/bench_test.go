package stream

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/telemetry"
	"github.com/writ-project/writ/pkg/testkit"
)

// BenchmarkCopy copies decisions from a ledger to a Redis; b.N are the entries.
func BenchmarkCopy(b *testing.B) {
	keys, err := events.ParseKeyring(events.GenerateKey("test"))
	fail(b, err)
	nc, err := ledger.Connect(testkit.NATS(b).URL(), "bench")
	fail(b, err)
	defer nc.Close()
	l, err := ledger.Open(b.Context(), nc, ledger.Config{})
	fail(b, err)
	defer func() { _ = l.Close(context.Background()) }()
	for left := b.N; left > 0; left -= 256 {
		all := make([]events.Message, min(left, 256))
		for i := range all {
			d := events.Decision{ID: newID(), Stage: events.StageRequest, Tenant: "default",
				Principal: events.Principal{ID: "user-live-00000000-0000-4000-8000-000000000000", Version: 1, Roles: []string{"user"}},
				Resource: events.Resource{Kind: "contact", ID: newID(), Version: 1, Attr: map[string]any{
					"owner_id": "user-live-00000000-0000-4000-8000-000000000000", "tenant": "default", "is_active": true}},
				Action: "read", Effect: events.Allow, Policy: events.Policy{Matched: "resource.contact.vdefault", Revision: events.Digest(nil)},
				CallID: newID(), EvaluatedAt: time.Now().UTC(), Request: events.RequestInfo{ID: newID(), Method: "GET", Route: "/v1/contacts/{id}", Remote: "127.0.0.1"},
				TraceID: events.Digest(nil)[:32]}
			all[i], err = events.NewDecision(keys, events.SourceAPI, &d)
			fail(b, err)
		}
		fail(b, l.AppendAll(b.Context(), all))
	}
	options, err := redis.ParseURL(testkit.Redis(b))
	fail(b, err)
	rdb := redis.NewClient(options)
	defer func() { _ = rdb.Close() }()
	key, err := audit.GenerateKey("bench")
	fail(b, err)
	tel, err := telemetry.Setup(b.Context(), "bench", "0")
	fail(b, err)
	defer func() { _ = tel.Shutdown(context.Background()) }()
	w, err := NewWriter(Config{Ledger: l, Appender: audit.NewAppender(rdb, 0), Reader: audit.NewReader(rdb), Seals: keys, Key: key, Log: slog.New(slog.DiscardHandler), Telemetry: tel})
	fail(b, err)
	b.ResetTimer()
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	testkit.Eventually(b, 2*time.Minute, func() error {
		if lag, err := w.Lag(ctx); err != nil || lag > 0 {
			return errors.New("not yet")
		}
		return nil
	})
	b.StopTimer()
	cancel()
	fail(b, <-done)
}

func fail(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
