// Package e2e tests writ as a whole, from outside: one body of tests on the embedded parts of `writ dev`, and on three
// service processes beside PostgreSQL, Redis, a Cerbos PDP and nats-server.
package e2e

import (
	"testing"

	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }
