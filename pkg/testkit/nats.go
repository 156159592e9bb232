package testkit

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

// NATSServer is a NATS server with JetStream inside the test process. It can be stopped and started again; for one that
// can be killed see [NATSProcess].
type NATSServer struct {
	config  natsConfig
	running *server.Server
}

type natsConfig struct {
	port       int
	dir        string
	syncAlways bool
	maxStore   int64
	maxMemory  int64
	cluster    *clusterConfig // nil for a server alone
}

// NATSOption changes how [NATS] and [NATSProcess] start.
type NATSOption func(*natsConfig)

// NATSPort listens on a port that the caller has chosen, for example one of [FreePort].
func NATSPort(port int) NATSOption { return func(c *natsConfig) { c.port = port } }

// NATSDir stores streams in a folder of the caller's instead of one that goes with the test.
func NATSDir(dir string) NATSOption { return func(c *natsConfig) { c.dir = dir } }

// NATSSyncAlways makes the server fsync before each acknowledgement, as in production.
func NATSSyncAlways() NATSOption { return func(c *natsConfig) { c.syncAlways = true } }

// NATSMaxStore limits what all streams may keep on disk, in bytes; 1 GiB if not set.
func NATSMaxStore(bytes int64) NATSOption { return func(c *natsConfig) { c.maxStore = bytes } }

// NATSMaxMemory limits what streams with memory storage may keep, in bytes; 256 MiB if not set. Whether a stream is
// kept in memory is its own setting.
func NATSMaxMemory(bytes int64) NATSOption { return func(c *natsConfig) { c.maxMemory = bytes } }

// maxPayload is the servers' max_payload, in bytes: what deploy/nats.conf sets.
const maxPayload = 4 << 20

func newNATSConfig(t testing.TB, options []NATSOption) natsConfig {
	config := natsConfig{maxStore: 1 << 30, maxMemory: 256 << 20}
	for _, option := range options {
		option(&config)
	}
	if config.port == 0 {
		config.port = FreePort(t)
	}
	if config.dir == "" {
		config.dir = filepath.Join(t.TempDir(), "nats")
	}
	return config
}

func (c natsConfig) url() string { return "nats://" + loopback(c.port) }

// NATS starts an embedded server with JetStream on file storage; it ends with the test.
func NATS(t testing.TB, options ...NATSOption) *NATSServer {
	t.Helper()
	n := &NATSServer{config: newNATSConfig(t, options)}
	t.Cleanup(n.stop)
	n.Start(t)
	return n
}

// URL is nats://127.0.0.1:PORT, the same after a restart.
func (n *NATSServer) URL() string { return n.config.url() }

// Server is the running server, nil while it is stopped.
func (n *NATSServer) Server() *server.Server { return n.running }

// Start starts the server, again on the same port and store.
func (n *NATSServer) Start(t testing.TB) {
	t.Helper()
	if n.running != nil {
		t.Fatal("the NATS server is already running")
	}
	if err := n.start(); err != nil {
		t.Fatal(err)
	}
}

func (n *NATSServer) start() error {
	options := &server.Options{
		ServerName:         fmt.Sprintf("testkit-%d", n.config.port),
		Host:               "127.0.0.1",
		Port:               n.config.port,
		JetStream:          true,
		StoreDir:           n.config.dir,
		SyncAlways:         n.config.syncAlways,
		JetStreamMaxStore:  n.config.maxStore,
		JetStreamMaxMemory: n.config.maxMemory,
		MaxPayload:         maxPayload,
		NoLog:              true,
		NoSigs:             true,
	}
	if n.config.cluster != nil {
		n.config.cluster.apply(options)
	}
	running, err := server.NewServer(options)
	if err != nil {
		return fmt.Errorf("nats server: %w", err)
	}
	running.Start()
	if !running.ReadyForConnections(startTimeout) {
		running.Shutdown()
		running.WaitForShutdown()
		return fmt.Errorf("the NATS server on port %d is not ready after %s", n.config.port, startTimeout)
	}
	n.running = running
	return nil
}

// Stop shuts the server down in order: connections are closed and the store is flushed.
func (n *NATSServer) Stop(testing.TB) { n.stop() }

func (n *NATSServer) stop() {
	if n.running != nil {
		n.running.Shutdown()
		n.running.WaitForShutdown()
		n.running = nil
	}
}
