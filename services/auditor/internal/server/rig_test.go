package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/gate"
	"github.com/writ-project/writ/pkg/health"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/stytchemu"
	"github.com/writ-project/writ/pkg/telemetry"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/services/auditor/internal/stream"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	soon    = 20 * time.Second
	project = "project-test-00000000-0000-4000-8000-000000000001"
	secret  = "secret-test-for-tests-only-0000000000000000"
	acme    = "acme"
)

// rig is everything that an auditor needs, its HTTP side and, if asked for, the
// copying.
type rig struct {
	t      testing.TB
	nats   string
	redis  string
	store  *store.Store
	authz  authz.Authorizer
	id     *identity.Client
	stytch *httptest.Server
	keys   *events.Keyring
	key    *audit.Key
	tel    *telemetry.Telemetry
	ledger *ledger.Ledger
	rdb    *redis.Client
	server *Server
	url    string
	limits limits

	handler  http.Handler
	stopping chan struct{}
}

type option func(*rig)

func newRig(t testing.TB, options ...option) *rig {
	t.Helper()
	ctx := t.Context()
	r := &rig{t: t, stopping: make(chan struct{}), limits: defaults}
	r.keys = need(events.ParseKeyring(events.GenerateKey("test")))(t)
	r.key = need(audit.GenerateKey("test"))(t)
	r.tel = need(telemetry.Setup(ctx, "test", "0"))(t)
	t.Cleanup(func() { _ = r.tel.Shutdown(context.Background()) })
	for _, o := range options {
		o(r)
	}
	if r.nats == "" {
		r.nats = testkit.NATS(t).URL()
	}
	if r.redis == "" {
		r.redis = testkit.Redis(t)
	}
	if r.store == nil {
		r.open("sqlite:" + filepath.Join(t.TempDir(), "writ.db"))
	}
	if r.authz == nil {
		az := need(authz.Open(ctx, "embed:../../../../policies"))(t)
		t.Cleanup(func() { _ = az.Close() })
		r.authz = az
	}
	emulator := need(stytchemu.New(stytchemu.Config{ProjectID: project, Secret: secret}))(t)
	r.stytch = httptest.NewServer(emulator)
	t.Cleanup(func() {
		r.stytch.CloseClientConnections()
		r.stytch.Close()
		_ = emulator.Close()
	})
	r.id = need(identity.New(ctx, identity.Config{ProjectID: project, Secret: secret, BaseURL: r.stytch.URL}))(t)
	t.Cleanup(r.id.Close)
	nc := need(ledger.Connect(r.nats, "test"))(t)
	t.Cleanup(nc.Close)
	r.ledger = need(ledger.Open(ctx, nc, ledger.Config{}))(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = r.ledger.Close(ctx)
	})
	r.rdb = redis.NewClient(need(redis.ParseURL(r.redis))(t))
	t.Cleanup(func() { _ = r.rdb.Close() })
	s, h, err := New(Config{
		Audit: audit.NewReader(r.rdb), Key: r.key.PublicKey, Ledger: r.ledger, Store: r.store, Authz: r.authz, Identity: r.id, Keys: r.keys,
		Health: health.New(), Telemetry: r.tel, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Version: "test", Stopping: r.stopping,
	})
	must(t, err)
	r.server, s.limits = s, r.limits
	r.handler = h
	web := httptest.NewServer(h)
	r.url = web.URL
	t.Cleanup(func() {
		select {
		case <-r.stopping:
		default:
			close(r.stopping)
		}
		http.DefaultClient.CloseIdleConnections()
		web.Close()
		s.Close()
	})
	return r
}

func (r *rig) open(url string) {
	r.t.Helper()
	r.store = need(store.Open(r.t.Context(), url))(r.t)
	r.t.Cleanup(func() { _ = r.store.Close() })
	must(r.t, r.store.Migrate(r.t.Context()))
}

// copying copies the ledger until stop is called or the test ends.
func (r *rig) copying() (stop func()) {
	r.t.Helper()
	w := need(stream.NewWriter(stream.Config{
		Ledger: r.ledger, Appender: audit.NewAppender(r.rdb, 0), Reader: audit.NewReader(r.rdb), Seals: r.keys, Key: r.key,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Telemetry: r.tel,
	}))(r.t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		must(r.t, <-done)
	})
	r.t.Cleanup(stop)
	return stop
}

// covered waits until a checkpoint covers everything that is on the ledger.
func (r *rig) covered() {
	r.t.Helper()
	last := need(r.ledger.Last(r.t.Context()))(r.t)
	testkit.Eventually(r.t, soon, func() error {
		signed, err := r.server.Audit.Checkpoints(r.t.Context())
		if err == nil && signed.Sequence < events.End(last) {
			err = fmt.Errorf("the checkpoint is at %d, the ledger at %d", signed.Sequence, last)
		}
		return err
	})
}

// person makes a user with a session and a row of the directory.
func (r *rig) person(name string, tenants map[string]user.Membership) (id, token string) {
	r.t.Helper()
	id, token = r.stranger(name)
	row := user.Sync{Email: name + "@example.com", Tenants: tenants}.Apply(nil, id, time.Now())
	r.put(*row)
	return id, token
}

// stranger makes a user with a session and no row.
func (r *rig) stranger(name string) (id, token string) {
	r.t.Helper()
	ctx := r.t.Context()
	u := need(r.id.CreateUser(ctx, identity.User{Email: name + "@example.com"}))(r.t)
	magic := need(r.id.CreateToken(ctx, u.ID))(r.t)
	in := need(r.id.AuthenticateMagicLink(ctx, magic, "", ""))(r.t)
	return u.ID, in.JWT
}

func (r *rig) put(row kind.Row) {
	r.t.Helper()
	must(r.t, r.store.Update(r.t.Context(), func(ctx context.Context, tx *store.Tx) error {
		return tx.PutRows(ctx, user.Kind, []kind.Row{row})
	}))
}

// roles changes what somebody is in the default tenant.
func (r *rig) roles(id string, roles ...string) {
	r.t.Helper()
	row := need(r.store.Get(r.t.Context(), user.Kind, id))(r.t)
	u := row.Value.(*user.User)
	u.Tenants, u.Version = in(user.DefaultTenant, roles...), u.Version+1
	r.put(row)
}

func in(tenant string, roles ...string) map[string]user.Membership {
	return map[string]user.Membership{tenant: {Roles: roles}}
}

// made is a decision with everything that there is to look for.
func made(change func(*events.Decision)) *events.Decision {
	d := &events.Decision{
		ID: uuid.Must(uuid.NewV7()).String(), Stage: events.StageRequest, Tenant: user.DefaultTenant,
		Principal: events.Principal{ID: "sam", Version: 3, Roles: []string{"user"}, Attr: map[string]any{"secret": "principal-attribute"}},
		Resource:  events.Resource{Kind: "contact", ID: "c-1", Version: 7, Attr: map[string]any{"owner_id": "resource-attribute"}},
		Action:    "read", Effect: events.Allow,
		Policy: events.Policy{Matched: "resource.contact.vdefault", DerivedRoles: []string{"owner"}, Revision: "r1"},
		CallID: "call", EvaluatedAt: time.Now().UTC(), TookMicros: 12,
		Request: events.RequestInfo{ID: "request-1", Method: "GET", Route: "/v1/contacts/{id}", Remote: "192.0.2.7"}, TraceID: "trace-1",
	}
	if change != nil {
		change(d)
	}
	return d
}

// record puts decisions on the ledger, in this order.
func (r *rig) record(all ...*events.Decision) {
	r.t.Helper()
	var msgs []events.Message
	for i, d := range all {
		m := need(events.NewDecision(r.keys, events.SourceAPI, d))(r.t)
		if d.Stage == events.StageApply { // it stands before the outcome that it led to
			m.Subject = events.OutcomeSubject(0)
		}
		msgs = append(msgs, m)
		// What is appended together is a message a subject.
		if i == len(all)-1 || all[i+1].Stage != d.Stage || len(msgs) == 1000 {
			must(r.t, r.ledger.AppendAll(r.t.Context(), msgs))
			msgs = nil
		}
	}
}

// fill appends decisions to the log itself, as fast as can be, and signs it.
func (r *rig) fill(n int, make func(i int) *events.Decision) {
	r.t.Helper()
	ctx := r.t.Context()
	a := audit.NewAppender(r.rdb, 0)
	head := need(a.Head(ctx))(r.t)
	trees := audit.Trees{Decisions: &audit.Tree{}, Outcomes: &audit.Tree{}}
	began := time.Now().Add(-time.Duration(n) * time.Millisecond).UnixMilli()
	for done := 0; done < n; {
		b := audit.Batch{Start: 1}
		for ; done < n && len(b.Items) < 1024; done++ {
			d := make(done)
			b.Sequence = uint64(done + 1)
			b.Items = append(b.Items, audit.Item{DecisionID: d.ID, Entry: audit.Entry{
				Log: audit.Decisions, ID: audit.ID{Ms: uint64(began + int64(done)), Sequence: b.Sequence},
				Record: need(events.EncodeDecision(d))(r.t), Seal: "test.seal",
			}})
		}
		head = need(a.Append(ctx, head, trees, b))(r.t)
	}
	signed := func(l audit.Log) audit.Checkpoint { return need(r.key.Sign(l, trees.Of(l).Tree()))(r.t) }
	if !need(a.Publish(ctx, signed(audit.Decisions), signed(audit.Outcomes), head.Sequence))(r.t) {
		r.t.Fatal("the checkpoint was not taken")
	}
}

// looks are the decisions about looking into the log that are on the ledger.
func (r *rig) looks() []events.Decision {
	r.t.Helper()
	last := need(r.ledger.Last(r.t.Context()))(r.t)
	var all []events.Decision
	if last == 0 {
		return nil
	}
	enough := errors.New("enough")
	err := r.ledger.Follow(r.t.Context(), 1, func(_ context.Context, batch []ledger.Record) error {
		for _, rec := range batch {
			if e, err := events.Parse(rec.Data); err == nil && e.Decision.Resource.Kind == auditKind {
				if !bytes.Contains(rec.Data, []byte(`"source":"`+events.SourceAuditor+`"`)) {
					r.t.Errorf("the source of a decision of the auditor's is not %s: %s", events.SourceAuditor, rec.Data)
				}
				all = append(all, e.Decision)
			}
			if rec.Last && events.SequenceOf(rec.Address) >= last {
				return enough
			}
		}
		return nil
	})
	if !errors.Is(err, enough) {
		r.t.Fatal(err)
	}
	return all
}

func inTenant(name string) []string { return []string{gate.TenantHeader, name} }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func need[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		must(t, err)
		return v
	}
}
