// Package audit is the audit log as it stands in Redis, and the proof that it
// is complete and unchanged: what the auditor writes, and what whoever serves,
// reads or checks the log shares.
//
// There are two logs, decisions and outcomes. Each is a Redis stream and, over
// its records' exact bytes, a Merkle tree (RFC 6962 hashing,
// golang.org/x/mod/sumdb/tlog) whose tiles, of height 8, stand beside the
// stream. A checkpoint (C2SP tlog-checkpoint, a signed note) vouches for a size
// and a root hash; docs/audit.md tells how a third party checks it all.
//
//	Writer ──one script──▶ stream + tiles + bundles + marks ──▶ Reader ──▶ Verify, Prove, Evidence
//	  └─────▶ Checkpoint ──▶ Redis, and the ledger
package audit

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/writ-project/writ/pkg/events"
)

// Log is one of the two logs.
type Log string

// The logs.
const (
	Decisions Log = "decisions"
	Outcomes  Log = "outcomes"
)

// Logs are both logs.
var Logs = []Log{Decisions, Outcomes}

// Stream is the key of the log's Redis stream.
func (l Log) Stream() string { return "writ:" + string(l) }

// Field is the name of the stream entries' field that holds the record. The
// other field is SealField.
func (l Log) Field() string { return strings.TrimSuffix(string(l), "s") }

// SealField is the stream entries' field with the seal: <kid>.<mac>.
const SealField = "seal"

// Keys in Redis beside the streams. All keys must be on one node: Redis Cluster
// is not supported.
const (
	// MarksKey is a hash: where the logs stand. See State.
	MarksKey = "writ:marks"
	// CheckpointKey is a hash: the signed notes by log, and the ledger address
	// that they account for. See Signed.
	CheckpointKey = "writ:checkpoint"
)

// bundlesKey is a sorted set: <number>:<id> of each bundle's first entry, scored
// with its ledger address. It is trimmed with the stream, so its first member
// tells from where on entries are there.
func (l Log) bundlesKey() string { return l.Stream() + ":bundles" }

// tileKey is a string: the tile's hashes, as many as there are yet.
func (l Log) tileKey(level int, n int64) string {
	return fmt.Sprintf("%s:tile:%d:%d", l.Stream(), level, n)
}

// TileHeight is the height of tiles, as C2SP tlog-tiles wants it.
const TileHeight = 8

// BundleSize is how many entries an entry bundle holds, and hashes a tile.
const BundleSize = 1 << TileHeight

// ID is a stream entry's id: <ms>-<ledger address>. Ms is the time at which
// the ledger stored the message, or the id before if that is higher.
type ID struct {
	Ms uint64
	// Sequence is the event's address on the ledger, which is the sequence of the
	// Redis entry's id: of all events of the ledger it ascends in their order.
	Sequence events.Address
}

// MaxID is above every entry's id.
var MaxID = ID{math.MaxUint64, math.MaxUint64}

// String is the id as Redis writes it.
func (i ID) String() string {
	var b [41]byte // two numbers of 20 digits
	return string(strconv.AppendUint(append(strconv.AppendUint(b[:0], i.Ms, 10), '-'), i.Sequence, 10))
}

// Less tells whether i comes before other: by time, then by address.
func (i ID) Less(other ID) bool {
	return i.Ms < other.Ms || i.Ms == other.Ms && i.Sequence < other.Sequence
}

// ParseID reads an id.
func ParseID(s string) (ID, error) {
	a, b, ok := strings.Cut(s, "-")
	ms, err1 := strconv.ParseUint(a, 10, 64)
	seq, err2 := strconv.ParseUint(b, 10, 64)
	if !ok || err1 != nil || err2 != nil {
		return ID{}, fmt.Errorf("stream id %q is not <ms>-<sequence>", s)
	}
	return ID{ms, seq}, nil
}

// Entry is one entry of a log.
type Entry struct {
	Log   Log
	Index int64 // number of the leaf in the log's tree, from 0
	// ID is the entry's id; zero where a Source does not tell (C2SP entry
	// bundles hold records only).
	ID     ID
	Record []byte // the exact bytes from the ledger: the leaf
	Seal   string // kid.mac; empty where a Source does not tell
}

// LeafHash is the hash of the entry's leaf: SHA-256 of 0x00 and the record
// (RFC 6962, 2.1).
func (e Entry) LeafHash() tlog.Hash { return tlog.RecordHash(e.Record) }

// ErrUnknown means that a Source cannot tell.
var ErrUnknown = errors.New("this source cannot tell")

// What reading a log can report beside fault.Unavailable.
var (
	// ErrTrimmed means that the entries asked for were older than the retention.
	ErrTrimmed = errors.New("trimmed: older than the retention")
	// ErrDamaged means that something of the log is missing or cannot be read:
	// Verify tells what.
	ErrDamaged = errors.New("the audit log is damaged")
	// ErrNoCheckpoint means that nothing has been signed yet.
	ErrNoCheckpoint = errors.New("the audit log has no checkpoint yet")
)

// Position is where one log stands.
type Position struct {
	Last  ID    // of the last entry ever appended; zero for none
	Size  int64 // leaves of the tree
	First int64 // index of the first entry that is not trimmed
}

// State is where the logs stand. Both are appended by one script.
type State struct {
	Decisions, Outcomes Position
	// Sequence is the ledger address up to which every address is an entry of
	// one of the logs or explained. After a whole message it is events.End of it.
	Sequence events.Address
	// Start is the first ledger address that is accounted for: that of the first
	// message's first event, unless the ledger itself begins later.
	Start events.Address
}

// Of gives one log's position.
func (s State) Of(l Log) Position {
	if l == Outcomes {
		return s.Outcomes
	}
	return s.Decisions
}

// Range is a run of ledger addresses, both ends included, that are no entries
// of a log, and why.
type Range struct {
	First, Last events.Address
	Why         Why
}

// Why a ledger address is no entry.
type Why byte

// The reasons.
const (
	WhyRefused    Why = 'r' // refused: there is a dead letter of the service auditor
	WhyCheckpoint Why = 'c' // a checkpoint of this log
	WhyEnd        Why = 'e' // the message holds no event there: it ended before
)

// place tells where on the ledger an address is.
func place(a events.Address) string {
	return fmt.Sprintf("ledger address %d (message %d, index %d)", a, events.SequenceOf(a), events.IndexOf(a))
}
