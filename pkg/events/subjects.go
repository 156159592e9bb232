package events

import (
	"fmt"
	"hash/fnv"
	"strings"
)

// The streams.
const (
	StreamLedger = "LEDGER" // commands, decisions and outcomes; never forgets
	StreamDead   = "DEAD"   // what could not be processed
	StreamJobs   = "JOBS"   // background jobs; a job leaves it when it is over
)

// The subjects' first two tokens; everything on the ledger starts with one of them.
const (
	prefixCommand  = "writ.cmd"
	prefixDecision = "writ.decision"
	prefixOutcome  = "writ.outcome"

	prefixCheckpoint = "writ.checkpoint"
)

// What the streams listen to.
const (
	AllCommands  = prefixCommand + ".>"
	AllDecisions = prefixDecision + ".>"
	AllOutcomes  = prefixOutcome + ".>"
	// AllDenials are the decisions that denied.
	AllDenials = prefixDecision + ".*.*." + string(Deny)

	AllCheckpoints = prefixCheckpoint + ".>"
	AllDead        = "writ.dead.>"
	AllJobs        = "writ.job.>"
)

// Partitions is the number of partitions of commands. It is part of the wire
// contract: changing it would move resources between partitions and so lose
// their order.
const Partitions = 16

// Partition gives the partition of a resource: FNV-1a of its id, modulo Partitions.
func Partition(resourceID string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(resourceID)) // never fails: hash.Hash
	return int(h.Sum32() % Partitions)
}

// CommandSubject is writ.cmd.<kind>.<partition>.<action>.
func CommandSubject(kind string, partition int, action string) string {
	return fmt.Sprintf("%s.%s.%02d.%s", prefixCommand, kind, partition, action)
}

// PartitionFilter matches the commands of one partition, of every kind.
func PartitionFilter(partition int) string {
	return fmt.Sprintf("%s.*.%02d.*", prefixCommand, partition)
}

// DecisionSubject is writ.decision.<kind>.<action>.<effect>.
func DecisionSubject(kind, action string, effect Effect) string {
	return prefixDecision + "." + kind + "." + Token(action) + "." + string(effect)
}

// OutcomeSubject is writ.outcome.<kind>.<action>.<status>.
func OutcomeSubject(kind, action string, status Status) string {
	return prefixOutcome + "." + kind + "." + Token(action) + "." + string(status)
}

// OutcomesOf matches the outcomes of the commands of a kind.
func OutcomesOf(kind string) string { return prefixOutcome + "." + kind + ".>" }

// QueuedSubject is the core NATS subject on which workers tell each other that
// commands for Stytch have been queued. It carries nothing and no stream listens
// to it: who misses it finds the queue in SQL a little later.
const QueuedSubject = "writ.queued"

// DeadSubject is writ.dead.<service>.<stream>.<sequence>: one subject per
// refused message, so that a refusal repeated is recognized as the same.
func DeadSubject(service, stream string, sequence uint64) string {
	return fmt.Sprintf("writ.dead.%s.%s.%d", service, stream, sequence)
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
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == ':':
			return r
		}
		return '_'
	}, action)
}
