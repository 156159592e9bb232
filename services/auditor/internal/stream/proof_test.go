package stream

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
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

// Whoever holds Redis while no auditor runs edits the newest entries and their
// hashes: the next auditor signs nothing, says so, and heals with Redis emptied.
func TestEditedTailIsNotSigned(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, r *rig){
		"a hash of the last checkpoint": func(t *testing.T, r *rig) {
			must(t, r.rdb.SetRange(t.Context(), decisions+":tile:0:0", 32*3, "xxxx").Err())
		},
		"a hash after it": func(t *testing.T, r *rig) {
			must(t, r.rdb.SetRange(t.Context(), decisions+":tile:0:0", 32*43, "xxxx").Err())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redises(t, func(t *testing.T, r *rig) {
				_, stop := r.start()
				r.fill(60)
				r.equal()
				r.verified()
				testkit.Eventually(t, soon, func() error { // signed up to here, and not beyond
					if c := r.checkpoints(); len(c) == 0 || c[0].Tree.N != 40 {
						return fmt.Errorf("signed: %+v", c)
					}
					return nil
				})
				stop()
				// An auditor that has not come to sign: 6 more decisions.
				w := r.writer(0)
				f := need(w.begin(t.Context()))(t)
				r.fill(9)
				enough := errors.New("enough")
				if err := r.ledger.Follow(t.Context(), w.own.sequence+1, func(ctx context.Context, batch []ledger.Record) error {
					must(t, f.take(ctx, f.read(batch)))
					if f.own.Decisions.Size()+f.own.Outcomes.Size() == 69 {
						return enough
					}
					return nil
				}); !errors.Is(err, enough) {
					t.Fatal(err)
				}
				damage(t, r)

				w, _ = r.start()
				testkit.Eventually(t, soon, func() error {
					if err := w.Sound(t.Context()); !errors.Is(err, ErrContradiction) {
						return fmt.Errorf("sound: %w", err)
					}
					return nil
				})
				if c := r.checkpoints(); c[0].Tree.N != 40 {
					t.Fatalf("signed: %+v", c)
				}
				must(t, r.rdb.FlushAll(t.Context()).Err())
				r.equal()
				r.verified()
				if err := w.Sound(t.Context()); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// A key is missing when the logs are filled again: the tree would be another one.
func TestOtherSealKeysContradict(t *testing.T) {
	t.Parallel()
	r := newRig(t, testkit.Redis(t))
	_, stop := r.start()
	r.fill(30)
	r.equal()
	r.verified()
	testkit.Eventually(t, soon, func() error { // Redis has a checkpoint a moment before the ledger
		if _, found, err := r.ledger.LastOn(t.Context(), events.AllCheckpoints); err != nil || !found {
			return fmt.Errorf("a checkpoint on the ledger: %t, %v", found, err)
		}
		return nil
	})
	stop()
	must(t, r.rdb.FlushAll(t.Context()).Err())
	before := r.checkpoints()
	r.keys = need(events.ParseKeyring(events.GenerateKey("fresh")))(t)
	r.fill(60)
	w, _ := r.start()
	testkit.Eventually(t, soon, func() error {
		if err := w.Sound(t.Context()); !errors.Is(err, ErrContradiction) {
			return fmt.Errorf("sound: %w", err)
		}
		return nil
	})
	rec, _, err := r.ledger.LastOn(t.Context(), events.AllCheckpoints)
	must(t, err)
	if e := need(events.Parse(rec.Data))(t); e.Checkpoint.Decisions != string(before[0].Note) {
		t.Fatalf("signed: %s", e.Checkpoint.Decisions)
	}
}

func TestOldEntriesAreTrimmed(t *testing.T) {
	t.Parallel()
	redises(t, func(t *testing.T, r *rig) {
		w := r.writer(time.Nanosecond)
		r.run(w)
		r.fill(1000) // 667 decisions, 333 outcomes
		testkit.Eventually(t, soon, func() error {
			if n := need(r.rdb.XLen(t.Context(), decisions).Result())(t); n != 667-512 {
				return fmt.Errorf("%d entries", n)
			}
			return nil
		})
		report := r.verified()
		if report.Decisions.First != 512 || report.Outcomes.First != 256 || report.Decisions.Entries != 155 {
			t.Fatalf("%+v", report)
		}
		// Trimmed is not lost: nothing is filled again.
		testkit.Eventually(t, soon, func() error {
			if lag, err := w.Lag(t.Context()); err != nil || lag != 0 {
				return fmt.Errorf("lag %d: %w", lag, err)
			}
			return nil
		})
		r.fill(30)
		r.verified()
		if n := need(r.rdb.XLen(t.Context(), decisions).Result())(t); n != 155+20 {
			t.Fatalf("%d entries", n)
		}
	})
}

// A full Redis refuses; the auditor waits, says how far it is behind, and goes
// on when there is room.
func TestFullRedisIsWaitedFor(t *testing.T) {
	t.Parallel()
	r := newRig(t, testkit.RedisServer(t, testkit.RedisArgs("--maxmemory-policy", "noeviction")).URL())
	w, _ := r.start()
	r.fill(90)
	r.equal()
	r.verified()
	must(t, r.rdb.ConfigSet(t.Context(), "maxmemory", "1").Err())
	r.fill(60)
	testkit.Eventually(t, soon, func() error {
		if lag, err := w.Lag(t.Context()); err != nil || lag < 3 {
			return fmt.Errorf("lag %d: %w", lag, err)
		}
		return nil
	})
	if n := need(r.rdb.XLen(t.Context(), decisions).Result())(t); n != 60 {
		t.Fatalf("%d entries", n)
	}
	must(t, r.rdb.ConfigSet(t.Context(), "maxmemory", "0").Err())
	r.equal()
	r.verified()
	testkit.Eventually(t, soon, func() error {
		if lag, err := w.Lag(t.Context()); err != nil || lag != 0 {
			return fmt.Errorf("lag %d: %w", lag, err)
		}
		return nil
	})
}
