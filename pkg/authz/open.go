package authz

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/writ-project/writ/pkg/settings"
)

// Setting and SettingRevision are the environment's names for what Open and
// WithRevision take. Errors of Open name them.
const (
	Setting         = "WRIT_CERBOS"
	SettingRevision = "WRIT_POLICY_REVISION"
)

// DefaultTimeout bounds a call to a PDP whose context has no earlier deadline.
const DefaultTimeout = 2 * time.Second

type options struct {
	revision string
	timeout  time.Duration
	debounce time.Duration
	log      *slog.Logger
	onReload func(revision string, err error)
}

// Option adjusts what Open opens.
type Option func(*options)

// WithRevision names the policy revision that a PDP serves, which it does not
// tell itself: WRIT_POLICY_REVISION. The engine knows its own and ignores it.
func WithRevision(revision string) Option { return func(o *options) { o.revision = revision } }

// WithTimeout bounds each call to a PDP, DefaultTimeout unless set. The engine
// waits for nothing and needs no bound.
func WithTimeout(d time.Duration) Option { return func(o *options) { o.timeout = d } }

// WithLogger says where reloads and broken policies are told of; slog.Default unless set.
func WithLogger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

// OnReload is called after each reload of the engine's policies, from one
// goroutine: with the revision in force, and with the error when an edit was
// broken and the last good policies stay in force. It must not call Close.
func OnReload(f func(revision string, err error)) Option {
	return func(o *options) { o.onReload = f }
}

// Open makes the Authorizer that a setting names:
//
//	embed:DIR                    Cerbos' engine in this process on the policies in DIR
//	grpc:HOST:PORT               a PDP, without TLS; grpc://HOST:PORT is the same
//	grpcs://HOST:PORT            a PDP, with TLS and the system's roots
//	unix:/PATH                   a PDP on a Unix socket
//	HOST:PORT                    a PDP on this machine (loopback), without TLS
//
// Policies that do not compile are an error here. A PDP need not be up: see
// Ready. The error is one line and names WRIT_CERBOS.
func Open(ctx context.Context, setting string, opts ...Option) (Authorizer, error) {
	o := options{timeout: DefaultTimeout, debounce: 100 * time.Millisecond, log: slog.Default(), onReload: func(string, error) {}}
	for _, opt := range opts {
		opt(&o)
	}
	t, err := parseSetting(setting)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Setting, err)
	}
	// The nil of a concrete type must not become a non-nil interface.
	if t.dir != "" {
		e, err := openEngine(ctx, t.dir, o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", Setting, err)
		}
		return e, nil
	}
	p, err := openPDP(t, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Setting, err)
	}
	return p, nil
}

// target is a parsed setting: dir, or address and tls.
type target struct {
	dir     string
	address string
	tls     bool
}

func parseSetting(s string) (target, error) {
	const forms = "want embed:DIR, grpc://HOST:PORT, grpcs://HOST:PORT or unix:/PATH"
	scheme, rest, found := strings.Cut(s, ":")
	switch {
	case s == "":
		return target{}, fmt.Errorf("is not set: %s", forms)
	case found && scheme == "embed":
		if rest == "" {
			return target{}, fmt.Errorf("%q names no folder: %s", settings.Hide("WRIT_CERBOS", s), forms)
		}
		return target{dir: rest}, nil
	case found && scheme == "unix":
		path := strings.TrimPrefix(rest, "//")
		if !strings.HasPrefix(path, "/") || path == "/" {
			return target{}, fmt.Errorf("%q: the socket's path must be absolute: %s", settings.Hide("WRIT_CERBOS", s), forms)
		}
		return target{address: "unix:" + path}, nil
	case found && (scheme == "grpc" || scheme == "grpcs"):
		address := strings.TrimPrefix(rest, "//")
		if _, err := hostOf(address); err != nil {
			return target{}, fmt.Errorf("%q: %w: %s", settings.Hide("WRIT_CERBOS", s), err, forms)
		}
		return target{address: address, tls: scheme == "grpcs"}, nil
	}
	host, err := hostOf(s)
	if err != nil {
		return target{}, fmt.Errorf("%q: %w: %s", settings.Hide("WRIT_CERBOS", s), err, forms)
	}
	if !loopback(host) {
		// Neither guess is safe: plaintext would show the attributes to the
		// network, TLS would fail in a way that is hard to read.
		return target{}, fmt.Errorf("%q is not on this machine: say grpc://%s (no TLS) or grpcs://%s (TLS)", s, s, s)
	}
	return target{address: s}, nil
}

func hostOf(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || strings.ContainsAny(host, "/@ ") {
		return "", fmt.Errorf("not HOST:PORT")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("port %q is not a number from 1 to 65535", port)
	}
	return host, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}
