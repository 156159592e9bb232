package events

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
)

// The streams.
const (
	StreamLedger = "LEDGER" // commands, decisions and outcomes; never forgets
	StreamDead   = "DEAD"   // what could not be processed
	StreamJobs   = "JOBS"   // background jobs; a job leaves it when it is over
)

// The subjects of the ledger. A message is a batch of events (see Join), so a
// subject tells who reads it, not what each event is about: for that there is
// the feed (FeedSubject).
const (
	prefixCommand    = "writ.cmd."
	prefixOutcome    = "writ.outcome."
	prefixCheckpoint = "writ.checkpoint."

	// SubjectDecisions takes every decision that permits no command: reads,
	// lists, denials.
	SubjectDecisions = "writ.decision"
	// SubjectStytchOutcomes takes the outcomes of commands that needed Stytch,
	// which end when Stytch has answered, not in the order of a shard.
	SubjectStytchOutcomes = prefixOutcome + "stytch"
)

// What the streams listen to.
const (
	AllCommands    = prefixCommand + ">"
	AllOutcomes    = prefixOutcome + ">"
	AllCheckpoints = prefixCheckpoint + ">"
	AllDead        = "writ.dead.>"
	AllJobs        = "writ.job.>"
)

// MaxShards is the most shards that commands may be spread over.
const MaxShards = 64

// Shard gives the shard of a resource: FNV-1a of its id, modulo the number of
// shards (WRIT_LEDGER_SHARDS). All commands on one resource are in one shard,
// which keeps them in order; another number of shards moves resources.
func Shard(resourceID string, shards int) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(resourceID)) // never fails: hash.Hash
	return int(h.Sum32() % uint32(shards))
}

// CommandSubject is writ.cmd.<shard>.
func CommandSubject(shard int) string { return prefixCommand + strconv.Itoa(shard) }

// OutcomeSubject is writ.outcome.<shard>: what became of the commands of a shard.
func OutcomeSubject(shard int) string { return prefixOutcome + strconv.Itoa(shard) }

// FeedSubject is the core NATS subject on which the auditor tells of an event
// when it is in the audit log: writ.feed.decision.<kind>.<action>.<effect>, of
// a writ its decision, or writ.feed.outcome.<kind>.<action>.<status>. It is ""
// for a checkpoint. No stream listens to it: who must miss nothing reads the
// ledger or the audit log.
func (e *Event) FeedSubject() string {
	if topic := e.Topic(); topic != "" {
		return "writ.feed." + topic
	}
	return ""
}

// Topic tells in a few words what an event is about: decision.<kind>.<action>.<effect>
// or outcome.<kind>.<action>.<status>; "" for a checkpoint.
func (e *Event) Topic() string {
	switch e.Type {
	case TypeOutcome:
		o := &e.Outcome
		return "outcome." + Token(o.Kind) + "." + Token(o.Action) + "." + string(o.Status)
	case TypeWrit, TypeDecision:
		d := &e.Decision
		return "decision." + Token(d.Resource.Kind) + "." + Token(d.Action) + "." + string(d.Effect)
	}
	return ""
}

// QueuedSubject is the core NATS subject on which workers tell each other that
// commands for Stytch have been queued. It carries nothing and no stream listens
// to it: who misses it finds the queue in SQL a little later.
const QueuedSubject = "writ.queued"

// DeadSubject is writ.dead.<service>.<stream>.<address>: one subject per
// refused event, so that a refusal repeated is recognized as the same. Of
// streams other than the ledger it is the message's sequence.
func DeadSubject(service, stream string, address Address) string {
	return fmt.Sprintf("writ.dead.%s.%s.%d", service, stream, address)
}

// JobSubject is writ.job.<queue>.<id>: one subject per job, so that a job that
// waits or runs already is recognized.
func JobSubject(queue, id string) string { return "writ.job." + queue + "." + id }

// WaitSubject is the core NATS subject on which one api instance hears of
// outcomes. No stream listens to it.
func WaitSubject(instance string) string { return "writ.wait." + instance }

// SubjectRevoked is the core NATS subject on which api instances tell each other
// of sessions that were ended. No stream listens to it.
const SubjectRevoked = "writ.revoked"

// Token makes an action usable as one token of a subject: an action such as
// view:approver may hold characters that subjects must not (space, dot, * and >).
func Token(action string) string {
	if token(action) {
		return action
	}
	return strings.Map(func(r rune) rune {
		if r < 0x80 && tokenByte(byte(r)) {
			return r
		}
		return '_'
	}, action)
}

func token(s string) bool {
	for i := range len(s) {
		if !tokenByte(s[i]) {
			return false
		}
	}
	return true
}

func tokenByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == ':'
}
