package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/health"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/kinds"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/limit"
	"github.com/writ-project/writ/pkg/problem"
	"github.com/writ-project/writ/pkg/request"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/stytchemu"
	"github.com/writ-project/writ/pkg/telemetry"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	soon    = 20 * time.Second
	project = "project-test-00000000-0000-4000-8000-000000000001"
	secret  = "secret-test-for-tests-only-0000000000000000"
)

// rig is everything that an api instance needs, and no worker.
type rig struct {
	t      testing.TB
	nats   string // as the api reaches it
	direct string // as the test reaches it
	store  *store.Store
	authz  authz.Authorizer
	id     *identity.Client
	keys   *events.Keyring
	tel    *telemetry.Telemetry
	ledger *ledger.Ledger // the test's own

	stytch     string // the emulator's address
	stopStytch func()

	stopping <-chan struct{}

	webhookSecret string
	backlog       *limit.Backlog
	queue         *limit.Backlog
	proxies       request.Proxies
	streamCheck   time.Duration
}

type option func(*rig)

func newRig(t testing.TB, options ...option) *rig {
	t.Helper()
	ctx := t.Context()
	r := &rig{t: t}
	r.keys = need(events.ParseKeyring(events.GenerateKey("test")))(t)
	r.tel = need(telemetry.Setup(ctx, "test", "0"))(t)
	t.Cleanup(func() { _ = r.tel.Shutdown(context.Background()) })
	for _, o := range options {
		o(r)
	}
	if r.nats == "" {
		r.nats = testkit.NATS(t).URL()
	}
	if r.direct == "" {
		r.direct = r.nats
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
	web := httptest.NewServer(emulator)
	t.Cleanup(func() {
		web.Close()
		_ = emulator.Close()
	})
	r.stytch, r.stopStytch = web.URL, func() {
		web.CloseClientConnections()
		web.Close()
	}
	r.id = need(identity.New(ctx, identity.Config{ProjectID: project, Secret: secret, BaseURL: web.URL}))(t)
	t.Cleanup(r.id.Close)
	r.ledger = r.connect(r.direct)
	return r
}

func (r *rig) open(url string) {
	r.t.Helper()
	r.store = need(store.Open(r.t.Context(), url))(r.t)
	r.t.Cleanup(func() { _ = r.store.Close() })
	must(r.t, r.store.Migrate(r.t.Context()))
	must(r.t, r.store.MakeShards(r.t.Context(), 1)) // as a worker does at its start
}

func (r *rig) connect(url string) *ledger.Ledger {
	r.t.Helper()
	nc := need(ledger.Connect(url, "test"))(r.t)
	r.t.Cleanup(nc.Close)
	l := need(ledger.Open(r.t.Context(), nc, ledger.Config{}))(r.t)
	r.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = l.Close(ctx)
	})
	return l
}

// api starts an api instance and gives its address.
func (r *rig) api() string {
	r.t.Helper()
	web := httptest.NewServer(r.handler())
	r.t.Cleanup(func() {
		web.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return web.URL
}

// handler is an api instance without a listener.
func (r *rig) handler() http.Handler {
	r.t.Helper()
	s, h, err := New(Config{
		Ledger: r.connect(r.nats), Store: r.store, Authz: r.authz, Identity: r.id, Keys: r.keys, Kinds: kinds.All,
		Health: health.New(), Telemetry: r.tel, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Version: "test",
		Stopping: r.stopping, StytchWebhookSecret: r.webhookSecret, Backlog: r.backlog, Queue: r.queue, TrustedProxies: r.proxies, OwnURL: "http://localhost",
	})
	must(r.t, err)
	r.t.Cleanup(s.Close)
	return h
}

// person makes a user with a session and a row of the directory.
func (r *rig) person(name string, roles ...string) (id, token string) {
	r.t.Helper()
	ctx := r.t.Context()
	tenants := map[string]user.Membership{user.DefaultTenant: {Roles: roles}}
	u := need(r.id.CreateUser(ctx, identity.User{Email: name + "@example.com", Tenants: tenants}))(r.t)
	magic := need(r.id.CreateToken(ctx, u.ID))(r.t)
	in := need(r.id.AuthenticateMagicLink(ctx, magic, "", ""))(r.t)
	row := user.Sync{Email: u.Email, Tenants: tenants}.Apply(nil, u.ID, time.Now())
	r.put(user.Kind, *row)
	return u.ID, in.JWT
}

func (r *rig) put(d *kind.Definition, row kind.Row) {
	r.t.Helper()
	must(r.t, r.store.Update(r.t.Context(), func(ctx context.Context, tx *store.Tx) error {
		return tx.PutRows(ctx, d, []kind.Row{row})
	}))
}

// contact puts a contact of an owner into the database.
func (r *rig) contact(owner string) string {
	r.t.Helper()
	id := uuid.Must(uuid.NewV7()).String()
	r.put(contact.Kind, need(contact.Kind.Create(id, user.DefaultTenant, owner, []byte(`{"first_name":"x"}`), time.Now()))(r.t))
	return id
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) problem(t testing.TB) problem.Problem {
	t.Helper()
	var p problem.Problem
	must(t, json.Unmarshal(a.body, &p))
	return p
}

func (r *rig) do(method, url, token, body string, headers ...string) answer {
	r.t.Helper()
	req := need(http.NewRequestWithContext(r.t.Context(), method, url, bytes.NewReader([]byte(body))))(r.t)
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res := need(http.DefaultClient.Do(req))(r.t)
	defer res.Body.Close()
	return answer{res.StatusCode, res.Header, need(io.ReadAll(res.Body))(r.t)}
}

// count is how many events the ledger holds.
func (r *rig) count() uint64 {
	r.t.Helper()
	return uint64(len(r.events()))
}

// events reads the whole ledger.
func (r *rig) events() []*events.Event {
	r.t.Helper()
	last := need(r.ledger.Last(r.t.Context()))(r.t)
	var all []*events.Event
	if last == 0 {
		return nil
	}
	enough := errors.New("enough")
	err := r.ledger.Follow(r.t.Context(), 1, func(_ context.Context, batch []ledger.Record) error {
		for _, rec := range batch {
			e := need(events.Parse(rec.Data))(r.t)
			must(r.t, e.Verify(r.keys, rec.Subject))
			all = append(all, e)
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
