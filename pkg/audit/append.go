package audit

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// ErrMoved means that another auditor has appended meanwhile, or that Redis
// lost something: the head must be loaded again.
var ErrMoved = errors.New("the audit log has moved")

var (
	//go:embed state.lua
	stateScript string
	//go:embed append.lua
	appendScript string
	//go:embed reset.lua
	resetScript string
	//go:embed checkpoint.lua
	checkpointScript string
	//go:embed trim.lua
	trimScript string

	stateLua      = redis.NewScript(stateScript + "return {1, state()}")
	appendLua     = redis.NewScript(stateScript + appendScript)
	resetLua      = redis.NewScript(stateScript + resetScript)
	checkpointLua = redis.NewScript(checkpointScript)
	trimLua       = redis.NewScript(trimScript)
)

// scriptKeys are the scripts' KEYS.
var scriptKeys = []string{
	Decisions.Stream(), Outcomes.Stream(), Decisions.bundlesKey(), Outcomes.bundlesKey(), MarksKey, CheckpointKey,
}

// Appender writes the logs. Streams, trees and what finds entries are written
// by one script, which first compares where all of it stands with what the
// caller believes: so they never disagree, and of two auditors one wins. It is
// safe for concurrent use.
type Appender struct {
	rdb redis.UniversalClient
	// retention is how long index records are kept at least; 0 means for ever.
	retention time.Duration
}

// NewAppender makes an Appender of logs that are kept for this time, 0 for ever.
func NewAppender(rdb redis.UniversalClient, retention time.Duration) *Appender {
	return &Appender{rdb, retention}
}

// Head is where the logs in Redis stand.
type Head struct {
	State
	// Damaged tells what is wrong: the streams do not end where the last append
	// ended. Empty if nothing is.
	Damaged string
	token   string
	through events.Address // the highest that anything there tells
}

// Empty tells whether there is nothing in Redis.
func (h Head) Empty() bool { return h.State == State{} && h.Damaged == "" }

// Head reads where the logs stand. Errors are fault.Unavailable.
func (a *Appender) Head(ctx context.Context) (Head, error) {
	_, token, err := a.run(ctx, stateLua, nil)
	if err != nil {
		return Head{}, err
	}
	return parseHead(token)
}

func parseHead(token string) (Head, error) {
	f := strings.Fields(token)
	if len(f) != 8 {
		return Head{}, fault.Unreachable(Dependency, fmt.Errorf("unexpected answer of the script: %q", token))
	}
	h := Head{token: token}
	if token == emptyToken {
		return h, nil
	}
	m := map[string]string{}
	for i, name := range []string{"decisions", "outcomes", "decisions_size", "outcomes_size", "sequence", "start"} {
		if f[2+i] == "-" {
			h.Damaged = MarksKey + " does not tell " + name
			f[2+i] = ""
		}
		m[name] = f[2+i]
	}
	var err error
	if h.State, err = parseState(m); err != nil {
		h.Damaged = err.Error()
	}
	var ends [2]ID
	for i, l := range Logs {
		if ends[i], err = ParseID(f[i]); err != nil {
			return Head{}, fault.Unreachable(Dependency, fmt.Errorf("unexpected answer of the script: %w", err))
		}
		if h.Damaged == "" && ends[i] != h.Of(l).Last {
			h.Damaged = fmt.Sprintf("%s ends with %s, the last entry was %s", l.Stream(), ends[i], h.Of(l).Last)
		}
	}
	h.through = max(h.Sequence, ends[0].Sequence, ends[1].Sequence)
	switch {
	case h.Damaged == "":
	case ends == [2]ID{}: // somebody deleted the streams: then the marks are not believed either
		h.State = State{}
	default:
		h.State = State{Sequence: h.through} // tells whether it is another ledger's
	}
	return h, nil
}

// emptyToken is the state of an empty Redis.
const emptyToken = "0-0 0-0 - - - - - -"

// Item is an entry to append, and what is to find it.
type Item struct {
	Entry // without Index
	// DecisionID is the decision's own id; of an outcome that of the decision
	// that was acted on. Only UUIDs are indexed.
	DecisionID string
	// Command is, of an outcome, the ledger address of its command.
	Command events.Address
	// Leaf is LeafHash where that was computed already; zero means not.
	Leaf tlog.Hash
}

// Batch is what one append adds.
type Batch struct {
	Items     []Item // in the ledger's order: ids ascend
	Explained []Range
	Sequence  events.Address // everything up to here is accounted for afterwards
	Start     events.Address // see State; looked at while the logs are empty
}

// Leaves gives the hashes of one log's entries in the batch, in order.
func (b Batch) Leaves(l Log) []tlog.Hash {
	var out []tlog.Hash
	for i := range b.Items {
		switch item := &b.Items[i]; {
		case item.Log != l:
		case item.Leaf == tlog.Hash{}:
			out = append(out, item.LeafHash())
		default:
			out = append(out, item.Leaf)
		}
	}
	return out
}

// Trees are both logs' trees.
type Trees struct{ Decisions, Outcomes *Tree }

// Of gives one log's tree.
func (t Trees) Of(l Log) *Tree {
	if l == Outcomes {
		return t.Outcomes
	}
	return t.Decisions
}

// Clone is a copy that shares nothing with t.
func (t Trees) Clone() Trees { return Trees{t.Decisions.Clone(), t.Outcomes.Clone()} }

// Append appends a batch if the logs still stand at head, and gives the new
// head. trees are those of head; on success they have grown by the batch, after
// an error they must not be used again. It reports ErrMoved if the logs stand
// elsewhere; any other error is fault.Unavailable. Either leaves open how much of the
// batch was appended: all, or its beginning up to one of its entries.
func (a *Appender) Append(ctx context.Context, head Head, trees Trees, b Batch) (Head, error) {
	var scripts [][]any
	for _, part := range b.parts() {
		var args []any
		args, head = a.script(head, trees, part)
		scripts = append(scripts, args)
	}
	return head, a.pipeline(ctx, scripts)
}

func (s *State) set(l Log, p Position) {
	if l == Outcomes {
		s.Outcomes = p
	} else {
		s.Decisions = p
	}
}

// marks are the fields of MarksKey, in the scripts' order.
func (s State) marks() []string {
	return []string{
		s.Decisions.Last.String(), s.Outcomes.Last.String(),
		strconv.FormatInt(s.Decisions.Size, 10), strconv.FormatInt(s.Outcomes.Size, 10),
		strconv.FormatUint(s.Sequence, 10), strconv.FormatUint(s.Start, 10),
	}
}

// member is how a bundle stands in its log's bundles.
func member(n int64, id ID) string { return strconv.FormatInt(n, 10) + ":" + id.String() }

func parseMember(s string) (n int64, id ID, err error) {
	a, b, _ := strings.Cut(s, ":")
	if n, err = strconv.ParseInt(a, 10, 64); err == nil {
		id, err = ParseID(b)
	}
	if err != nil {
		err = fmt.Errorf("%w: bundle %q", ErrDamaged, s)
	}
	return n, id, err
}

// Reset deletes the logs if they still stand at head, so that they can be filled
// again, and gives the head then, which is empty. It reports ErrMoved if they
// stand elsewhere; any other error is fault.Unavailable.
func (a *Appender) Reset(ctx context.Context, head Head) (Head, error) {
	args := []any{head.token}
	for n := uint64(0); n <= head.through && n>>bucketExplained < maxBuckets; n += 1 << bucketExplained {
		args = append(args, explained(n).key())
	}
	ok, token, err := a.run(ctx, resetLua, args)
	if err != nil {
		return Head{}, err
	}
	if !ok {
		return Head{}, ErrMoved
	}
	return parseHead(token)
}

// maxBuckets bounds the keys that one script is told: 2^30 messages of the ledger.
const maxBuckets = 1 << 14

// Publish stores the logs' checkpoints, unless newer ones are there or the logs
// have lost what they vouch for. Errors are fault.Unavailable.
func (a *Appender) Publish(ctx context.Context, decisions, outcomes Checkpoint, sequence events.Address) (stored bool, err error) {
	n, err := checkpointLua.Run(ctx, a.rdb, scriptKeys, decisions.Note, outcomes.Note, sequence, decisions.Tree.N, outcomes.Tree.N).Int()
	if err != nil {
		return false, fault.Unreachable(Dependency, err)
	}
	return n == 1, nil
}
