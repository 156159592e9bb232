package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/redis/go-redis/v9"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/telemetry"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const soon = 30 * time.Second

type rig struct {
	t      *testing.T
	nats   string
	ledger *ledger.Ledger
	keys   *events.Keyring
	key    *audit.Key
	tel    *telemetry.Telemetry
	rdb    *redis.Client
}

func newRig(t *testing.T, redisURL string) *rig {
	t.Helper()
	r := &rig{t: t, nats: testkit.NATS(t).URL(), keys: need(events.ParseKeyring(events.GenerateKey("test")))(t)}
	r.key = need(audit.GenerateKey("test"))(t)
	r.tel = need(telemetry.Setup(t.Context(), "test", "0"))(t)
	t.Cleanup(func() { _ = r.tel.Shutdown(context.Background()) })
	options := need(redis.ParseURL(redisURL))(t)
	options.DialTimeout, options.MaxRetries = 200*time.Millisecond, -1
	r.rdb = redis.NewClient(options)
	t.Cleanup(func() { _ = r.rdb.Close() })
	r.ledger = r.connect()
	return r
}

func (r *rig) connect() *ledger.Ledger {
	r.t.Helper()
	nc := need(ledger.Connect(r.nats, "test"))(r.t)
	r.t.Cleanup(nc.Close)
	l := need(ledger.Open(r.t.Context(), nc, ledger.Config{}))(r.t)
	r.t.Cleanup(func() { _ = l.Close(context.Background()) })
	return l
}

// writer makes an auditor with a connection of its own.
func (r *rig) writer(retention time.Duration) *Writer {
	r.t.Helper()
	return need(NewWriter(Config{
		Ledger: r.connect(), Appender: audit.NewAppender(r.rdb, retention), Reader: audit.NewReader(r.rdb), Seals: r.keys, Key: r.key,
		Retention: retention, Log: slog.New(slog.NewTextHandler(r.t.Output(), nil)), Telemetry: r.tel,
	}))(r.t)
}

// start runs an auditor until stop is called.
func (r *rig) start() (w *Writer, stop func()) {
	r.t.Helper()
	w = r.writer(0)
	return w, r.run(w)
}

func (r *rig) run(w *Writer) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	r.t.Cleanup(stop)
	return stop
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

// fill puts n commands, decisions and outcomes in turn on the ledger: alone and in
// groups, of which each is three messages or more.
func (r *rig) fill(n int) {
	r.t.Helper()
	all := r.events(n)
	for i := 0; len(all) > 0; i++ {
		k := min(len(all), []int{1, 5, 1, 90}[i%4])
		must(r.t, r.ledger.AppendAll(r.t.Context(), all[:k]))
		all = all[k:]
	}
}

// events makes n commands, decisions and outcomes in turn.
func (r *rig) events(n int) (all []events.Message) {
	r.t.Helper()
	for i := range n {
		d := events.Decision{ID: newID(), Stage: events.StageRequest, Tenant: "default", Principal: events.Principal{ID: "sam", Roles: []string{"user"}},
			Resource: events.Resource{Kind: "contact", ID: newID()}, Action: "create", Effect: events.Allow, EvaluatedAt: time.Now().UTC()}
		var m events.Message
		switch i % 3 {
		case 0:
			c := events.Command{ID: newID(), Kind: "contact", ResourceID: d.Resource.ID, Action: "create", Tenant: "default", PrincipalID: "sam", Body: []byte(`{"first_name":"<&>"}`), IssuedAt: time.Now()}
			m = need(events.NewWrit(r.keys, events.SourceAPI, &d, &c, time.Now().Add(time.Hour)))(r.t)
		case 1:
			if d.Effect, d.Action = events.Deny, "read"; i%2 == 0 {
				d.Stage = events.StageApply
			}
			m = need(events.NewDecision(r.keys, events.SourceAPI, &d))(r.t)
		default:
			o := events.Outcome{ID: newID(), CommandID: newID(), Kind: "contact", ResourceID: newID(), Action: "create", Tenant: "default", Status: events.StatusApplied, At: time.Now().UTC()}
			m = need(events.NewOutcome(r.keys, &o))(r.t)
			m.Subject = events.OutcomeSubject(0)
		}
		if d.Stage == events.StageApply {
			m.Subject = events.OutcomeSubject(0)
		}
		all = append(all, m)
	}
	return all
}

// The streams' keys.
var (
	decisions = audit.Decisions.Stream()
	outcomes  = audit.Outcomes.Stream()
	streams   = []string{decisions, outcomes}
)

// streams gives what is in Redis: for each stream "id bytes" lines.
func (r *rig) streams() (map[string][]string, error) {
	out := map[string][]string{}
	for _, s := range streams {
		entries, err := r.rdb.XRange(r.t.Context(), s, "-", "+").Result()
		if err != nil {
			return nil, err
		}
		field := strings.TrimSuffix(strings.TrimPrefix(s, "writ:"), "s")
		for _, e := range entries {
			out[s] = append(out[s], e.ID+" "+e.Values[field].(string))
		}
	}
	return out, nil
}

// ledgerStreams gives what should be in Redis, made from the ledger alone.
func (r *rig) ledgerStreams() map[string][]string {
	r.t.Helper()
	out := map[string][]string{}
	last := need(r.ledger.Last(r.t.Context()))(r.t)
	enough := errors.New("enough")
	var ms int64
	err := r.ledger.Follow(r.t.Context(), 1, func(_ context.Context, batch []ledger.Record) error {
		for _, rec := range batch {
			if e, err := events.Parse(rec.Data); err == nil && e.Verify(r.keys, rec.Subject) == nil && e.Type != events.TypeCheckpoint {
				ms = max(ms, rec.Time.UnixMilli())
				s, raw := decisions, e.RawDecision
				if e.Type == events.TypeOutcome {
					s, raw = outcomes, e.RawOutcome
				}
				out[s] = append(out[s], fmt.Sprintf("%d-%d %s", ms, rec.Address, raw))
			}
			if rec.Last && events.SequenceOf(rec.Address) == last {
				return enough
			}
		}
		return nil
	})
	if !errors.Is(err, enough) {
		r.t.Fatal(err)
	}
	return out
}

// equal waits until Redis holds exactly what the ledger says, byte for byte.
func (r *rig) equal() {
	r.t.Helper()
	want := r.ledgerStreams()
	testkit.Eventually(r.t, soon, func() error {
		got, err := r.streams()
		if err != nil {
			return err
		}
		for _, s := range streams {
			if len(got[s]) != len(want[s]) {
				return fmt.Errorf("%s has %d entries, the ledger %d", s, len(got[s]), len(want[s]))
			}
			for i := range want[s] {
				if got[s][i] != want[s][i] {
					return fmt.Errorf("%s entry %d is\n%s, want\n%s", s, i, got[s][i], want[s][i])
				}
			}
		}
		return nil
	})
}

func redises(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel()
		test(t, newRig(t, "redis://"+miniredis.RunT(t).Addr()))
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		test(t, newRig(t, testkit.Redis(t)))
	})
}

func TestStreamsAreTheLedger(t *testing.T) {
	t.Parallel()
	redises(t, func(t *testing.T, r *rig) {
		r.fill(50)
		w, _ := r.start()
		r.fill(700)
		r.equal()
		testkit.Eventually(t, soon, func() error {
			if lag, err := w.Lag(t.Context()); err != nil || lag != 0 {
				return fmt.Errorf("lag %d: %w", lag, err)
			}
			return nil
		})
	})
}

func TestTwoAuditorsRace(t *testing.T) {
	t.Parallel()
	redises(t, func(t *testing.T, r *rig) {
		for range 3 {
			r.start()
		}
		for range 10 {
			r.fill(100)
		}
		r.equal()
		r.verified()
	})
}

func TestLostRedisIsFilledAgain(t *testing.T) {
	t.Parallel()
	redises(t, func(t *testing.T, r *rig) {
		_, stop := r.start()
		r.fill(300)
		r.equal()
		r.verified()
		before := need(r.streams())(t)
		must(t, r.rdb.FlushAll(t.Context()).Err()) // noticed without traffic
		r.equal()
		r.verified() // which needs a checkpoint, however soon all was there again
		if after := need(r.streams())(t); fmt.Sprint(before) != fmt.Sprint(after) {
			t.Fatal("the bytes differ")
		}
		stop()
		must(t, r.rdb.FlushAll(t.Context()).Err())
		r.fill(10)
		r.start()
		r.equal()
	})
}

func TestRedisKilledUnderLoad(t *testing.T) {
	t.Parallel()
	server := testkit.RedisServer(t, testkit.RedisAppendOnly("everysec"))
	r := newRig(t, server.URL())
	r.start()
	r.start()
	for range 5 {
		r.fill(150)
		server.Kill()
		r.fill(20)
		server.Start(t)
	}
	r.equal()
	r.verified()
}

func TestForgedMessagesAreNotInTheLog(t *testing.T) {
	t.Parallel()
	r := newRig(t, testkit.Redis(t))
	r.fill(3)
	strangers := need(events.ParseKeyring(events.GenerateKey("test")))(t)
	d := events.Decision{ID: newID(), Stage: events.StageRequest, Resource: events.Resource{Kind: "contact"}, Action: "read", Effect: events.Allow}
	need(r.ledger.Append(t.Context(), need(events.NewDecision(strangers, events.SourceAPI, &d))(t)))(t)
	need(r.ledger.Append(t.Context(), events.Message{ID: newID(), Subject: events.SubjectDecisions, Data: []byte("rubbish")}))(t)
	r.fill(3)
	r.start()
	r.equal()
	if report := r.verified(); report.Explained[audit.WhyRefused] != 2 {
		t.Fatalf("%+v", report)
	}
	nc := need(nats.Connect(r.nats))(t)
	defer nc.Close()
	js := need(nc.JetStream())(t)
	testkit.Eventually(t, soon, func() error {
		if info := need(js.StreamInfo(events.StreamDead))(t); info.State.Msgs != 2 {
			return fmt.Errorf("%d dead letters", info.State.Msgs)
		}
		return nil
	})
}

// A clock that steps back must not break the order of the entries' ids.
func TestIDsStayMonotonic(t *testing.T) {
	t.Parallel()
	r := newRig(t, testkit.Redis(t))
	f := &follower{Writer: r.writer(0)}
	f.head.Outcomes.Last = audit.ID{Ms: 1_000_500}
	d := events.Decision{ID: newID(), Stage: events.StageRequest, Resource: events.Resource{Kind: "contact"}, Action: "read", Effect: events.Allow}
	m := need(events.NewDecision(r.keys, events.SourceAPI, &d))(t)
	base := time.UnixMilli(1_000_000)
	var batch []ledger.Record
	for i, step := range []time.Duration{0, time.Second, -time.Hour, 2 * time.Second} {
		batch = append(batch, ledger.Record{Address: events.At(uint64(i+1), 0), Last: true, Subject: m.Subject, Data: m.Data, Time: base.Add(step)})
	}
	c := need(f.convert(t.Context(), f.read(batch)))(t)
	var got []string
	for _, e := range c.Items {
		got = append(got, e.ID.String())
	}
	if want := "[1000500-256 1001000-512 1001000-768 1002000-1024]"; fmt.Sprint(got) != want {
		t.Fatalf("%v, want %s", got, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func need[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		must(t, err)
		return v
	}
}
