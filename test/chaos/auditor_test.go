package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

// TestKilledAuditorsAndRedis runs two auditors and a Redis that syncs every second, puts records on the ledger without
// a pause, and kills (kill -9) one of the three at random, again and again. In the end the audit log is the ledger, byte
// for byte, and its proof holds; emptied, it comes back as the same bytes under the same checkpoint.
func TestKilledAuditorsAndRedis(t *testing.T) {
	kills := 8
	if os.Getenv("WRIT_CHAOS") == "full" {
		kills = 50
	}
	seed := seed(t)
	random := rand.New(rand.NewPCG(seed, 3))
	s := outside.StartServices(t, "audit-1")
	second, _ := s.Another(t, "auditor")
	targets := map[string]*testkit.Process{"auditor 1": s.AuditorProc, "auditor 2": second, "redis": s.RedisProc.Process}
	names := slices.Sorted(maps.Keys(targets))

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	load := startRecords(ctx, t, s)
	report := &table{}
	report.row("seed", seed)
	killed := map[string]int{}
	began := time.Now()
	for i := range kills {
		at := load.stored.Load() + 50 + random.Int64N(400)
		testkit.Eventually(t, time.Minute, func() error {
			if n := load.stored.Load(); n < at {
				return fmt.Errorf("%d records on the ledger, %d when the next one is killed", n, at)
			}
			return nil
		})
		name := names[random.IntN(len(names))]
		killed[name]++
		targets[name].Kill()
		if i%5 == 4 { // now and then all of them at once
			for _, p := range targets {
				p.Kill()
			}
			s.RedisProc.Start(t)
		}
		for _, n := range []string{"redis", "auditor 1", "auditor 2"} {
			if !targets[n].Running() {
				targets[n].Start(t)
			}
		}
	}
	cancel()
	load.running.Wait()
	report.row("kills", fmt.Sprintf("%d in %s: %v", kills, time.Since(began).Round(time.Second), killed))
	report.row("records on the ledger", load.stored.Load())

	before := outside.Audit(t, &s.Stack)
	verified, signed := proven(t, s, before)
	report.row("decisions, outcomes, checkpoints", fmt.Sprintf("%d, %d, %d", len(before.Decisions), len(before.Outcomes), verified.Explained[audit.WhyCheckpoint]))
	report.row("verified", fmt.Sprintf("ledger addresses %d to %d", verified.FirstSequence, verified.LastSequence))

	client := redisClient(t, s.Redis)
	if err := client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	emptied := time.Now()
	after := outside.Audit(t, &s.Stack)
	report.row("filled again in", time.Since(emptied).Round(time.Millisecond))
	if !slices.EqualFunc(before.Decisions, after.Decisions, sameEntry) || !slices.EqualFunc(before.Outcomes, after.Outcomes, sameEntry) {
		t.Error("the bytes differ")
	}
	if _, again := proven(t, s, after); string(again.Decisions) != string(signed.Decisions) || string(again.Outcomes) != string(signed.Outcomes) {
		t.Errorf("the checkpoint was\n%s\nis\n%s", signed.Decisions, again.Decisions)
	}
	t.Logf("\n%s", report)
}

func sameEntry(a, b redis.XMessage) bool { return a.ID == b.ID && maps.Equal(a.Values, b.Values) }

// proven waits for the checkpoint of all that is on the ledger and verifies the audit log against it.
func proven(t *testing.T, s *outside.Services, a outside.Audited) (audit.Report, audit.Signed) {
	t.Helper()
	key, err := audit.LoadKey(s.AuditKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	reader := audit.NewReader(redisClient(t, s.Redis))
	var report audit.Report
	var signed audit.Signed
	testkit.Eventually(t, 30*time.Second, func() (err error) {
		if signed, err = reader.Checkpoints(t.Context()); err != nil {
			return err
		}
		report, err = audit.Verify(t.Context(), reader, audit.VerifyOptions{Key: key.PublicKey, Seals: s.Keys, Trusted: onLedger(t, a)})
		var bad *audit.Bad
		if errors.As(err, &bad) && bad.Index < int64(len(a.Decisions)) && bad.Reason != "" && report.Decisions.Checkpoint.Tree.N == int64(len(a.Decisions)) {
			t.Fatal(err)
		}
		if err != nil {
			return err
		}
		if d, o := report.Decisions, report.Outcomes; d.Entries != int64(len(a.Decisions)) || o.Entries != int64(len(a.Outcomes)) {
			return fmt.Errorf("%d decisions and %d outcomes verified, there are %d and %d", d.Entries, o.Entries, len(a.Decisions), len(a.Outcomes))
		}
		return nil
	})
	if !report.Sequences || report.FirstSequence != events.At(1, 0) {
		t.Errorf("%+v", report)
	}
	return report, signed
}

// onLedger gives the checkpoints on the ledger.
func onLedger(t *testing.T, a outside.Audited) (all []audit.Checkpoint) {
	t.Helper()
	for _, r := range a.Ledger {
		if r.Event.Type != events.TypeCheckpoint {
			continue
		}
		for _, text := range []string{r.Event.Checkpoint.Decisions, r.Event.Checkpoint.Outcomes} {
			c, err := audit.ParseCheckpoint([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, c)
		}
	}
	if len(all) == 0 {
		t.Error("no checkpoint on the ledger")
	}
	return all
}

func redisClient(t *testing.T, url string) *redis.Client {
	t.Helper()
	options, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(options)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// records puts sealed records on the ledger, as api and worker do.
type records struct {
	stored  atomic.Int64
	running sync.WaitGroup
}

// recordSenders put one record after the other.
const recordSenders = 4

func startRecords(ctx context.Context, t *testing.T, s *outside.Services) *records {
	t.Helper()
	nc, err := nats.Connect(s.NATS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	r := &records{}
	for range recordSenders {
		r.running.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				m, err := someRecords(s.Keys, n)
				if err == nil {
					_, err = js.PublishMsg(context.WithoutCancel(ctx), m)
				}
				if err != nil {
					t.Errorf("records: %v", err)
					return
				}
				r.stored.Add(int64(events.Count(m.Header.Get(events.HeaderLengths))))
			}
		})
	}
	return r
}

// someRecords makes a message of one to five decisions, or outcomes.
func someRecords(keys *events.Keyring, n int) (*nats.Msg, error) {
	all := make([]events.Message, 1+n%5)
	for i := range all {
		var err error
		if all[i], err = aRecord(keys, n); err != nil {
			return nil, err
		}
	}
	body, lengths := events.Join(all)
	subject := all[0].Subject
	if subject == "" {
		subject = events.SubjectStytchOutcomes
	}
	return &nats.Msg{Subject: subject, Data: body, Header: nats.Header{"Content-Type": {events.BatchContentType}, events.HeaderLengths: {lengths}}}, nil
}

func aRecord(keys *events.Keyring, n int) (events.Message, error) {
	id := uuid.Must(uuid.NewV7()).String()
	if n%3 == 2 {
		return events.NewOutcome(keys, &events.Outcome{ID: events.OutcomeID(id), CommandID: id, Kind: "contact", ResourceID: id, Action: "create",
			Tenant: "default", Status: events.StatusApplied, DecisionID: id, Sequence: 1, At: time.Now().UTC()})
	}
	return events.NewDecision(keys, events.SourceAPI, &events.Decision{ID: id, Stage: events.StageRequest, Tenant: "default", Principal: events.Principal{ID: "sam"},
		Resource: events.Resource{Kind: "contact", ID: id}, Action: "read", Effect: events.Allow, EvaluatedAt: time.Now().UTC()})
}
