package chaos

import (
	"math/rand/v2"
	"net/http"
	"os"
	"testing"

	"github.com/writ-project/writ/test/e2e/outside"
)

// TestKilledInTheMiddleOfUpdates kills `writ dev` while a few contacts are changed by many at the same time: each change
// has one effect, in the ledger's order.
func TestKilledInTheMiddleOfUpdates(t *testing.T) {
	n, kills := 300, 2
	if os.Getenv("WRIT_CHAOS") == "full" {
		n, kills = 3000, 5
	}
	random := rand.New(rand.NewPCG(seed(t), 4))
	dev := outside.StartDev(t, t.TempDir(), []string{"--seed=false", "--rate-limit", "0"}, nil) // one user sends all of it
	const owner = "changes@example.com"
	client := outside.NewClient(t, dev.API, dev.SignIn(t, owner))
	contacts := make([]string, 6)
	for i := range contacts {
		var c outside.Contact
		client.Want(t, http.StatusCreated, &c, "POST", "/v1/contacts", `{"first_name":"Changed"}`, "Prefer", "wait=10")
		contacts[i] = c.ID
	}
	updates := outside.NewUpdates(random, contacts, n)
	for range kills {
		at := 1 + random.IntN(n/(2*kills))
		outside.Send(t, client, updates, outside.Sending{Workers: 48, At: at, Then: dev.Kill})
		dev.Restart(t)
		client = outside.NewClient(t, dev.API, dev.SignIn(t, owner))
	}
	outside.Send(t, client, updates, outside.Sending{Workers: 48, Retry: true})
	outside.CheckUpdates(t, &dev.Stack, client, updates)
	outside.Audit(t, &dev.Stack)
}
