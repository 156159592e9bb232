package stream

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
)

// verified waits until a checkpoint covers everything that is on the ledger and
// checks the logs against it.
func (r *rig) verified() audit.Report {
	r.t.Helper()
	want := r.ledgerStreams()
	reader := audit.NewReader(r.rdb)
	var report audit.Report
	testkit.Eventually(r.t, soon, func() error {
		signed, err := reader.Checkpoints(r.t.Context())
		if err != nil {
			return err
		}
		for _, l := range audit.Logs {
			c, err := r.key.Open(l, signed.Of(l))
			if err != nil {
				return err
			}
			if int(c.Tree.N) != len(want[l.Stream()]) {
				return fmt.Errorf("%s: checkpoint of %d entries, the ledger has %d", l, c.Tree.N, len(want[l.Stream()]))
			}
		}
		report, err = audit.Verify(r.t.Context(), reader, audit.VerifyOptions{Key: r.key.PublicKey, Trusted: r.checkpoints(), Seals: r.keys})
		var bad *audit.Bad
		if errors.As(err, &bad) {
			r.t.Fatal(err)
		}
		return err
	})
	if !report.Sequences {
		r.t.Fatal("sequences were not checked")
	}
	return report
}

// checkpoints gives those on the ledger.
func (r *rig) checkpoints() []audit.Checkpoint {
	r.t.Helper()
	rec, found, err := r.ledger.LastOn(r.t.Context(), events.AllCheckpoints)
	must(r.t, err)
	if !found {
		return nil
	}
	e := need(events.Parse(rec.Data))(r.t)
	must(r.t, e.Verify(r.keys, rec.Subject))
	return []audit.Checkpoint{
		need(r.key.Open(audit.Decisions, []byte(e.Checkpoint.Decisions)))(r.t),
		need(r.key.Open(audit.Outcomes, []byte(e.Checkpoint.Outcomes)))(r.t),
	}
}

func TestCheckpointsAreSignedAndOnTheLedger(t *testing.T) {
	t.Parallel()
	redises(t, func(t *testing.T, r *rig) {
		r.start()
		r.start()
		r.fill(600)
		r.equal()
		r.verified()
		testkit.Eventually(t, soon, func() error {
			all := r.checkpoints()
			if len(all) == 0 || all[0].Tree.N != 400 || all[1].Tree.N != 200 {
				return fmt.Errorf("%+v", all)
			}
			return nil
		})
		// A checkpoint is a message of the ledger, and makes no other one.
		last := need(r.ledger.Last(t.Context()))(t)
		at := time.Now()
		testkit.Eventually(t, soon, func() error {
			if time.Since(at) < 3*signEvery {
				return errors.New("not yet")
			}
			return nil
		})
		if now := need(r.ledger.Last(t.Context()))(t); now != last {
			t.Fatalf("%d messages without traffic", now-last)
		}
	})
}
