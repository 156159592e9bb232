package ledger

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/writ-project/writ/pkg/fault"
)

// Timing of who holds a shard.
const (
	holdAsk   = 500 * time.Millisecond // between questions whether a shard is free
	holdWait  = time.Second            // how long an answer is waited for
	holdTell  = time.Second            // between claims
	holdQuiet = 2                      // questions without an answer until a holder counts as gone
)

// HoldShards calls hold for each shard that this process gets to hold, with a
// context that ends when another process takes the shard, and returns when ctx
// has ended or hold reports an error. Of several processes one at a time holds a
// shard, and they share them evenly.
//
// Who holds a shard answers on its core NATS subject, so one that died, whose
// connection is gone, is replaced at once, and one that is silent (stopped, cut
// off) after a few seconds. Two may hold a shard for a moment: that is wasted
// work, no harm, since SQL's position and the outcomes' last sequence move for
// one of them only.
func (l *Ledger) HoldShards(ctx context.Context, hold func(ctx context.Context, shard int) error) error {
	h := &holder{ledger: l, id: uuid.NewString(), held: map[int]bool{}}
	g, ctx := errgroup.WithContext(ctx)
	for shard := range l.cfg.Shards {
		g.Go(func() error { return h.watch(ctx, shard, hold) })
	}
	return g.Wait()
}

// holder is a process that would hold shards.
type holder struct {
	ledger *Ledger
	id     string

	mu   sync.Mutex
	held map[int]bool
}

func holdSubject(shard int) string { return "writ.shard." + strconv.Itoa(shard) }

func (h *holder) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.held)
}

func (h *holder) set(shard int, held bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if held {
		h.held[shard] = true
	} else {
		delete(h.held, shard)
	}
}

// gives reports whether a shard is to go to a process that holds so many, and
// counts it as gone then: two that ask at once get one.
func (h *holder) gives(shard, asker int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.held[shard] || len(h.held) <= asker+1 {
		return false
	}
	delete(h.held, shard)
	return true
}

// watch waits until a shard is free and holds it, again and again.
func (h *holder) watch(ctx context.Context, shard int, hold func(context.Context, int) error) error {
	for silent := 0; ctx.Err() == nil; {
		switch answer, err := h.ask(ctx, shard); {
		case errors.Is(err, nats.ErrNoResponders):
			silent = holdQuiet
		case err == nil && answer != "":
			silent = 0
		default: // no answer, or no connection: then nothing can be applied either
			silent++
		}
		if silent >= holdQuiet {
			silent = 0
			if err := h.hold(ctx, shard, hold); err != nil {
				return err
			}
			pause(ctx, 2*holdAsk) // who has the better claim comes first
			continue
		}
		pause(ctx, holdAsk)
	}
	return nil
}

// ask asks who holds a shard, and tells how many shards this process holds: a
// holder of many more gives this one up.
func (h *holder) ask(ctx context.Context, shard int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, holdWait)
	defer cancel()
	m, err := h.ledger.nc.RequestWithContext(ctx, holdSubject(shard), []byte(strconv.Itoa(h.count())))
	if err != nil {
		return "", err
	}
	return string(m.Data), nil
}

// hold holds a shard until somebody else has a better claim.
func (h *holder) hold(ctx context.Context, shard int, fn func(context.Context, int) error) error {
	ctx, lose := context.WithCancel(ctx)
	defer lose()
	sub, err := h.ledger.nc.Subscribe(holdSubject(shard), func(m *nats.Msg) {
		if m.Reply == "" { // another's claim: of two the lower id keeps it
			if other := string(m.Data); other < h.id {
				lose()
			}
			return
		}
		if asker, err := strconv.Atoi(string(m.Data)); err == nil && h.gives(shard, asker) {
			lose()
		}
		_ = m.Respond([]byte(h.id)) // lost: they ask again
	})
	if err != nil {
		return fault.Unreachable(Dependency, err)
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection may be gone, and the subscription with it
	h.set(shard, true)
	defer h.set(shard, false)
	var telling sync.WaitGroup
	defer telling.Wait()
	defer lose()
	telling.Go(func() {
		for {
			_ = h.ledger.nc.Publish(holdSubject(shard), []byte(h.id)) // lost: it is told again
			if !pause(ctx, holdTell) {
				return
			}
		}
	})
	return fn(ctx, shard)
}
