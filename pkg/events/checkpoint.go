package events

import (
	"fmt"
	"time"
)

// Checkpoint is what the auditor vouches for: how large the two audit logs were
// and which root hashes they had. On the ledger, so that whoever holds only
// Redis cannot rewrite the logs.
type Checkpoint struct {
	ID string `json:"id"`
	// Key names the audit key that signed: 8 hex digits.
	Key string `json:"key"`
	// Sequence is the address on the ledger up to which the two logs account for
	// every event. It is below that of the checkpoint itself.
	Sequence uint64 `json:"sequence"`
	// Decisions and Outcomes are the logs' checkpoints as signed notes (C2SP
	// tlog-checkpoint).
	Decisions string    `json:"decisions"`
	Outcomes  string    `json:"outcomes"`
	At        time.Time `json:"at"`
}

// CheckpointID is the id of the one checkpoint of a key at these sizes: two
// auditors with one key make the same.
func CheckpointID(key string, decisions, outcomes int64) string {
	return fmt.Sprintf("%s.%d.%d.checkpoint", key, decisions, outcomes)
}

// CheckpointSubject is writ.checkpoint.<key>.
func CheckpointSubject(key string) string { return prefixCheckpoint + Token(key) }

// NewCheckpoint seals and encodes a checkpoint.
func NewCheckpoint(keys *Keyring, c *Checkpoint) (Message, error) {
	raw, err := marshal(c)
	if err != nil {
		return Message{}, fmt.Errorf("encode checkpoint %s: %w", c.ID, err)
	}
	m := Message{ID: c.ID, Subject: CheckpointSubject(c.Key)}
	m.Data = encode(header{id: m.ID, kind: TypeCheckpoint, source: SourceAuditor, subject: "audit/" + c.Key, at: c.At},
		keys.Seal(raw), part{"checkpoint", raw})
	return m, sized(m)
}
