package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

// holding records who holds which shard.
type holding struct {
	mu      sync.Mutex
	holders map[int]map[string]bool // by shard
	changes int
	changed chan struct{} // closed and replaced with each change
}

func newHolding() *holding {
	return &holding{holders: map[int]map[string]bool{}, changed: make(chan struct{})}
}

func (h *holding) set(shard int, who string, holds bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.holders[shard] == nil {
		h.holders[shard] = map[string]bool{}
	}
	if holds {
		h.holders[shard][who] = true
	} else {
		delete(h.holders[shard], who)
	}
	h.changes++
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *holding) state() (holders map[int][]string, changes int, changed <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	holders = map[int][]string{}
	for shard, who := range h.holders {
		holders[shard] = slices.Sorted(maps.Keys(who))
	}
	return holders, h.changes, h.changed
}

// wait waits until the shards are held as ok says.
func (h *holding) wait(t *testing.T, what string, ok func(map[int][]string) bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		holders, _, changed := h.state()
		if ok(holders) {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("held by %v, want %s", holders, what)
		}
	}
}

// quiet reports a change within d.
func (h *holding) quiet(t *testing.T, d time.Duration) {
	t.Helper()
	before, _, changed := h.state()
	select {
	case <-changed:
		after, _, _ := h.state()
		t.Errorf("held by %v, and then by %v", before, after)
	case <-time.After(d): // there is no signal for what does not happen
	}
}

// hold holds shards as who, until the test ends or stop is called.
func (h *holding) hold(t *testing.T, l *ledger.Ledger, who string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := l.HoldShards(ctx, func(ctx context.Context, shard int) error {
			h.set(shard, who, true)
			defer h.set(shard, who, false)
			<-ctx.Done()
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v", who, err)
		}
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("HoldShards does not end with its context")
		}
	})
	t.Cleanup(stop)
	return stop
}

func by(who ...string) func(map[int][]string) bool {
	return func(have map[int][]string) bool { return slices.Equal(have[0], who) }
}

func TestOneProcessAtATimeHoldsAShard(t *testing.T) {
	url := testkit.NATS(t).URL()
	h := newHolding()
	stop := h.hold(t, open(t, url, ledger.Config{}), "a")
	h.wait(t, "a", by("a"))
	h.hold(t, open(t, url, ledger.Config{}), "b")
	h.hold(t, open(t, url, ledger.Config{}), "c")
	h.quiet(t, 3*time.Second)
	// One that ends is replaced at once, by one of the others in the end.
	began := time.Now()
	stop()
	h.wait(t, "b or c", func(have map[int][]string) bool { return len(have[0]) == 1 && have[0][0] != "a" })
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("replaced after %s", took)
	}
	h.settle(t, 1)
}

// settle waits until each shard has one holder and keeps it.
func (h *holding) settle(t *testing.T, shards int) {
	t.Helper()
	testkit.Eventually(t, patience, func() error {
		have, _, changed := h.state()
		for shard := range shards {
			if len(have[shard]) != 1 {
				return fmt.Errorf("held by %v", have)
			}
		}
		select {
		case <-changed:
			return fmt.Errorf("held by %v, and that changed", have)
		case <-time.After(3 * time.Second):
			return nil
		}
	})
}

// TestAKilledHolderIsReplacedAtOnce: its connection is closed, which the server sees.
func TestAKilledHolderIsReplacedAtOnce(t *testing.T) {
	url := testkit.NATS(t).URL()
	h := newHolding()
	victim, _, proxy := through(t, url, ledger.Config{})
	h.hold(t, victim, "victim")
	h.wait(t, "victim", by("victim"))
	h.hold(t, open(t, url, ledger.Config{}), "other")
	began := time.Now()
	proxy.Cut()
	h.wait(t, "the other, too", by("other", "victim"))
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("replaced after %s, want at once", took)
	}
	proxy.Restore() // a dead one would not come back; this one does, and one of them keeps it
	h.settle(t, 1)
}

// TestASilentHolderIsReplacedAfterAFewSeconds: its connection is open, and nothing comes.
func TestASilentHolderIsReplacedAfterAFewSeconds(t *testing.T) {
	url := testkit.NATS(t).URL()
	h := newHolding()
	victim, _, proxy := through(t, url, ledger.Config{})
	h.hold(t, victim, "victim")
	h.wait(t, "victim", by("victim"))
	h.hold(t, open(t, url, ledger.Config{}), "other")
	began := time.Now()
	proxy.Stall()
	h.wait(t, "the other, too", by("other", "victim"))
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("replaced after %s, want a few seconds", took)
	}
	proxy.Restore()
	h.settle(t, 1)
}

// TestTwoProcessesShareTheShards: one each of two, and they keep them; all of
// them when one of the two ends.
func TestTwoProcessesShareTheShards(t *testing.T) {
	url := testkit.NATS(t).URL()
	h := newHolding()
	h.hold(t, open(t, url, ledger.Config{Shards: 2}), "a")
	both := func(who string) func(map[int][]string) bool {
		return func(have map[int][]string) bool {
			return slices.Equal(have[0], []string{who}) && slices.Equal(have[1], []string{who})
		}
	}
	h.wait(t, "a alone", both("a"))
	stop := h.hold(t, open(t, url, ledger.Config{Shards: 2}), "b")
	h.wait(t, "one by each", func(have map[int][]string) bool {
		return len(have[0]) == 1 && len(have[1]) == 1 && have[0][0] != have[1][0]
	})
	h.quiet(t, 5*time.Second)
	stop()
	h.wait(t, "a alone", both("a"))
}

func TestProcessesThatStartTogetherShareTheShards(t *testing.T) {
	const shards = 8
	url := testkit.NATS(t).URL()
	h := newHolding()
	for _, who := range []string{"a", "b", "c"} {
		h.hold(t, open(t, url, ledger.Config{Shards: shards}), who)
	}
	h.settle(t, shards)
	have, _, _ := h.state()
	counts := map[string]int{}
	for _, who := range have {
		counts[who[0]]++
	}
	if len(counts) != 3 || slices.Min(slices.Collect(maps.Values(counts))) < 2 || slices.Max(slices.Collect(maps.Values(counts))) > 4 {
		t.Errorf("held by %v, want about a third by each", counts)
	}
}

func TestAnErrorOfTheHolderEndsHoldShards(t *testing.T) {
	l := open(t, testkit.NATS(t).URL(), ledger.Config{Shards: 2})
	broken := errors.New("broken")
	err := l.HoldShards(within(t, patience), func(_ context.Context, shard int) error {
		if shard == 1 {
			return broken
		}
		return nil
	})
	if !errors.Is(err, broken) {
		t.Errorf("%v, want %v", err, broken)
	}
}
