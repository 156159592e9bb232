package apply

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/trace"
	nooptrace "go.opentelemetry.io/otel/trace/noop"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/kind/contact"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/kind/webhook"
	"github.com/writ-project/writ/pkg/kinds"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/store"
	"github.com/writ-project/writ/pkg/telemetry"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const soon = 20 * time.Second

// rig is a ledger, a database and policies; workers are started on it by hand.
type rig struct {
	t        testing.TB
	nats     string
	ledger   *ledger.Ledger
	store    *store.Store
	authz    authz.Authorizer
	policies string
	keys     *events.Keyring
	tel      *telemetry.Telemetry
	shards   int
	via      string // where workers find NATS, if not at nats
	// sending, unless it is nil, is called before a worker appends a message.
	sending func(*process)
	marker  events.Principal // whose commands idle waits for
}

func databases(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Run("sqlite", func(t *testing.T) { t.Parallel(); test(t, newRig(t, "sqlite:"+filepath.Join(t.TempDir(), "writ.db"))) })
	t.Run("postgres", func(t *testing.T) { t.Parallel(); test(t, newRig(t, testkit.Postgres(t))) })
}

func sqlite(t testing.TB) *rig { return newRig(t, "sqlite:"+filepath.Join(t.TempDir(), "writ.db")) }

// newRig has one shard, or as many as it is told.
func newRig(t testing.TB, databaseURL string, shards ...int) *rig {
	t.Helper()
	ctx := t.Context()
	r := &rig{t: t, nats: testkit.NATS(t).URL(), policies: t.TempDir(), shards: max(append(shards, 1)[0], 1)}
	must(t, os.CopyFS(r.policies, os.DirFS("../../../../policies")))
	r.keys = need(events.ParseKeyring(events.GenerateKey("test")))(t)
	r.tel = need(telemetry.Setup(ctx, "test", "0"))(t)
	t.Cleanup(func() { _ = r.tel.Shutdown(context.Background()) })
	st := need(store.Open(ctx, databaseURL))(t)
	t.Cleanup(func() { _ = st.Close() })
	r.store = st
	must(t, r.store.Migrate(ctx))
	az := need(authz.Open(ctx, "embed:"+r.policies))(t)
	t.Cleanup(func() { _ = az.Close() })
	r.authz = az
	r.ledger = r.connect()
	r.marker = r.person("marker", "user")
	return r
}

func (r *rig) connect() *ledger.Ledger {
	r.t.Helper()
	nc := need(ledger.Connect(r.nats, "test"))(r.t)
	r.t.Cleanup(nc.Close)
	l := need(ledger.Open(r.t.Context(), nc, ledger.Config{Shards: r.shards}))(r.t)
	r.t.Cleanup(func() { _ = l.Close(context.Background()) })
	return l
}

// process is a worker that can be killed.
type process struct {
	loop *Loop
	stop context.CancelFunc
	done sync.WaitGroup
	nc   *nats.Conn
	died chan point
	// ended is what Run returned; it can be read after end.
	ended error

	rig *rig
	nooptrace.Tracer
}

// Start is called where the ledger begins to send: the process is its tracer.
func (p *process) Start(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	if p.rig.sending != nil {
		p.rig.sending(p)
	}
	return p.Tracer.Start(ctx, name, opts...)
}

// die ends the goroutine that applies, and nothing after this is heard of any more.
func (p *process) die(at point) {
	p.nc.Close()
	p.died <- at
	runtime.Goexit()
}

// start runs a worker; it dies when it comes to a point that die names.
func (r *rig) start(die func(point) bool, change ...func(*Loop)) *process {
	r.t.Helper()
	p := r.prepare(die, change...)
	p.begin()
	return p
}

// prepare makes a worker, which begin runs.
func (r *rig) prepare(die func(point) bool, change ...func(*Loop)) *process {
	r.t.Helper()
	p := &process{died: make(chan point, 1), rig: r}
	p.nc = need(ledger.Connect(cmp.Or(r.via, r.nats), "worker"))(r.t)
	led := need(ledger.Open(r.t.Context(), p.nc, ledger.Config{Shards: r.shards, Tracer: p}))(r.t)
	handlers := []Handler{Directory(), Tenants(), AtMost(webhook.MaxPerTenant, CRUD(webhook.Kind))}
	for _, d := range kinds.All {
		handlers = append(handlers, CRUD(d))
	}
	p.loop = need(New(Config{Ledger: led, Store: r.store, Authz: r.authz, Keys: r.keys, Handlers: handlers,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Telemetry: r.tel}))(r.t)
	if die != nil {
		p.loop.at = func(at point) {
			if die(at) {
				p.die(at)
			}
		}
	}
	for _, c := range change {
		c(p.loop)
	}
	r.t.Cleanup(func() {
		_ = led.Close(context.Background())
		p.nc.Close()
	})
	return p
}

func (p *process) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	p.done.Go(func() { p.ended = p.loop.Run(ctx) })
	p.rig.t.Cleanup(p.end)
}

func (p *process) end() {
	p.stop()
	p.done.Wait()
	p.nc.Close()
}

// person puts a user into the directory.
func (r *rig) person(id string, roles ...string) events.Principal {
	r.t.Helper()
	row := user.Kind.New()
	if old, err := r.store.Get(r.t.Context(), user.Kind, id); err == nil {
		row = old
	}
	u := row.Value.(*user.User)
	u.ID, u.OwnerID, u.Tenant, u.Email = id, id, user.DefaultTenant, id+"@example.com"
	u.Version++
	u.Tenants = map[string]user.Membership{user.DefaultTenant: {Roles: roles}}
	must(r.t, r.store.Update(r.t.Context(), func(ctx context.Context, tx *store.Tx) error {
		return tx.PutRows(ctx, user.Kind, []kind.Row{row})
	}))
	roles, attr := u.In(user.DefaultTenant)
	return events.Principal{ID: id, Version: u.Version, Roles: roles, Attr: attr}
}

// writ makes a command as the api would, decided on what the caller claims to have seen.
func (r *rig) writ(p events.Principal, action, id string, version int64, attrs map[string]any, body string, edit ...func(*events.Decision, *events.Command)) (events.Message, events.Command) {
	r.t.Helper()
	c := events.Command{ID: newID(), Kind: contact.Kind.Name, ResourceID: id, Action: action, Tenant: user.DefaultTenant, PrincipalID: p.ID, IssuedAt: time.Now().UTC()}
	if body != "" {
		c.Body = json.RawMessage(body)
	}
	d := events.Decision{
		ID: newID(), Stage: events.StageRequest, Tenant: c.Tenant, Principal: p, Action: action, Effect: events.Allow, EvaluatedAt: time.Now().UTC(),
		Resource: events.Resource{Kind: c.Kind, ID: id, Version: version, Attr: attrs}, Policy: events.Policy{Revision: r.authz.Revision()},
	}
	for _, e := range edit {
		e(&d, &c)
	}
	m := need(events.NewWrit(r.keys, events.SourceAPI, &d, &c, time.Now().Add(time.Hour)))(r.t)
	return m, c
}

func (r *rig) append(m events.Message) events.Address {
	r.t.Helper()
	return need(r.ledger.Append(r.t.Context(), m))(r.t)
}

// batch puts commands on the ledger as one message for each of their shards.
func (r *rig) batch(all ...events.Message) {
	r.t.Helper()
	must(r.t, r.ledger.AppendAll(r.t.Context(), all))
}

// create submits a create as p and gives the contact's id and the command's.
func (r *rig) create(p events.Principal, name string) (id, command string) {
	r.t.Helper()
	id = newID()
	m, c := r.writ(p, kind.ActionCreate, id, 0, nil, fmt.Sprintf(`{"first_name":%q}`, name))
	r.append(m)
	return id, c.ID
}

func (r *rig) contact(id string) (*contact.Contact, error) {
	row, err := r.store.Get(r.t.Context(), contact.Kind, id)
	if err != nil {
		return nil, err
	}
	return row.Value.(*contact.Contact), nil
}

// ledgerEvents reads the whole ledger.
func (r *rig) ledgerEvents() []*events.Event {
	r.t.Helper()
	last := need(r.ledger.Last(r.t.Context()))(r.t)
	var all []*events.Event
	if last == 0 {
		return nil
	}
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

func (r *rig) write(row kind.Row) error {
	return r.store.Update(r.t.Context(), func(ctx context.Context, tx *store.Tx) error {
		return tx.PutRows(ctx, contact.Kind, []kind.Row{row})
	})
}

// openFresh opens an empty database with the schema.
func openFresh(t *testing.T) (*store.Store, error) {
	s, err := store.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "fresh.db"))
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, s.Migrate(t.Context())
}

// outcomes waits until every command has its outcome on the ledger and fails if
// one has two.
func (r *rig) outcomes(commands ...string) map[string]events.Outcome {
	r.t.Helper()
	var byCommand map[string]events.Outcome
	testkit.Eventually(r.t, soon, func() error {
		byCommand = map[string]events.Outcome{}
		for _, e := range r.ledgerEvents() {
			if e.Type != events.TypeOutcome {
				continue
			}
			if _, twice := byCommand[e.Outcome.CommandID]; twice {
				r.t.Fatalf("command %s has two outcomes", e.Outcome.CommandID)
			}
			byCommand[e.Outcome.CommandID] = e.Outcome
		}
		for _, c := range commands {
			if _, ok := byCommand[c]; !ok {
				return fmt.Errorf("command %s has no outcome", c)
			}
		}
		return nil
	})
	return byCommand
}

// idle waits until everything is applied and told: outcomes follow each other,
// so those of commands that are given now come after all others.
func (r *rig) idle() {
	r.t.Helper()
	var last []string
	for shard := range r.shards {
		m, c := r.writ(r.marker, kind.ActionCreate, r.inShard(shard), 0, nil, `{"first_name":"last"}`)
		r.append(m)
		last = append(last, c.ID)
	}
	r.outcomes(last...)
}

// inShard makes an id of a resource that belongs to a shard.
func (r *rig) inShard(shard int) string {
	for {
		if id := newID(); events.Shard(id, r.shards) == shard {
			return id
		}
	}
}

// dead reads the dead letters' codes, by the address of what died.
func (r *rig) dead() map[string]string {
	r.t.Helper()
	nc := need(nats.Connect(r.nats))(r.t)
	defer nc.Close()
	js := need(nc.JetStream())(r.t)
	out := map[string]string{}
	info := need(js.StreamInfo(events.StreamDead))(r.t)
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq && seq > 0; seq++ {
		m := need(js.GetMsg(events.StreamDead, seq))(r.t)
		out[m.Header.Get(ledger.HeaderSequence)] = m.Header.Get(ledger.HeaderCode)
	}
	return out
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

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
