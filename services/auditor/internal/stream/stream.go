// Package stream writes the audit log to Redis: the streams writ:decisions and
// writ:outcomes, each entry once, in ledger order.
//
// Both streams are appended by one atomic script that first compares their
// last ids with what the caller believes them to be. So the streams themselves
// are the position: two auditors may race (one loses and reads the position
// again), and a Redis that lost its tail, or everything, is filled again from
// the ledger with the same ids and bytes.
//
// The same script keeps both last ids in writ:marks, the only other state. A
// stream that ends below its mark was lost without the other one; the position
// says nothing then, and both streams are deleted and filled from the beginning.
package stream

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/writ-project/writ/pkg/fault"
)

// The streams' keys. Redis Cluster is served by WRIT_REDIS_URL naming one
// primary: one script writes all keys, so they must be on one node.
const (
	Decisions = "writ:decisions"
	Outcomes  = "writ:outcomes"
)

// MarksKey is a hash: decisions and outcomes, the streams' last ids after the
// last append. Without it the streams are trusted; the next append writes it.
const MarksKey = "writ:marks"

// Dependency is the name of Redis in /readyz and in errors.
const Dependency = "redis"

// ErrMoved means that another auditor has appended meanwhile, or that Redis
// lost something: the position must be read again.
var ErrMoved = errors.New("the streams have moved")

var (
	//go:embed append.lua
	appendScript string
	//go:embed reset.lua
	resetScript string
)

var (
	stateScript, _, _ = strings.Cut(appendScript, "-- append")

	appendLua   = redis.NewScript(appendScript)
	positionLua = redis.NewScript(stateScript + "return state(1)")
	resetLua    = redis.NewScript(stateScript + resetScript)
)

// ID is a stream entry's id: <ms>-<ledger sequence>.
type ID struct {
	Ms       uint64
	Sequence uint64
}

func (i ID) String() string {
	return strconv.FormatUint(i.Ms, 10) + "-" + strconv.FormatUint(i.Sequence, 10)
}

// Less tells whether i comes before other: by time, then by sequence.
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

// Marks are last ids that the two streams have had; zero if none are known.
type Marks struct{ Decisions, Outcomes ID }

// Position is the last ids of the two streams, zero for a stream that is not
// there, and the marks that are kept beside them.
type Position struct {
	Decisions, Outcomes ID
	Marks               Marks
}

// Below tells whether a stream ends before its mark: it has lost entries.
func (p Position) Below(m Marks) bool {
	return p.Decisions.Less(m.Decisions) || p.Outcomes.Less(m.Outcomes)
}

// Empty tells whether neither stream is there.
func (p Position) Empty() bool { return p.Decisions == ID{} && p.Outcomes == ID{} }

// Sequence is the ledger sequence up to which everything is in the streams:
// both are appended together, so it is the higher of the two.
func (p Position) Sequence() uint64 { return max(p.Decisions.Sequence, p.Outcomes.Sequence) }

// Ms is the highest time in the streams' ids; the next id is not below it.
func (p Position) Ms() uint64 { return max(p.Decisions.Ms, p.Outcomes.Ms) }

// Entry is one stream entry.
type Entry struct {
	Stream string // Decisions or Outcomes
	ID     ID
	Field  string // decision or outcome
	Record []byte // the exact bytes from the ledger
	Seal   string // kid.mac
}

// Log is the audit log in one Redis. It is safe for concurrent use.
type Log struct{ rdb redis.Scripter }

// New makes a Log.
func New(rdb redis.Scripter) *Log { return &Log{rdb} }

// Position reads the position. Errors are fault.Unavailable.
func (l *Log) Position(ctx context.Context) (Position, error) {
	_, p, err := run(ctx, l.rdb, positionLua, nil)
	return p, err
}

// Append appends the entries, whose ids must ascend, if the streams still stand
// at from, and gives the new position. It reports ErrMoved and the position
// found if they do not; any other error is fault.Unavailable.
func (l *Log) Append(ctx context.Context, from Position, entries []Entry) (Position, error) {
	args := make([]any, 0, 2+5*len(entries))
	args = append(args, from.Decisions.String(), from.Outcomes.String())
	for _, e := range entries {
		key := 1
		if e.Stream == Outcomes {
			key = 2
		}
		args = append(args, key, e.ID.String(), e.Field, e.Record, e.Seal)
	}
	ok, p, err := run(ctx, l.rdb, appendLua, args)
	if err == nil && !ok {
		err = ErrMoved
	}
	return p, err
}

// Reset deletes both streams and the marks if they still stand at from, and
// gives the position then, which is zero. It reports ErrMoved and the position
// found if they do not; any other error is fault.Unavailable.
func (l *Log) Reset(ctx context.Context, from Position) (Position, error) {
	ok, p, err := run(ctx, l.rdb, resetLua, []any{from.Decisions.String(), from.Outcomes.String(),
		from.Marks.Decisions.String(), from.Marks.Outcomes.String()})
	if err == nil && !ok {
		err = ErrMoved
	}
	return p, err
}

func run(ctx context.Context, rdb redis.Scripter, script *redis.Script, args []any) (ok bool, p Position, err error) {
	res, err := script.Run(ctx, rdb, []string{Decisions, Outcomes, MarksKey}, args...).Slice()
	if err != nil {
		return false, p, fault.Unreachable(Dependency, err)
	}
	ids := []*ID{&p.Decisions, &p.Outcomes, &p.Marks.Decisions, &p.Marks.Outcomes}
	if len(res) != 1+len(ids) {
		return false, Position{}, fault.Unreachable(Dependency, fmt.Errorf("unexpected answer of the script: %v", res))
	}
	for i, id := range ids {
		s, _ := res[1+i].(string)
		if *id, err = ParseID(s); err != nil {
			return false, Position{}, fault.Unreachable(Dependency, fmt.Errorf("unexpected answer of the script: %w", err))
		}
	}
	done, _ := res[0].(int64)
	return done == 1, p, nil
}
