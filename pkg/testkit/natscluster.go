package testkit

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

// NATSCluster is a cluster of NATS servers with JetStream inside the test process. Its servers can be stopped and
// started again one by one.
type NATSCluster struct {
	Nodes []*NATSServer
}

// clusterConfig is what a server needs to know of the others.
type clusterConfig struct {
	name string
	port int
	// routes are all the servers' cluster addresses.
	routes []*url.URL
}

func (c *clusterConfig) apply(o *server.Options) {
	o.Cluster = server.ClusterOpts{Name: c.name, Host: "127.0.0.1", Port: c.port}
	o.Routes = c.routes
}

// NATSClustered starts a cluster of size embedded servers with JetStream on file storage, and waits until it has
// elected who leads it; it ends with the test. Streams on it may have as many replicas.
func NATSClustered(t testing.TB, size int, options ...NATSOption) *NATSCluster {
	t.Helper()
	var routes []*url.URL
	ports := make([]int, size)
	for i := range ports {
		ports[i] = FreePort(t)
		routes = append(routes, &url.URL{Scheme: "nats", Host: loopback(ports[i])})
	}
	c := &NATSCluster{}
	for _, port := range ports {
		n := &NATSServer{config: newNATSConfig(t, options)}
		n.config.cluster = &clusterConfig{name: "testkit", port: port, routes: routes}
		c.Nodes = append(c.Nodes, n)
		t.Cleanup(n.stop)
		n.Start(t)
	}
	Eventually(t, startTimeout, func() error {
		for _, n := range c.Nodes {
			if n.Server().JetStreamIsLeader() && len(n.Server().JetStreamClusterPeers()) == size {
				return nil
			}
		}
		return fmt.Errorf("the cluster of %d has no leader", size)
	})
	return c
}

// URL names all the servers, separated by commas.
func (c *NATSCluster) URL() string {
	urls := make([]string, len(c.Nodes))
	for i, n := range c.Nodes {
		urls[i] = n.URL()
	}
	return strings.Join(urls, ",")
}

// Leader is the running server that leads a stream, nil while there is none.
func (c *NATSCluster) Leader(stream string) *NATSServer {
	for _, n := range c.Nodes {
		if n.running != nil && n.running.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream) {
			return n
		}
	}
	return nil
}
