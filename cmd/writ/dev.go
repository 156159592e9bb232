package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/identity"
	"github.com/writ-project/writ/pkg/service"
	"github.com/writ-project/writ/pkg/stytchemu"
	"github.com/writ-project/writ/pkg/telemetry"
	"github.com/writ-project/writ/services/api"
	"github.com/writ-project/writ/services/auditor"
	"github.com/writ-project/writ/services/worker"
)

// devCmd runs everything in one process. The flags are the services' settings.
type devCmd struct {
	Seed        bool   `help:"Fill an empty data folder with demo contacts." default:"true" negatable:""`
	APIAddr     string `help:"Where the API listens; a taken port is replaced by a free one." env:"WRIT_API_ADDR" default:"127.0.0.1:8080"`
	PublicURL   string `help:"Where browsers reach the API, if not at --api-addr." env:"WRIT_PUBLIC_URL"`
	AuditorAddr string `help:"Where the auditor listens." env:"WRIT_AUDITOR_ADDR" default:"127.0.0.1:8081"`
	WorkerAddr  string `help:"Where the worker listens." env:"WRIT_WORKER_ADDR" default:"127.0.0.1:8082"`
	MailboxAddr string `help:"Where the Stytch emulator and its mailbox listen." env:"WRIT_MAILBOX_ADDR" default:"127.0.0.1:8025"`
	NATSAddr    string `help:"Where the embedded NATS server listens." env:"WRIT_NATS_ADDR" default:"127.0.0.1:4222"`
	RedisAddr   string `help:"Where the embedded Redis listens." env:"WRIT_REDIS_ADDR" default:"127.0.0.1:6379"`
	Cerbos      string `help:"embed:FOLDER, or a PDP's gRPC address." env:"WRIT_CERBOS" default:"embed:policies"`
	LedgerSync  string `help:"When the ledger is fsynced: always, or an interval such as 1s." env:"WRIT_LEDGER_SYNC" default:"always"`
	LedgerMax   int64  `help:"How large the ledger may grow, in bytes; 0 for no limit." env:"WRIT_LEDGER_MAX_BYTES" default:"0"`
	Shards      int    `help:"Over how many shards commands are spread; the ledger keeps the number that it was made with." name:"ledger-shards" env:"WRIT_LEDGER_SHARDS" default:"1"`
	MaxUpload   uint64 `help:"How large the file of a video may be, in bytes." env:"WRIT_MAX_UPLOAD" default:"2147483648"`
	ContentMax  uint64 `help:"How large all files together may be, in bytes; 0 for no limit." env:"WRIT_CONTENT_MAX_BYTES" default:"0"`

	AuditRetention time.Duration `help:"How long the audit log's entries are kept in Redis; 0 for ever." env:"WRIT_AUDIT_RETENTION" default:"720h"`
	BootstrapAdmin string        `help:"The e-mail address of the first admin, who is made when they sign in and the tenant default has none." env:"WRIT_BOOTSTRAP_ADMIN"`
	WebhookSecret  string        `help:"What messages to /v1/webhooks/stytch are signed with, whsec_ and base64." env:"STYTCH_WEBHOOK_SECRET"`
	PrivateHooks   bool          `help:"Let webhooks go to this machine and other addresses that are not public." name:"webhooks-allow-private" env:"WRIT_WEBHOOKS_ALLOW_PRIVATE"`
	Proxies        string        `help:"The proxies' address ranges (CIDR, separated by commas), whose X-Forwarded-For is believed." name:"trusted-proxies" env:"WRIT_TRUSTED_PROXIES"`
	CORSOrigins    string        `help:"The origins (separated by commas, such as http://localhost:3000) whose pages may use the services with a token of their own." name:"cors-origins" env:"WRIT_CORS_ORIGINS"`
	MaxInFlight    uint          `help:"How many requests are worked on at a time; 0 for no limit." env:"WRIT_MAX_IN_FLIGHT" default:"1024"`
	RateLimit      uint          `help:"How many requests a second one principal may send; 0 for no limit." env:"WRIT_RATE_LIMIT" default:"1000"`
	MaxBacklog     uint          `help:"How many commands may wait to be applied; 0 for no limit." env:"WRIT_MAX_BACKLOG" default:"100000"`
}

// stack is the local stack while it runs.
//
//	            ┌─ api ──────┐
//	emulator ───┤            ├──▶ NATS (file storage) ◀──┬── worker ──▶ SQLite
//	            └─ policies ─┘                           └── auditor ─▶ miniredis
type stack struct {
	cmd   *devCmd
	data  string
	local local
	keys  secrets
	log   *slog.Logger
	logs  map[string]*slog.Logger // by part

	emulator *stytchemu.Emulator
	stops    []func(context.Context) error // run from the last to the first
	failed   chan error
}

// stopTimeout bounds the whole stop.
const stopTimeout = 5 * time.Second

// Run runs the stack until the process is told to stop.
func (c *devCmd) Run(a *app) error {
	if err := os.MkdirAll(a.data, 0o700); err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	defer service.Ballast(64 << 20)()
	unlock, err := lock(filepath.Join(a.data, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	s := &stack{cmd: c, data: a.data, failed: make(chan error, 4), logs: map[string]*slog.Logger{}}
	for _, name := range []string{"dev", "worker", "auditor", "api"} {
		if s.logs[name], err = telemetry.LoggerFromEnv("writ-" + name); err != nil {
			return err
		}
	}
	s.log = s.logs["dev"]
	telemetry.Default(s.log)
	err = s.start(a.ctx)
	if err == nil {
		err = s.welcome(a.ctx, a.out)
	}
	if err == nil {
		select {
		case <-a.ctx.Done():
			fmt.Fprintln(a.out, "\nStopping …")
		case err = <-s.failed:
		}
	}
	if a.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil // told to stop while starting
	}
	return errors.Join(err, s.stop())
}

// lock keeps a second stack away from the same folder.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another writ dev uses the data folder %s", filepath.Dir(path)), f.Close())
	}
	return func() { _ = f.Close() }, nil // closing unlocks
}

func (s *stack) start(ctx context.Context) (err error) {
	if s.keys, err = makeSecrets(s.data); err != nil {
		return fmt.Errorf("local keys: %w", err)
	}
	if _, err = audit.LoadOrCreateKey(auditKeyFile(s.data), "dev"); err != nil {
		return fmt.Errorf("local keys: %w", err)
	}
	s.local.PID = os.Getpid()
	s.local.Database = "sqlite:" + filepath.Join(s.data, "writ.db")
	for _, step := range []func(context.Context) error{s.startNATS, s.startRedis, s.startEmulator, s.startServices} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return writeLocal(s.data, s.local)
}

// stop stops everything in reverse.
func (s *stack) stop() error {
	_ = os.Remove(filepath.Join(s.data, localFile)) // it may not have been written
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var all []error
	for i := len(s.stops) - 1; i >= 0; i-- {
		all = append(all, s.stops[i](ctx))
	}
	return errors.Join(all...)
}

func (s *stack) startNATS(context.Context) error {
	ln, err := listen(s.cmd.NATSAddr)
	if err != nil {
		return fmt.Errorf("WRIT_NATS_ADDR: %w", err)
	}
	addr := ln.Addr().(*net.TCPAddr)
	if err := ln.Close(); err != nil { // only to find a free port
		return err
	}
	opts := &natsserver.Options{
		ServerName: "writ-dev", Host: addr.IP.String(), Port: addr.Port, JetStream: true, StoreDir: filepath.Join(s.data, "nats"),
		MaxPayload: 4 << 20, NoSigs: true, NoLog: true, DontListen: false, JetStreamMaxStore: 1 << 40, JetStreamMaxMemory: 64 << 20,
	}
	if s.cmd.LedgerSync == "always" {
		opts.SyncAlways = true
	} else if opts.SyncInterval, err = time.ParseDuration(s.cmd.LedgerSync); err != nil {
		return fmt.Errorf("WRIT_LEDGER_SYNC: want always or an interval such as 1s, not %q", s.cmd.LedgerSync)
	}
	srv, err := natsserver.NewServer(opts)
	if err != nil {
		return fmt.Errorf("start NATS: %w", err)
	}
	srv.Start()
	s.stops = append(s.stops, func(context.Context) error {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil
	})
	if !srv.ReadyForConnections(10 * time.Second) {
		return errors.New("start NATS: it does not answer")
	}
	s.local.NATS = "nats://" + reached(srv.Addr())
	return nil
}

func (s *stack) startRedis(context.Context) error {
	ln, err := listen(s.cmd.RedisAddr)
	if err != nil {
		return fmt.Errorf("WRIT_REDIS_ADDR: %w", err)
	}
	addr := ln.Addr().String()
	if err := ln.Close(); err != nil { // only to find a free port
		return err
	}
	m := miniredis.NewMiniRedis()
	if err := m.StartAddr(addr); err != nil {
		return fmt.Errorf("start Redis: %w", err)
	}
	s.stops = append(s.stops, func(context.Context) error { m.Close(); return nil })
	s.local.Redis = "redis://" + reached(ln.Addr())
	return nil
}

func (s *stack) startEmulator(context.Context) error {
	ln, err := listen(s.cmd.MailboxAddr)
	if err != nil {
		return fmt.Errorf("WRIT_MAILBOX_ADDR: %w", err)
	}
	var names []string // beside loopback's, those that it is told to listen under
	for _, addr := range []string{s.cmd.MailboxAddr, ln.Addr().String()} {
		if host, _, err := net.SplitHostPort(addr); err == nil && host != "" {
			names = append(names, host)
		}
	}
	s.emulator, err = stytchemu.New(stytchemu.Config{ProjectID: localProject, Secret: s.keys.StytchSecret, Dir: filepath.Join(s.data, "stytch"), Hosts: names})
	if err != nil {
		return errors.Join(fmt.Errorf("start the Stytch emulator: %w", err), ln.Close())
	}
	s.stops = append(s.stops, func(context.Context) error { return s.emulator.Close() })
	srv := &http.Server{Handler: s.emulator, ReadHeaderTimeout: 5 * time.Second}
	s.run(func(context.Context) error {
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}, srv.Shutdown)
	s.local.Mailbox = "http://" + reached(ln.Addr())
	return nil
}

// run runs part of the stack; stop must make it return.
func (s *stack) run(part func(context.Context) error, stop func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	var err error
	done.Go(func() {
		if err = part(ctx); err != nil {
			select {
			case s.failed <- err:
			default: // one failure is enough to stop
			}
		}
	})
	s.stops = append(s.stops, func(limit context.Context) error {
		cancel()
		var stopErr error
		if stop != nil {
			stopErr = stop(limit)
		}
		done.Wait()
		return stopErr
	})
}

func (s *stack) startServices(ctx context.Context) error {
	var ln [3]net.Listener
	for i, addr := range []struct{ name, addr string }{
		{"WRIT_WORKER_ADDR", s.cmd.WorkerAddr}, {"WRIT_AUDITOR_ADDR", s.cmd.AuditorAddr}, {"WRIT_API_ADDR", s.cmd.APIAddr},
	} {
		var err error
		if ln[i], err = listen(addr.addr); err != nil {
			return fmt.Errorf("%s: %w", addr.name, err)
		}
	}
	url := func(l net.Listener) string { return "http://" + reached(l.Addr()) }
	s.local.Worker, s.local.Auditor, s.local.API = url(ln[0]), url(ln[1]), url(ln[2])

	s.run(func(ctx context.Context) error {
		return worker.Run(ctx, worker.Config{
			NATSURL: s.local.NATS, LedgerReplicas: 1, LedgerShards: s.cmd.Shards, LedgerMaxBytes: s.cmd.LedgerMax, ContentMaxBytes: s.cmd.ContentMax, DatabaseURL: s.local.Database, Cerbos: s.cmd.Cerbos,
			SealKeys: s.keys.SealKeys, StytchProjectID: localProject, StytchSecret: s.keys.StytchSecret, StytchBaseURL: s.local.Mailbox,
			WebhooksAllowPrivate: s.cmd.PrivateHooks, Listener: ln[0], Log: s.logs["worker"], Version: version(),
		})
	}, nil)
	s.run(func(ctx context.Context) error {
		return auditor.Run(ctx, auditor.Config{
			NATSURL: s.local.NATS, LedgerReplicas: 1, LedgerShards: s.cmd.Shards, LedgerMaxBytes: s.cmd.LedgerMax, RedisURL: s.local.Redis,
			AuditKeyFile: auditKeyFile(s.data), AuditRetention: s.cmd.AuditRetention, DatabaseURL: s.local.Database, Cerbos: s.cmd.Cerbos,
			StytchProjectID: localProject, StytchSecret: s.keys.StytchSecret, StytchBaseURL: s.local.Mailbox,
			TrustedProxies: s.cmd.Proxies, CORSOrigins: s.cmd.CORSOrigins, SealKeys: s.keys.SealKeys, Listener: ln[1], Log: s.logs["auditor"], Version: version(),
		})
	}, nil)
	s.run(func(ctx context.Context) error {
		return api.Run(ctx, api.Config{
			NATSURL: s.local.NATS, LedgerReplicas: 1, LedgerShards: s.cmd.Shards, LedgerMaxBytes: s.cmd.LedgerMax, ContentMaxBytes: s.cmd.ContentMax, MaxUpload: s.cmd.MaxUpload, DatabaseURL: s.local.Database, Cerbos: s.cmd.Cerbos,
			SealKeys: s.keys.SealKeys, PublicURL: cmp.Or(s.cmd.PublicURL, s.local.API), StytchProjectID: localProject, StytchSecret: s.keys.StytchSecret,
			StytchBaseURL: s.local.Mailbox, Local: true, Mailbox: s.local.Mailbox + "/mailbox", Listener: ln[2], Log: s.logs["api"], Version: version(),
			BootstrapAdmin: s.cmd.BootstrapAdmin, StytchWebhookSecret: s.cmd.WebhookSecret, WebhooksAllowPrivate: s.cmd.PrivateHooks,
			TrustedProxies: s.cmd.Proxies, CORSOrigins: s.cmd.CORSOrigins, MaxInFlight: s.cmd.MaxInFlight, RateLimit: s.cmd.RateLimit, MaxBacklog: s.cmd.MaxBacklog,
		})
	}, nil)
	for _, base := range []string{s.local.Worker, s.local.API, s.local.Auditor} {
		if err := s.ready(ctx, base); err != nil {
			return err
		}
	}
	return nil
}

// readyTimeout bounds the start.
const readyTimeout = 30 * time.Second

// ready waits until a service says that it is ready.
func (s *stack) ready(ctx context.Context, base string) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	last := errors.New("no answer")
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/readyz?verbose", nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			err = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return err
			}
			last = errors.New(res.Status)
		}
		select {
		case err := <-s.failed:
			return err
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w (%w)", base, last, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// listen binds addr, or another port of the same host when that one is taken.
func listen(addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err == nil || !errors.Is(err, syscall.EADDRINUSE) {
		return ln, err
	}
	host, _, splitErr := net.SplitHostPort(addr)
	if splitErr != nil {
		return nil, err
	}
	return net.Listen("tcp", net.JoinHostPort(host, "0"))
}

// reached is where this machine reaches what listens at an address, which may be every address.
func reached(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok || !tcp.IP.IsUnspecified() {
		return addr.String()
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(tcp.Port))
}

// identityClient talks to the emulator as the api does.
func identityClient(ctx context.Context, mailbox string, keys secrets) (*identity.Client, error) {
	if !strings.HasPrefix(mailbox, "http://127.0.0.1:") && !strings.HasPrefix(mailbox, "http://[::1]:") {
		return nil, errors.New("this works with the local Stytch emulator only")
	}
	return identity.New(ctx, identity.Config{ProjectID: localProject, Secret: keys.StytchSecret, BaseURL: mailbox})
}
