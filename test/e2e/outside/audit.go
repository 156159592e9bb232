package outside

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
)

// The streams in Redis.
const (
	Decisions = "writ:decisions"
	Outcomes  = "writ:outcomes"
)

// Entries reads a Redis stream as XRANGE - + gives it.
func Entries(t testing.TB, url, stream string) []redis.XMessage {
	t.Helper()
	entries, err := xrange(url, stream)
	if err != nil {
		t.Fatalf("XRANGE %s: %v", stream, err)
	}
	return entries
}

func xrange(url, stream string) (all []redis.XMessage, err error) {
	options, err := redis.ParseURL(url)
	if err != nil {
		return nil, err
	}
	client := redis.NewClient(options)
	defer func() { err = errors.Join(err, client.Close()) }()
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	const page = 2000
	for from := "-"; ; {
		entries, err := client.XRangeN(ctx, stream, from, "+", page).Result()
		if err != nil {
			return nil, err
		}
		all = append(all, entries...)
		if len(entries) < page {
			return all, nil
		}
		from = "(" + entries[len(entries)-1].ID
	}
}

// Audited is the ledger, and the audit log that was found to be its equal.
type Audited struct {
	Ledger              []Record
	Decisions, Outcomes []redis.XMessage
}

// Audit waits until the audit log has everything that is on the ledger at the moment and then compares all of it: each
// decision and outcome once, in order, byte for byte, under the id <ms>-<address>, with its seal.
func Audit(t testing.TB, s *Stack) Audited {
	t.Helper()
	a := Audited{Ledger: Ledger(t, s.NATS)}
	testkit.Eventually(t, 30*time.Second, func() (err error) {
		if a.Decisions, err = xrange(s.Redis, Decisions); err != nil {
			return err
		}
		if a.Outcomes, err = xrange(s.Redis, Outcomes); err != nil {
			return err
		}
		if have, want := len(a.Decisions)+len(a.Outcomes), a.records(); have < want {
			return fmt.Errorf("the audit log has %d entries, the ledger %d", have, want)
		}
		return nil
	})
	if err := a.compare(); err != nil {
		t.Fatalf("the audit log is not the ledger: %v", err)
	}
	return a
}

// records counts the decisions and outcomes on the ledger: all but checkpoints of the audit log.
func (a *Audited) records() (n int) {
	for _, r := range a.Ledger {
		if r.Event.Type != events.TypeCheckpoint {
			n++
		}
	}
	return n
}

// compare compares what stands on the ledger; entries beyond it (others go on meanwhile) are cut off.
func (a *Audited) compare() error {
	rest := map[string][]redis.XMessage{Decisions: a.Decisions, Outcomes: a.Outcomes}
	var ms uint64
	for _, r := range a.Ledger {
		if r.Event.Type == events.TypeCheckpoint {
			continue
		}
		stream, field, raw := r.Audited()
		if len(rest[stream]) == 0 {
			return fmt.Errorf("%s ends before event %d", stream, r.Address)
		}
		entry := rest[stream][0]
		rest[stream] = rest[stream][1:]
		ms = max(ms, uint64(r.Time.UnixMilli()))
		if want := fmt.Sprintf("%d-%d", ms, r.Address); entry.ID != want {
			return fmt.Errorf("%s has entry %s where %s was expected", stream, entry.ID, want)
		}
		if have, _ := entry.Values[field].(string); !bytes.Equal([]byte(have), raw) {
			return fmt.Errorf("%s %s: %s, on the ledger %s", stream, entry.ID, have, raw)
		}
		if want := r.Event.Seal.KeyID + "." + r.Event.Seal.MAC; entry.Values["seal"] != want {
			return fmt.Errorf("%s %s: seal %v, on the ledger %s", stream, entry.ID, entry.Values["seal"], want)
		}
		if len(entry.Values) != 2 {
			return fmt.Errorf("%s %s has more than its record and seal: %v", stream, entry.ID, entry.Values)
		}
	}
	last := uint64(0)
	if n := len(a.Ledger); n > 0 {
		last = a.Ledger[n-1].Address
	}
	for stream, entries := range rest {
		for _, e := range entries {
			_, text, _ := strings.Cut(e.ID, "-")
			if address, err := strconv.ParseUint(text, 10, 64); err != nil || address <= last {
				return fmt.Errorf("%s has %s, which is not on the ledger", stream, e.ID)
			}
		}
	}
	a.Decisions = a.Decisions[:len(a.Decisions)-len(rest[Decisions])]
	a.Outcomes = a.Outcomes[:len(a.Outcomes)-len(rest[Outcomes])]
	return nil
}

// Settled waits until every command on the ledger has its outcome there and checks that it has one only, and that there
// are no dead letters. It gives the outcomes by command.
func Settled(t testing.TB, s *Stack, within time.Duration) map[string]events.Outcome {
	t.Helper()
	var outcomes map[string]events.Outcome
	testkit.Eventually(t, within, func() error {
		writs := map[string]bool{}
		outcomes = map[string]events.Outcome{}
		for _, r := range Ledger(t, s.NATS) {
			switch e := r.Event; e.Type {
			case events.TypeWrit:
				writs[e.Command.ID] = true
			case events.TypeOutcome:
				if before, again := outcomes[e.Outcome.CommandID]; again {
					t.Fatalf("command %s has two outcomes: %+v and %+v", e.Outcome.CommandID, before, e.Outcome)
				}
				if !writs[e.Outcome.CommandID] {
					t.Fatalf("an outcome of command %s, which was never given", e.Outcome.CommandID)
				}
				outcomes[e.Outcome.CommandID] = e.Outcome
			}
		}
		if missing := len(writs) - len(outcomes); missing > 0 {
			return fmt.Errorf("%d of %d commands have no outcome", missing, len(writs))
		}
		return nil
	})
	if dead := Last(t, s.NATS, events.StreamDead); dead > 0 {
		t.Fatalf("%d dead letters", dead)
	}
	return outcomes
}
