package apply

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/writ-project/writ/pkg/authz"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/testkit"
	"github.com/writ-project/writ/services/worker/internal/command"
)

// One event of a message that must not be applied is a dead letter of its own;
// those beside it are applied, in order.
func TestABadEventOfAMessageHarmsNoneBesideIt(t *testing.T) {
	t.Parallel()
	body := `{"notes":"forged"}`
	for code, forge := range map[string]func(r *rig, sam events.Principal) events.Message{
		"bad-seal": func(r *rig, sam events.Principal) events.Message {
			ours := r.keys
			r.keys = need(events.ParseKeyring(events.GenerateKey("test")))(r.t)
			defer func() { r.keys = ours }()
			m, _ := r.writ(sam, kind.ActionCreate, r.inShard(0), 0, nil, body)
			return m
		},
		"mismatch": func(r *rig, sam events.Principal) events.Message { // the body was changed after the seal
			m, _ := r.writ(sam, kind.ActionCreate, r.inShard(0), 0, nil, body)
			m.Data = []byte(strings.Replace(string(m.Data), "forged", "forgex", 1))
			return m
		},
		"unknown-version": func(r *rig, sam events.Principal) events.Message {
			m, _ := r.writ(sam, kind.ActionCreate, r.inShard(0), 0, nil, body)
			m.Data = []byte(strings.Replace(string(m.Data), events.TypeWrit, "writ.command.v9", 1))
			return m
		},
		"unknown-version of a kind": func(r *rig, sam events.Principal) events.Message {
			m, _ := r.writ(sam, kind.ActionCreate, r.inShard(0), 0, nil, body, func(d *events.Decision, c *events.Command) {
				c.Kind, d.Resource.Kind = "spaceship", "spaceship"
			})
			return m
		},
		"malformed": func(r *rig, sam events.Principal) events.Message {
			m, _ := r.writ(sam, kind.ActionCreate, r.inShard(0), 0, nil, body)
			m.Data = m.Data[:len(m.Data)/2]
			return m
		},
		"mismatch of its type": func(r *rig, sam events.Principal) events.Message { // a decision that permits nothing
			d := events.Decision{ID: newID(), Stage: events.StageRequest, Tenant: "default", Principal: sam, Action: kind.ActionCreate, Effect: events.Allow,
				Resource: events.Resource{Kind: "contact", ID: r.inShard(0)}, EvaluatedAt: time.Now().UTC()}
			return need(events.NewDecision(r.keys, events.SourceAPI, &d))(r.t)
		},
		"wrong-shard": func(r *rig, sam events.Principal) events.Message {
			m, _ := r.writ(sam, kind.ActionCreate, r.inShard(1), 0, nil, body)
			return m
		},
		"expired": func(r *rig, sam events.Principal) events.Message {
			c := events.Command{ID: newID(), Kind: "contact", ResourceID: r.inShard(0), Action: kind.ActionCreate, Tenant: "default", PrincipalID: sam.ID,
				Body: json.RawMessage(body), IssuedAt: time.Now().UTC()}
			d := events.Decision{ID: newID(), Stage: events.StageRequest, Tenant: c.Tenant, Principal: sam, Action: c.Action, Effect: events.Allow,
				Resource: events.Resource{Kind: c.Kind, ID: c.ResourceID}, Policy: events.Policy{Revision: r.authz.Revision()}}
			return need(events.NewWrit(r.keys, events.SourceAPI, &d, &c, time.Now().Add(-2*events.Leeway)))(r.t)
		},
	} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			code, _, _ := strings.Cut(code, " of ")
			r := sharded(t, 2)
			sam := r.person("sam", "user")
			id := r.inShard(0)
			r.put(id, "sam")
			var messages []events.Message
			var commands []string
			for i := range 6 {
				m, c := r.writ(sam, kind.ActionUpdate, id, int64(i+1), owned, fmt.Sprintf(`{"notes":"%d"}`, i))
				messages, commands = append(messages, m), append(commands, c.ID)
			}
			const bad = 3
			messages = append(messages[:bad], append([]events.Message{forge(r, sam)}, messages[bad:]...)...)
			for i := range messages {
				messages[i].Subject = events.CommandSubject(0)
			}
			r.batch(messages...)
			if n := need(r.ledger.Last(t.Context()))(t); n != 1 {
				t.Fatalf("%d messages, want one", n)
			}
			r.start(nil)
			all := r.outcomes(commands...)
			for i, c := range commands {
				if o := all[c]; o.Status != events.StatusApplied || o.Version != int64(i+2) {
					t.Errorf("command %d: %+v", i, o)
				}
			}
			if row := need(r.contact(id))(t); row.Notes != "5" {
				t.Errorf("notes are %q, want the last command's", row.Notes)
			}
			r.idle()
			at := strconv.FormatUint(events.At(1, bad), 10)
			if dead := r.dead(); len(dead) != 1 || dead[at] != code {
				t.Errorf("dead letters %v, want %s at %s alone", dead, code, at)
			}
			for _, e := range r.ledgerEvents() {
				if e.Type == events.TypeOutcome && e.Outcome.Sequence == events.At(1, bad) && code != "expired" {
					t.Errorf("a forged command has an outcome: %+v", e.Outcome)
				}
			}
			rows, err := r.store.Command(t.Context(), events.IDOf(messages[bad].Data))
			if code == "expired" {
				if err != nil || rows.Status != events.StatusFailed || rows.Code != "expired" {
					t.Errorf("the expired one is %+v (%v), want failed", rows, err)
				}
			} else if !fault.Is(err, fault.NotFound) {
				t.Errorf("the bad one has a row: %+v (%v)", rows, err)
			}
		})
	}
}

// Cerbos goes away in the middle of a message: the commands up to there are
// applied, the rest wait, and then go on in order.
func TestAMessageIsAppliedUpToWhereCerbosIsMissing(t *testing.T) {
	t.Parallel()
	pdp := testkit.CerbosServer(t, "../../../../policies")
	r := sqlite(t)
	az := need(authz.Open(t.Context(), "grpc:"+pdp.GRPCAddr(), authz.WithRevision("r1"), authz.WithTimeout(300*time.Millisecond)))(t)
	t.Cleanup(func() { _ = az.Close() })
	r.authz = az
	sam := r.person("sam", "user")
	id := newID()
	r.put(id, "sam")
	var messages []events.Message
	var commands []string
	for i := range 6 {
		version := int64(i + 1)
		if i == 3 {
			version = 7 // saw another one
		}
		m, c := r.writ(sam, kind.ActionUpdate, id, version, owned, fmt.Sprintf(`{"notes":"%d"}`, i))
		messages, commands = append(messages, m), append(commands, c.ID)
	}
	pdp.Kill()
	r.batch(messages...)
	p := r.start(nil)
	r.outcomes(commands[:3]...)
	testkit.Eventually(t, soon, func() error {
		if p.loop.Ready(t.Context()) == nil {
			return fmt.Errorf("ready, although commands wait for Cerbos")
		}
		return nil
	})
	for _, c := range commands[3:] {
		if _, err := r.store.Command(t.Context(), c); !fault.Is(err, fault.NotFound) {
			t.Fatalf("applied undecided, or out of order: %v", err)
		}
	}
	pdp.Start(t)
	all := r.outcomes(commands...)
	for i, c := range commands {
		if o := all[c]; o.Status != events.StatusApplied || o.Version != int64(i+2) {
			t.Errorf("command %d: %+v", i, o)
		}
	}
	if row := need(r.contact(id))(t); row.Notes != "5" {
		t.Errorf("notes are %q, want the last command's", row.Notes)
	}
}

// waiter is an api instance that waits for outcomes.
func (r *rig) waiter(name string) (subject string, told func() events.Notice) {
	r.t.Helper()
	subject = events.WaitSubject(name)
	nc := need(nats.Connect(r.nats))(r.t)
	r.t.Cleanup(nc.Close)
	sub := need(nc.SubscribeSync(subject))(r.t)
	must(r.t, nc.Flush())
	return subject, func() (n events.Notice) {
		r.t.Helper()
		m, err := sub.NextMsg(soon)
		if err != nil {
			r.t.Fatalf("%s was not told: %v", name, err)
		}
		must(r.t, json.Unmarshal(m.Data, &n))
		return n
	}
}

// The same command twice has one effect and one outcome, wherever the second
// one stands, and whoever waits for either is told.
func TestACommandThatStandsTwiceHasOneEffect(t *testing.T) {
	t.Parallel()
	for name, send := range map[string]func(r *rig, one, two events.Message){
		"in one message":  func(r *rig, one, two events.Message) { r.batch(one, two) },
		"in two messages": func(r *rig, one, two events.Message) { r.append(one); r.append(two) },
		"later": func(r *rig, one, two events.Message) {
			r.append(one)
			r.outcomes(one.ID)
			r.append(two)
		},
		"in two shards": func(r *rig, one, two events.Message) { r.batch(one, two) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := func(t *testing.T, r *rig) {
				sam := r.person("sam", "user")
				shared := newID()
				ids := []string{r.inShard(0), r.inShard(0)}
				if name == "in two shards" {
					ids[1] = r.inShard(1)
				}
				var messages []events.Message
				var told []func() events.Notice
				for i, id := range ids {
					subject, heard := r.waiter(fmt.Sprint("api", i))
					m, _ := r.writ(sam, kind.ActionCreate, id, 0, nil, `{"first_name":"one"}`, func(_ *events.Decision, c *events.Command) {
						c.ID, c.Fingerprint, c.Key, c.ReplyTo = shared, "a", "k", subject
					})
					messages, told = append(messages, m), append(told, heard)
				}
				for range 2 { // both shards are held before
					r.start(nil)
				}
				r.idle()
				send(r, messages[0], messages[1])
				r.outcomes(shared)
				for i := range told {
					if n := told[i](); n.CommandID != shared || n.Status != events.StatusApplied {
						t.Errorf("waiter %d was told %+v", i, n)
					}
				}
				r.idle()
				made := 0
				for _, id := range ids {
					if _, err := r.contact(id); err == nil {
						made++
					}
				}
				if made != 1 {
					t.Errorf("%d contacts were made, want 1", made)
				}
				if dead := r.dead(); len(dead) != 0 {
					t.Errorf("dead letters: %v", dead)
				}
			}
			if name == "in two shards" {
				run(t, newRig(t, testkit.Postgres(t), 2))
				return
			}
			run(t, sqlite(t))
		})
	}
}

// Another command under an id that was used is a dead letter, and has no effect.
func TestACommandIDIsNotUsedForAnother(t *testing.T) {
	t.Parallel()
	r := sqlite(t)
	sam := r.person("sam", "user")
	shared, other := newID(), newID()
	m1, _ := r.writ(sam, kind.ActionCreate, newID(), 0, nil, `{"first_name":"one"}`, func(_ *events.Decision, c *events.Command) { c.ID, c.Fingerprint = shared, "a" })
	m2, _ := r.writ(sam, kind.ActionCreate, other, 0, nil, `{"first_name":"other"}`, func(_ *events.Decision, c *events.Command) { c.ID, c.Fingerprint = shared, "b" })
	r.batch(m1, m2)
	r.start(nil)
	r.outcomes(shared)
	r.idle()
	if dead, at := r.dead(), strconv.FormatUint(events.At(1, 1), 10); len(dead) != 1 || dead[at] != "command-id-reused" {
		t.Errorf("dead letters %v, want command-id-reused at %s", dead, at)
	}
	if _, err := r.contact(other); !fault.Is(err, fault.NotFound) {
		t.Errorf("it was applied: %v", err)
	}
}

// Of two commands under one idempotency key the first is applied; the second is
// rejected under its own id and its sender is told, wherever and whenever it comes.
func TestAnIdempotencyKeyIsOneCommands(t *testing.T) {
	t.Parallel()
	for name, send := range map[string]func(r *rig, one, two events.Message){
		"in one batch": func(r *rig, one, two events.Message) { r.batch(one, two) },
		"later": func(r *rig, one, two events.Message) {
			r.append(one)
			r.outcomes(one.ID)
			r.append(two)
		},
		"in another shard": func(r *rig, one, two events.Message) { r.batch(one, two) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run := func(t *testing.T, r *rig) {
				sam := r.person("sam", "user")
				ids := []string{r.inShard(0), r.inShard(0)}
				elsewhere := name == "in another shard"
				if elsewhere {
					ids[1] = r.inShard(1)
				}
				var messages []events.Message
				var commands []string
				var told []func() events.Notice
				for i, id := range ids {
					subject, heard := r.waiter(fmt.Sprint("api", i))
					m, c := r.writ(sam, kind.ActionCreate, id, 0, nil, fmt.Sprintf(`{"first_name":"%d"}`, i), func(_ *events.Decision, c *events.Command) {
						c.Fingerprint, c.Key, c.ReplyTo = fmt.Sprint("f", i), "k", subject
					})
					messages, commands, told = append(messages, m), append(commands, c.ID), append(told, heard)
				}
				for range 2 {
					r.start(nil)
				}
				r.idle()
				send(r, messages[0], messages[1])
				all := r.outcomes(commands...)
				winner, loser := 0, 1
				if elsewhere && all[commands[1]].Status == events.StatusApplied {
					winner, loser = 1, 0
				}
				if o := all[commands[winner]]; o.Status != events.StatusApplied {
					t.Errorf("the first is %+v, want applied", o)
				}
				if o := all[commands[loser]]; o.Status != events.StatusRejected || o.Code != command.CodeKeyReused {
					t.Errorf("the second is %+v, want rejected %s", o, command.CodeKeyReused)
				}
				if n := told[winner](); n.CommandID != commands[winner] || n.Status != events.StatusApplied {
					t.Errorf("the first's sender was told %+v", n)
				}
				if n := told[loser](); n.CommandID != commands[loser] || n.Code != command.CodeKeyReused {
					t.Errorf("the second's sender was told %+v", n)
				}
				if _, err := r.contact(ids[loser]); !fault.Is(err, fault.NotFound) {
					t.Errorf("the second has an effect: %v", err)
				}
				if row := need(r.store.CommandByKey(t.Context(), "k"))(t); row.ID != commands[winner] {
					t.Errorf("the key is that of %s, want %s", row.ID, commands[winner])
				}
				r.idle()
			}
			if name == "in another shard" {
				run(t, newRig(t, testkit.Postgres(t), 2))
				return
			}
			databases(t, run)
		})
	}
}
