// Package service is what the three services do alike: start from settings, and stop
// in parts that together fit into the 10 s that SIGTERM leaves (docs/runbook.md).
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/writ-project/writ/pkg/settings"
	"github.com/writ-project/writ/pkg/telemetry"
)

// The parts of a stop: together SIGTERM ends the process within 10 s.
const (
	DrainTimeout  = 6 * time.Second        // answers out
	FlushTimeout  = 2 * time.Second        // ledger flushed
	ExportTimeout = 900 * time.Millisecond // twice: the last observations, then the last spans and counts
)

// Ballast adds bytes to the heap that are never touched, until done is called. What
// a service holds is small and what passes through it is not, so Go's collector would
// run all the time: it waits until the heap has doubled, and these count as heap but
// take no memory. Measured on the api under load, a tenth of its CPU. GOGC and
// GOMEMLIMIT work as ever.
func Ballast(size int) (done func()) {
	ballast := make([]byte, size)
	return func() { runtime.KeepAlive(ballast) }
}

// Main runs a service with the settings of the environment until SIGINT or SIGTERM, and
// ends the process with status 1 if it fails. log is where the settings keep the logger.
func Main[C any](name string, run func(context.Context, C) error, log func(*C) **slog.Logger) {
	defer Ballast(16 << 20)()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	cfg, err := settings.Load[C]()
	var own *slog.Logger
	if err == nil {
		own, err = telemetry.LoggerFromEnv("writ-" + name)
	}
	if err == nil {
		telemetry.Default(own)
		*log(&cfg) = own
		err = run(ctx, cfg)
	}
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// Listen binds addr, the value of a setting, unless there is a listener already.
func Listen(l net.Listener, setting, addr string) (net.Listener, error) {
	if l != nil {
		return l, nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	return l, nil
}

// Close stops something and joins its error to err: for defer.
func Close(err *error, stop func() error) { *err = errors.Join(*err, stop()) }

// CloseWithin is Close for what can take time.
func CloseWithin(err *error, within time.Duration, stop func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	*err = errors.Join(*err, stop(ctx))
}

// Export gives the last telemetry [ExportTimeout] to go out, for defer. A collector that is away costs telemetry: it is
// logged, and the process has not failed.
func Export(log *slog.Logger, what string, send func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), ExportTimeout)
	defer cancel()
	if err := send(ctx); err != nil {
		log.Warn("the last "+what+" could not be sent", "error", err)
	}
}

// NATSURL checks WRIT_NATS_URL, whose parts the client's own error repeats, passwords too.
func NATSURL(servers string) error {
	for server := range strings.SplitSeq(servers, ",") {
		if server = strings.TrimSpace(server); !strings.Contains(server, "://") {
			server = "nats://" + server
		}
		if u, err := url.Parse(server); err != nil || u.Hostname() == "" {
			return errors.New("WRIT_NATS_URL: want nats://[USER:PASSWORD@]HOST:PORT, or several, separated by commas")
		}
	}
	return nil
}
