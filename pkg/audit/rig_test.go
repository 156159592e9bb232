package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// rig is the logs in one Redis, filled as the auditor fills them.
type rig struct {
	*testing.T
	rdb   *redis.Client
	log   *Appender
	read  *Reader
	key   *Key
	seals *events.Keyring
	head  Head
	trees Trees
	ms    uint64
	n     int      // events of the ledger so far
	ids   []string // of the decisions
}

// perMessage is how many events a message of the ledger holds here.
const perMessage = 5

// address is where the ledger's nth event stands, from 1.
func address(n int) events.Address { return events.At(uint64((n-1)/perMessage+1), (n-1)%perMessage) }

func newRig(t *testing.T, url string) *rig {
	t.Helper()
	r := &rig{T: t, key: need(GenerateKey("test"))(t), seals: need(events.ParseKeyring(events.GenerateKey("test")))(t),
		trees: Trees{&Tree{}, &Tree{}}, ms: uint64(time.Now().Add(-time.Hour).UnixMilli())}
	r.rdb = redis.NewClient(need(redis.ParseURL(url))(t))
	t.Cleanup(func() { _ = r.rdb.Close() })
	r.log, r.read = NewAppender(r.rdb, 0), NewReader(r.rdb)
	r.head = need(r.log.Head(t.Context()))(t)
	return r
}

// redises runs a test on miniredis, which `writ dev` uses, and on Redis.
func redises(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel()
		test(t, newRig(t, "redis://"+miniredis.RunT(t).Addr()))
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		test(t, newRig(t, testkit.Redis(t)))
	})
}

// fill appends n of the ledger's events in batches.
func (r *rig) fill(n int) {
	r.Helper()
	for ; n > 0; n -= 100 {
		r.append(r.batch(min(n, 100)))
	}
}

// batch makes the ledger's next n events: commands' decisions, denials, outcomes of the
// commands, and every tenth is no entry.
func (r *rig) batch(n int) Batch {
	r.Helper()
	b := Batch{Start: address(1)}
	for range n {
		if r.n++; r.n%perMessage == 1 {
			r.ms++ // events of one message have one time
		}
		b.Sequence = address(r.n)
		if item, ok := r.item(r.n); ok {
			b.Items = append(b.Items, item)
		} else {
			b.Explained = append(b.Explained, Range{b.Sequence, b.Sequence, WhyRefused})
		}
		if r.n%perMessage == 0 {
			end := events.End(events.SequenceOf(b.Sequence))
			b.Explained = append(b.Explained, Range{b.Sequence + 1, end, WhyEnd})
			b.Sequence = end
		}
	}
	return b
}

func (r *rig) append(b Batch) {
	r.Helper()
	trees := r.trees.Clone()
	r.head = need(r.log.Append(r.Context(), r.head, trees, b))(r.T)
	r.trees = trees
}

func (r *rig) item(n int) (Item, bool) {
	id := ID{r.ms, address(n)}
	switch n % 10 {
	case 0:
		return Item{}, false
	case 3, 6, 9: // of the command two before
		o := events.Outcome{ID: events.OutcomeID(command(n - 2)), CommandID: command(n - 2), Kind: "contact", ResourceID: "c", Action: "update",
			Tenant: "default", Status: events.StatusApplied, Version: 7, DecisionID: r.ids[len(r.ids)-2], Sequence: address(n - 2)}
		raw := need(events.EncodeOutcome(&o))(r.T)
		return Item{Entry: Entry{Log: Outcomes, ID: id, Record: raw, Seal: r.seals.Seal(raw).String()}, DecisionID: o.DecisionID, Command: address(n - 2)}, true
	}
	d := events.Decision{ID: uuid.Must(uuid.NewV7()).String(), Stage: events.StageRequest, Tenant: "default", Principal: events.Principal{ID: "sam"},
		Resource: events.Resource{Kind: "contact", ID: "c"}, Action: "update", Effect: events.Allow}
	if n%10 == 1 || n%10 == 4 || n%10 == 7 {
		d.Command = &events.CommandRef{ID: command(n), SHA256: events.Digest(nil)}
	}
	r.ids = append(r.ids, d.ID)
	raw := need(events.EncodeDecision(&d))(r.T)
	return Item{Entry: Entry{Log: Decisions, ID: id, Record: raw, Seal: r.seals.Seal(raw).String()}, DecisionID: d.ID}, true
}

func command(n int) string { return fmt.Sprint("command-", n) }

// sign stores a checkpoint of what is there.
func (r *rig) sign() (decisions, outcomes Checkpoint) {
	r.Helper()
	decisions = need(r.key.Sign(Decisions, r.trees.Decisions.Tree()))(r.T)
	outcomes = need(r.key.Sign(Outcomes, r.trees.Outcomes.Tree()))(r.T)
	if !need(r.log.Publish(r.Context(), decisions, outcomes, r.head.Sequence))(r.T) {
		r.Fatal("not stored")
	}
	return decisions, outcomes
}

func (r *rig) verify(trusted ...Checkpoint) (Report, error) {
	return Verify(r.Context(), r.read, VerifyOptions{Key: r.key.PublicKey, Trusted: trusted, Seals: r.seals})
}

func (r *rig) do(args ...any) any {
	r.Helper()
	return need(r.rdb.Do(context.Background(), args...).Result())(r.T)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func need[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		must(t, err)
		return v
	}
}

func decision(t *testing.T, e Entry) (d events.Decision) {
	t.Helper()
	must(t, json.Unmarshal(e.Record, &d))
	return d
}
