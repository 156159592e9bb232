package apply

import (
	"fmt"
	"sync"
	"testing"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/testkit"
)

// owned are the attributes of a contact of sam's.
var owned = map[string]any{"owner_id": "sam", "tenant": "default", "is_active": true}

// The three rows of a worker that is killed around its commit: before it, after
// it and before the outcomes, after the outcomes. Nothing of it depends on how
// long ago that was: no window in which an id is known is left.
func TestKilledWorkerHasOneEffect(t *testing.T) {
	t.Parallel()
	for _, at := range []point{beforeCommit, afterCommit, afterPublish} {
		t.Run(string(at), func(t *testing.T) {
			t.Parallel()
			databases(t, func(t *testing.T, r *rig) {
				sam := r.person("sam", "user")
				first := r.start(func(p point) bool { return p == at })
				var ids, commands []string
				for i := range 20 {
					id, c := r.create(sam, fmt.Sprint("c", i))
					ids, commands = append(ids, id), append(commands, c)
				}
				if got := <-first.died; got != at {
					t.Fatalf("died %s", got)
				}
				first.end()
				if at == beforeCommit {
					for _, c := range commands {
						if _, err := r.store.Command(t.Context(), c); !fault.Is(err, fault.NotFound) {
							t.Fatalf("a trace in SQL before the commit: %v", err)
						}
					}
				}
				if at != afterPublish {
					if n := len(r.ledgerEvents()); n != len(commands) {
						t.Fatalf("%d events on the ledger, want the %d commands alone", n, len(commands))
					}
				}
				r.start(nil)
				all := r.outcomes(commands...)
				for i, c := range commands {
					if o := all[c]; o.Status != events.StatusApplied || o.Version != 1 {
						t.Fatalf("%+v", o)
					}
					if row := need(r.contact(ids[i]))(t); row.Version != 1 {
						t.Fatalf("%+v", row)
					}
				}
				r.idle() // and still one outcome each
			})
		})
	}
}

// Outcomes that do not fit into one message are two, and a worker can be killed
// between them: the next one tells those that are missing, and no other.
func TestKilledBetweenTwoMessagesOfOutcomes(t *testing.T) {
	t.Parallel()
	r := sqlite(t)
	sam := r.person("sam", "user")
	var commands []string
	var all []events.Message
	for range maxBatch {
		id := newID()
		r.put(id, "sam")
		m, c := r.writ(sam, kind.ActionUpdate, id, 7, owned, `{"notes":"x"}`) // saw another version: two events each
		all, commands = append(all, m), append(commands, c.ID)
	}
	r.batch(all...)
	sent := 0
	r.sending = func(p *process) {
		if sent++; sent == 2 {
			p.die("between two messages")
		}
	}
	first := r.start(nil)
	<-first.died
	first.end()
	r.sending = nil
	told := len(r.ledgerEvents()) - len(commands)
	if told == 0 || told >= 2*len(commands) {
		t.Fatalf("%d events were told by who was killed, want some of %d", told, 2*len(commands))
	}
	r.start(nil)
	r.outcomes(commands...)
	r.idle()
	again := map[string]bool{}
	for _, e := range r.ledgerEvents() {
		if e.Type == events.TypeDecision {
			if again[e.Decision.Command.ID] {
				t.Errorf("command %s was decided again twice, as the ledger has it", e.Decision.Command.ID)
			}
			again[e.Decision.Command.ID] = true
		}
	}
	if len(again) != len(commands) {
		t.Errorf("%d second decisions, want %d", len(again), len(commands))
	}
}

// stalled is a rig whose workers reach NATS through a proxy: stalled, a worker
// is as silent as a process that is paused.
func stalled(t *testing.T, r *rig) *testkit.Proxy {
	proxy := testkit.NewProxy(t, r.nats[len("nats://"):])
	r.via = "nats://" + proxy.Addr()
	return proxy
}

// A worker is paused between its commit and its outcomes, another takes the
// shard, tells them, and goes on. The first one wakes, still connected: what it
// says is refused.
func TestWokenWorkerTellsNothingTwice(t *testing.T) {
	t.Parallel()
	databases(t, func(t *testing.T, r *rig) {
		sam := r.person("sam", "user")
		proxy := stalled(t, r)
		paused, wake := make(chan struct{}), make(chan struct{})
		var once sync.Once
		woken := make(chan struct{})
		var first *process
		var attempt sync.Once
		r.sending = func(p *process) {
			if p == first {
				attempt.Do(func() { close(woken) })
			}
		}
		first = r.prepare(func(p point) bool {
			if p == afterCommit {
				once.Do(func() {
					proxy.Stall()
					close(paused)
					<-wake
				})
			}
			return false
		})
		first.begin()
		var messages []events.Message
		var commands []string
		for range 5 {
			m, c := r.writ(sam, kind.ActionCreate, newID(), 0, nil, `{"first_name":"one"}`)
			messages, commands = append(messages, m), append(commands, c.ID)
		}
		r.batch(messages...)
		<-paused
		r.via = ""
		r.start(nil)
		_, c := r.create(sam, "two")
		r.outcomes(append(commands, c)...)
		proxy.Restore()
		close(wake)
		<-woken // it says it all the same
		first.end()
		r.idle()
	})
}

// A worker is paused in the middle of its transaction, another takes over (when
// PostgreSQL has ended the idle transaction, which holds the position), the
// first one wakes: it has lost its batch.
func TestWokenWorkerLosesItsBatch(t *testing.T) {
	t.Parallel()
	r := newRig(t, testkit.Postgres(t))
	sam := r.person("sam", "user")
	proxy := stalled(t, r)
	paused, wake := make(chan struct{}), make(chan struct{})
	first := r.start(nil, func(l *Loop) {
		h := l.handlers["contact"]
		apply := h.Apply
		var once sync.Once
		h.Apply = func(row *kind.Row, c *events.Command) (*kind.Row, error) {
			once.Do(func() {
				proxy.Stall() // a paused process answers nobody: the shard goes to another
				close(paused)
				<-wake
			})
			return apply(row, c)
		}
		l.handlers["contact"] = h
	})
	id, c1 := r.create(sam, "one")
	<-paused
	m, c2 := r.writ(sam, kind.ActionUpdate, id, 1, owned, `{"notes":"two"}`)
	r.append(m)
	r.via = ""
	r.start(nil)
	all := r.outcomes(c1, c2.ID)
	if all[c1].Version != 1 || all[c2.ID].Version != 2 {
		t.Fatalf("%+v", all)
	}
	proxy.Restore()
	close(wake)
	r.idle()
	first.end()
	r.idle()
	if row := need(r.contact(id))(t); row.Version != 2 || row.Notes != "two" {
		t.Fatalf("%+v", row)
	}
}

func TestTakeoverKeepsTheOrder(t *testing.T) {
	t.Parallel()
	r := sqlite(t)
	sam := r.person("sam", "user")
	first := r.start(func(p point) bool { return p == beforeCommit })
	id, c := r.create(sam, "one")
	<-first.died
	first.end()
	commands := []string{c}
	for i := range 10 { // new commands, while the first is not applied
		m, c := r.writ(sam, kind.ActionUpdate, id, int64(i+1), owned, fmt.Sprintf(`{"notes":"%d"}`, i))
		r.append(m)
		commands = append(commands, c.ID)
	}
	r.start(nil)
	all := r.outcomes(commands...)
	for i, c := range commands {
		if o := all[c]; o.Status != events.StatusApplied || o.Version != int64(i+1) {
			t.Fatalf("command %d: %+v", i, o)
		}
	}
	r.idle()
}
