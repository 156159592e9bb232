package roles

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/stytchemu"
	"github.com/writ-project/writ/pkg/telemetry"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/services/worker/internal/apply"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const (
	soon    = 60 * time.Second
	project = "project-test-33333333-3333-4333-8333-333333333333"
	secret  = "secret-test"
)

// hurried is timing for tests: an hour's outage takes a second.
var hurried = timing{
	beat: 50 * time.Millisecond, hold: 400 * time.Millisecond, lapse: 800 * time.Millisecond, poll: 50 * time.Millisecond,
	first: 20 * time.Millisecond, most: 200 * time.Millisecond, grace: time.Second, look: time.Hour,
}

// rig is a ledger, a database, policies and a Stytch; workers are started on it
// by hand. The apply loop runs all the time.
type rig struct {
	t        *testing.T
	nats     string
	ledger   *ledger.Ledger
	store    *store.Store
	authz    authz.Authorizer
	keys     *events.Keyring
	tel      *telemetry.Telemetry
	emulator *stytchemu.Emulator
	stytch   *identity.Client
	base     string
	calls    atomic.Int64 // to Stytch
	puts     atomic.Int64 // of them, changes that have ended
	stopLoop func()
	via      string        // where role workers find NATS, if not at nats
	patience time.Duration // of their appends, 0 for the usual
	boss     events.Principal
}

func databases(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Run("sqlite", func(t *testing.T) { t.Parallel(); test(t, newRig(t, "sqlite:"+filepath.Join(t.TempDir(), "writ.db"))) })
	t.Run("postgres", func(t *testing.T) { t.Parallel(); test(t, newRig(t, testkit.Postgres(t))) })
}

func sqlite(t *testing.T) *rig { return newRig(t, "sqlite:"+filepath.Join(t.TempDir(), "writ.db")) }

func newRig(t *testing.T, databaseURL string) *rig {
	t.Helper()
	ctx := t.Context()
	r := &rig{t: t, nats: testkit.NATS(t).URL()}
	r.keys = need(events.ParseKeyring(events.GenerateKey("test")))(t)
	r.tel = need(telemetry.Setup(ctx, "test", "0"))(t)
	t.Cleanup(func() { _ = r.tel.Shutdown(context.Background()) })
	r.store = need(store.Open(ctx, databaseURL))(t)
	t.Cleanup(func() { _ = r.store.Close() })
	must(t, r.store.Migrate(ctx))
	r.authz = need(authz.Open(ctx, "embed:../../../../policies"))(t)
	t.Cleanup(func() { _ = r.authz.Close() })
	r.emulator = need(stytchemu.New(stytchemu.Config{ProjectID: project, Secret: secret}))(t)
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		r.calls.Add(1)
		defer func() {
			if req.Method == http.MethodPut {
				r.puts.Add(1)
			}
		}()
		r.emulator.ServeHTTP(rw, req)
	}))
	r.base = server.URL
	r.stytch = r.identity()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		must(t, r.emulator.Close())
	})
	r.ledger = r.connect()
	r.boss = r.person("boss@example.com", user.RoleAdmin)
	r.loop()
	return r
}

func (r *rig) identity() *identity.Client {
	c := need(identity.New(r.t.Context(), identity.Config{ProjectID: project, Secret: secret, BaseURL: r.base}))(r.t)
	r.t.Cleanup(c.Close)
	return c
}

func (r *rig) connect() *ledger.Ledger {
	r.t.Helper()
	nc := need(ledger.Connect(r.nats, "test"))(r.t)
	r.t.Cleanup(nc.Close)
	l := need(ledger.Open(r.t.Context(), nc, ledger.Config{}))(r.t)
	r.t.Cleanup(func() { _ = l.Close(context.Background()) })
	return l
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// loop runs the apply loop until the test ends.
func (r *rig) loop() {
	l := need(apply.New(apply.Config{Ledger: r.connect(), Store: r.store, Authz: r.authz, Keys: r.keys, Log: quiet, Telemetry: r.tel,
		Handlers: []apply.Handler{apply.Directory(), apply.CRUD(contact.Kind)}}))(r.t)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { _ = l.Run(ctx) })
	r.stopLoop = func() { cancel(); done.Wait() }
	r.t.Cleanup(r.stopLoop)
}

// process is a role worker that can be killed.
type process struct {
	*Worker
	stop context.CancelFunc
	done sync.WaitGroup
	died chan point
	dead atomic.Bool
}

// start runs a role worker; it dies when it comes to a point that die names.
func (r *rig) start(die func(point) bool, change ...func(*Worker)) *process {
	r.t.Helper()
	nc := need(ledger.Connect(cmp.Or(r.via, r.nats), "worker"))(r.t)
	led := need(ledger.Open(r.t.Context(), nc, ledger.Config{AppendTimeout: r.patience}))(r.t)
	p := &process{died: make(chan point, 1)}
	p.Worker = need(New(Config{Ledger: led, Store: r.store, Authz: r.authz, Keys: r.keys, Stytch: r.identity(), Log: quiet, Telemetry: r.tel}))(r.t)
	p.timing = hurried
	p.at = func(at point) error {
		if p.dead.Load() {
			return errDied
		}
		if die != nil && die(at) {
			p.dead.Store(true)
			p.died <- at
			return errDied
		}
		return nil
	}
	for _, c := range change {
		c(p.Worker)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	p.done.Go(func() {
		if err := p.Run(ctx); err != nil && !errors.Is(err, errDied) {
			r.t.Errorf("the role worker ended: %v", err)
		}
	})
	r.t.Cleanup(func() {
		p.end()
		nc.Close()
		_ = led.Close(context.Background())
	})
	return p
}

func (p *process) end() {
	p.stop()
	p.done.Wait()
}

// person makes a user at Stytch and in the directory.
func (r *rig) person(email string, roles ...string) events.Principal {
	r.t.Helper()
	u := need(r.stytch.CreateUser(r.t.Context(), identity.User{Email: email, Tenants: in(roles...)}))(r.t)
	row := user.Sync{Email: u.Email, Tenants: u.Tenants}.Apply(nil, u.ID, time.Now())
	must(r.t, r.store.Update(r.t.Context(), func(ctx context.Context, tx *store.Tx) error {
		return tx.PutRows(ctx, user.Kind, []kind.Row{*row})
	}))
	return r.principal(u.ID)
}

func in(roles ...string) map[string]user.Membership {
	return map[string]user.Membership{user.DefaultTenant: {Roles: roles}}
}

// principal is a user as the directory has them.
func (r *rig) principal(id string) events.Principal {
	r.t.Helper()
	u := r.user(id)
	roles, attr := u.In(user.DefaultTenant)
	return events.Principal{ID: id, Version: u.Version, Roles: roles, Attr: attr}
}

func (r *rig) user(id string) *user.User {
	r.t.Helper()
	row := need(r.store.Get(r.t.Context(), user.Kind, id))(r.t)
	return row.Value.(*user.User)
}

// submit puts a command on the ledger as the api would, decided on the rows as they are.
func (r *rig) submit(by events.Principal, action, id string, body any, edit ...func(*events.Decision, *events.Command)) (command string) {
	r.t.Helper()
	m, c := r.writ(by, action, id, body, edit...)
	need(r.ledger.Append(r.t.Context(), m))(r.t)
	return c.ID
}

func (r *rig) writ(by events.Principal, action, id string, body any, edit ...func(*events.Decision, *events.Command)) (events.Message, events.Command) {
	r.t.Helper()
	c := events.Command{ID: newID(), Kind: user.Kind.Name, ResourceID: id, Action: action, Tenant: user.DefaultTenant, PrincipalID: by.ID, IssuedAt: time.Now().UTC()}
	if body != nil {
		c.Body = need(json.Marshal(body))(r.t)
	}
	var version int64
	if row, err := r.store.Get(r.t.Context(), user.Kind, id); err == nil {
		version = row.Version
	}
	d := events.Decision{
		ID: newID(), Stage: events.StageRequest, Tenant: c.Tenant, Principal: by, Action: action, Effect: events.Allow, EvaluatedAt: time.Now().UTC(),
		Resource: events.Resource{Kind: c.Kind, ID: id, Version: version}, Policy: events.Policy{Revision: r.authz.Revision()},
	}
	expires := time.Now().Add(time.Hour)
	for _, e := range edit {
		e(&d, &c)
		if d.Command != nil {
			expires = d.Command.Expires
		}
	}
	return need(events.NewWrit(r.keys, events.SourceAPI, &d, &c, expires))(r.t), c
}

func (r *rig) roles(id string, roles ...string) (command string) {
	r.t.Helper()
	return r.submit(r.boss, user.ActionRoles, id, user.RolesChange{Tenant: user.DefaultTenant, Roles: roles})
}

// status waits until a command has a status.
func (r *rig) status(command string, want events.Status) store.Command {
	r.t.Helper()
	var row store.Command
	testkit.Eventually(r.t, soon, func() (err error) {
		if row, err = r.store.Command(r.t.Context(), command); err == nil && row.Status != want {
			err = fmt.Errorf("command %s is %s (%s: %s), not %s", command, row.Status, row.Code, row.Reason, want)
		}
		return err
	})
	return row
}

// agrees makes sure that Stytch and the directory say the same of a user.
func (r *rig) agrees(id string, roles ...string) {
	r.t.Helper()
	at := need(r.stytch.User(r.t.Context(), id))(r.t)
	u := r.user(id)
	have, _ := u.In(user.DefaultTenant)
	if fmt.Sprint(have) != fmt.Sprint(roles) {
		r.t.Errorf("the directory has %s as %v, not %v", id, have, roles)
	}
	a, b := need(json.Marshal(at.Tenants))(r.t), need(json.Marshal(u.Tenants))(r.t)
	if string(a) != string(b) || at.RolesCommand != u.RolesCommand {
		r.t.Errorf("Stytch has %s by %q, the directory %s by %q", a, at.RolesCommand, b, u.RolesCommand)
	}
}

// idle waits until the queue is empty.
func (r *rig) idle() {
	r.t.Helper()
	testkit.Eventually(r.t, soon, func() error {
		n, _, err := r.store.QueueLength(r.t.Context())
		if err == nil && n > 0 {
			err = fmt.Errorf("%d on the queue", n)
		}
		return err
	})
}

// ledgerEvents reads the whole ledger.
func (r *rig) ledgerEvents() (all []*events.Event) {
	r.t.Helper()
	last := need(r.ledger.Last(r.t.Context()))(r.t)
	enough := errors.New("enough")
	err := r.ledger.Follow(r.t.Context(), 1, func(_ context.Context, batch []ledger.Record) error {
		for _, rec := range batch {
			if e, err := events.Parse(rec.Data); err == nil {
				all = append(all, e)
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

// outcomes waits until every command has its outcome on the ledger and is off
// the queue, and fails if one has two.
func (r *rig) outcomes(commands ...string) map[string]events.Outcome {
	r.t.Helper()
	var by map[string]events.Outcome
	testkit.Eventually(r.t, soon, func() error {
		by = map[string]events.Outcome{}
		for _, e := range r.ledgerEvents() {
			if e.Type == events.TypeOutcome {
				if _, twice := by[e.Outcome.CommandID]; twice {
					r.t.Fatalf("command %s has two outcomes", e.Outcome.CommandID)
				}
				by[e.Outcome.CommandID] = e.Outcome
			}
		}
		for _, c := range commands {
			if _, ok := by[c]; !ok {
				return fmt.Errorf("command %s has no outcome", c)
			}
		}
		return nil
	})
	r.idle()
	return by
}

// dead reads the dead letters' codes.
func (r *rig) dead() (codes []string) {
	r.t.Helper()
	nc := need(nats.Connect(r.nats))(r.t)
	defer nc.Close()
	js := need(nc.JetStream())(r.t)
	info := need(js.StreamInfo(events.StreamDead))(r.t)
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq && seq > 0; seq++ {
		codes = append(codes, need(js.GetMsg(events.StreamDead, seq))(r.t).Header.Get(ledger.HeaderCode))
	}
	return codes
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

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
