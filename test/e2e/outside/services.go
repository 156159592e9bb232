package outside

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/kind/user"
	"github.com/writ-project/writ/pkg/stytchemu"
	"github.com/writ-project/writ/pkg/testkit"
)

// Services is writ as three processes beside real servers, with the settings of deploy/compose.yml.
type Services struct {
	Stack
	Keys *events.Keyring // what they seal with

	NATSServer *testkit.NATSProc
	Postgres   *testkit.PG
	RedisProc  *testkit.RedisProc
	Cerbos     *testkit.CerbosProc

	APIProc, WorkerProc, AuditorProc *testkit.Process

	// Database is the database's own URL, and Proxies, by server, what stands between it and the services if
	// StartProxied started them.
	Database string
	Proxies  map[string]*testkit.Proxy

	// Stytch is the emulator's URL; faults are ordered there.
	Stytch string

	AuditKeyFile string // signs the audit log's checkpoints

	identity *identity.Client
	settings []string
}

const (
	project = "project-test-11111111-1111-4111-8111-111111111111"
	secret  = "secret-test-of-the-emulator"
)

// StartServices starts everything. revision is WRIT_POLICY_REVISION; without one every decision is taken again when its
// command is applied. env is added to the settings of all three services.
func StartServices(t testing.TB, revision string, env ...string) *Services {
	t.Helper()
	s := prepare(t, revision, env)
	s.start(t)
	return s
}

// StartProxied is StartServices with a proxy in front of NATS, PostgreSQL, Redis and Cerbos; what the test itself asks
// goes past them.
func StartProxied(t testing.TB, revision string, env ...string) *Services {
	t.Helper()
	s := prepare(t, revision, env)
	database, err := url.Parse(s.Database)
	if err != nil {
		t.Fatal(err)
	}
	s.Proxies = map[string]*testkit.Proxy{}
	for name, addr := range map[string]string{
		"nats": strings.TrimPrefix(s.NATSServer.URL(), "nats://"), "postgres": database.Host,
		"redis": s.RedisProc.Addr(), "cerbos": s.Cerbos.GRPCAddr(),
	} {
		s.Proxies[name] = testkit.NewProxy(t, addr)
		for i := range s.settings {
			s.settings[i] = strings.ReplaceAll(s.settings[i], addr, s.Proxies[name].Addr())
		}
	}
	s.start(t)
	return s
}

// prepare starts the servers and makes the services' settings.
func prepare(t testing.TB, revision string, env []string) *Services {
	t.Helper()
	s := &Services{
		Cerbos:     testkit.CerbosServer(t, Policies(t)),
		Postgres:   testkit.PostgresServer(t),
		RedisProc:  testkit.RedisServer(t, testkit.RedisAppendOnly("everysec"), testkit.RedisArgs("--maxmemory-policy", "noeviction")),
		NATSServer: testkit.NATSProcess(t, testkit.NATSSyncAlways()),
	}
	emulator, err := stytchemu.New(stytchemu.Config{ProjectID: project, Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	stytch := httptest.NewServer(emulator)
	s.Stytch = stytch.URL
	if s.identity, err = identity.New(t.Context(), identity.Config{ProjectID: project, Secret: secret, BaseURL: stytch.URL}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.identity.Close()
		stytch.CloseClientConnections()
		stytch.Close()
		if err := emulator.Close(); err != nil {
			t.Error(err)
		}
	})
	seal := events.GenerateKey("e2e")
	if s.Keys, err = events.ParseKeyring(seal); err != nil {
		t.Fatal(err)
	}

	s.Database = s.Postgres.Database(t)
	s.AuditKeyFile = AuditKey(t)
	s.settings = append([]string{
		"WRIT_NATS_URL=" + s.NATSServer.URL(), "WRIT_LEDGER_REPLICAS=1", "WRIT_LEDGER_MAX_BYTES=536870912", "WRIT_SEAL_KEYS=" + seal,
		"WRIT_DATABASE_URL=" + s.Database, "WRIT_CERBOS=grpc://" + s.Cerbos.GRPCAddr(), "WRIT_POLICY_REVISION=" + revision,
		"WRIT_AUDIT_KEY_FILE=" + s.AuditKeyFile,
		"WRIT_REDIS_URL=" + s.RedisProc.URL(), "STYTCH_PROJECT_ID=" + project, "STYTCH_SECRET=" + secret, "STYTCH_BASE_URL=" + stytch.URL,
	}, env...)
	return s
}

// AuditKey makes a key that signs the audit log's checkpoints and gives its file.
func AuditKey(t testing.TB) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "audit.key")
	if _, err := audit.CreateKey(path, "test"); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *Services) start(t testing.TB) {
	t.Helper()
	// The worker first: it brings the database's tables up to date.
	s.WorkerProc, s.Worker = s.Another(t, "worker")
	s.AuditorProc, s.Auditor = s.Another(t, "auditor")
	s.APIProc, s.API = s.Another(t, "api")
	s.NATS, s.Redis, s.SignIn = s.NATSServer.URL(), s.RedisProc.URL(), s.signIn
}

// Settings are the settings of all services, as in an environment.
func (s *Services) Settings() []string { return slices.Clone(s.settings) }

// Restart starts the three services, which have ended, with more settings.
func (s *Services) Restart(t testing.TB, env ...string) {
	t.Helper()
	s.settings = append(s.settings, env...)
	s.start(t)
}

// Another starts one of api, worker and auditor, on a port of its own, and waits until it is ready.
func (s *Services) Another(t testing.TB, name string) (process *testkit.Process, base string) {
	t.Helper()
	addr := "127.0.0.1:" + strconv.Itoa(testkit.FreePort(t))
	setting := map[string]string{"api": "WRIT_API_ADDR", "worker": "WRIT_WORKER_ADDR", "auditor": "WRIT_AUDITOR_ADDR"}[name]
	base = "http://" + addr
	return testkit.StartProcess(t, testkit.Spec{
		Name: name, Path: Binary(t, name), Dir: t.TempDir(), Env: append([]string{setting + "=" + addr}, s.settings...),
		ReadyURL: base + "/readyz",
	}), base
}

func (s *Services) signIn(t testing.TB, email string, roles ...string) string {
	t.Helper()
	in := s.session(t, email, roles...)
	NewClient(t, s.API, in.JWT).Want(t, http.StatusOK, nil, http.MethodPost, "/v1/me/sync", "")
	return in.JWT
}

// Identity asks the emulator as the services do.
func (s *Services) Identity() *identity.Client { return s.identity }

// SessionToken is SignIn with the session's token, which is good for an hour where a JWT is for minutes.
func (s *Services) SessionToken(t testing.TB, email string, roles ...string) string {
	t.Helper()
	in := s.session(t, email, roles...)
	NewClient(t, s.API, in.Token).Want(t, http.StatusOK, nil, http.MethodPost, "/v1/me/sync", "")
	return in.Token
}

func (s *Services) session(t testing.TB, email string, roles ...string) identity.SignedIn {
	t.Helper()
	ctx := t.Context()
	found, err := s.identity.UserByEmail(ctx, email)
	if err != nil {
		if found, err = s.identity.CreateUser(ctx, identity.User{Email: email}); err != nil {
			t.Fatal(err)
		}
		if len(roles) == 0 {
			roles = []string{"user"}
		}
	}
	if len(roles) > 0 {
		if _, err := s.identity.UpdateUser(ctx, found.ID, identity.Update{Tenants: map[string]user.Membership{user.DefaultTenant: {Roles: roles}}}); err != nil {
			t.Fatal(err)
		}
	}
	token, err := s.identity.CreateToken(ctx, found.ID)
	if err != nil {
		t.Fatal(err)
	}
	in, err := s.identity.AuthenticateMagicLink(ctx, token, "", "")
	if err != nil {
		t.Fatal(err)
	}
	return in
}
