// Package chaos kills the local stack in the middle of its work and compares what clients were told with what is there.
//
//	WRIT_CHAOS=full  5,000 creates and more kills (make chaos); otherwise a shorter run of the same
//	WRIT_SEED        repeats a run's choices; each run prints its own
package chaos

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/test/e2e/outside"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// TestKilledInTheMiddleOfCreates kills `writ dev` (kill -9) while creates are under way, starts it again on the same
// folder, at once under load again, and in the end repeats what has a key and was not answered.
func TestKilledInTheMiddleOfCreates(t *testing.T) {
	n, kills, workers := 600, 2, 64
	if os.Getenv("WRIT_CHAOS") == "full" {
		n, kills, workers = 5000, 5, 256
	}
	seed := seed(t)
	random := rand.New(rand.NewPCG(seed, 2))
	creates := outside.NewCreates(random, "chaos", n)

	dev := outside.StartDev(t, t.TempDir(), []string{"--seed=false", "--rate-limit", "0"}, nil) // one user sends all of it
	const owner = "chaos@example.com"
	client := outside.NewClient(t, dev.API, dev.SignIn(t, owner))
	report := &table{}
	report.row("seed", seed)
	rest := creates
	for k := range kills {
		// Each kill comes at a random place of its share of the creates, so that the others go on after it.
		share := len(rest) / (kills - k + 1)
		at := share/4 + random.IntN(share/2)
		before := answered(creates)
		outside.Send(t, client, rest, outside.Sending{Workers: workers, At: at, Then: dev.Kill})
		dev.Restart(t)
		client = outside.NewClient(t, dev.API, dev.SignIn(t, owner))
		report.row(fmt.Sprintf("kill %d", k+1), fmt.Sprintf("after %d answers (%d in all), ready again in %s", answered(creates)-before, answered(creates), dev.ReadyIn.Round(time.Millisecond)))
		for len(rest) > 0 && rest[0].Tries > 0 { // what was sent before this kill is repeated in the end only
			rest = rest[1:]
		}
	}
	open, unknown := 0, 0
	for _, c := range creates {
		switch {
		case c.Answered || c.Tries == 0:
		case c.Key != "":
			open++
		default:
			unknown++
		}
	}
	outside.Send(t, client, creates, outside.Sending{Workers: workers, Retry: true})
	tally := outside.Check(t, &dev.Stack, client, creates)
	audited := outside.Audit(t, &dev.Stack)

	// What is on the ledger is what the clients see.
	writs, decisions, outcomes := 0, 0, 0
	for _, r := range audited.Ledger {
		switch e := r.Event; {
		case e.Type == events.TypeCheckpoint:
			continue
		case e.Type == events.TypeOutcome:
			outcomes++
			continue
		case e.Type == events.TypeWrit && e.Command.Kind == "contact":
			writs++
		}
		decisions++
	}
	if writs != tally.Contacts {
		t.Errorf("%d commands on the ledger made %d contacts", writs, tally.Contacts)
	}
	if len(audited.Decisions) != decisions || len(audited.Outcomes) != outcomes {
		t.Errorf("Redis has %d decisions and %d outcomes, the ledger %d and %d", len(audited.Decisions), len(audited.Outcomes), decisions, outcomes)
	}
	// A retry long after is still the same command and the same answer.
	again(t, client, creates)

	report.row("creates", n)
	report.row("answered 201", tally.Done)
	report.row("answered 202", tally.Answered-tally.Done)
	report.row("not answered, with a key: repeated", open)
	report.row("not answered, without a key", unknown)
	report.row("… of them there all the same", tally.Surprises)
	report.row("contacts", tally.Contacts)
	report.row("commands on the ledger", writs)
	report.row("commands applied, by the API", tally.Applied)
	report.row("decisions on the ledger and in Redis", decisions)
	report.row("outcomes on the ledger and in Redis", outcomes)
	t.Logf("\n%s", report)
	if tally.Applied != tally.Answered {
		t.Errorf("%d of %d accepted commands are applied", tally.Applied, tally.Answered)
	}
	if unknown != tally.Unanswered {
		t.Errorf("%d creates without a key were not answered, then %d", unknown, tally.Unanswered)
	}
}

// again repeats a few of the creates that have a key.
func again(t *testing.T, client *outside.Client, creates []*outside.Create) {
	t.Helper()
	tried := 0
	for _, c := range creates {
		if c.Key == "" || tried == 20 {
			continue
		}
		tried++
		a := client.Want(t, http.StatusCreated, nil, "POST", "/v1/contacts", `{"first_name":"Load","last_name":"`+c.Mark+`"}`,
			"Idempotency-Key", c.Key, "Prefer", "wait=10")
		if a.CommandID() != c.CommandID || !strings.Contains(string(a.Body), c.ContactID) {
			t.Errorf("%s was command %s, its retry is %s: %s", c.Mark, c.CommandID, a.CommandID(), a.Body)
		}
	}
}

func answered(creates []*outside.Create) (n int) {
	for _, c := range creates {
		if c.Answered {
			n++
		}
	}
	return n
}

// seed is WRIT_SEED, or one that is new and printed.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := rand.Uint64()
	if text := os.Getenv("WRIT_SEED"); text != "" {
		var err error
		if s, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("WRIT_SEED: %v", err)
		}
	}
	t.Logf("WRIT_SEED=%d", s)
	return s
}

// table is a report of two columns.
type table struct{ text strings.Builder }

func (r *table) row(what string, value any) { fmt.Fprintf(&r.text, "%s\t%v\n", what, value) }

func (r *table) String() string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, r.text.String())
	_ = w.Flush() // a strings.Builder takes everything
	return out.String()
}
