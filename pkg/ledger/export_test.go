package ledger

// Queued is how many appends wait for a group.
func (l *Ledger) Queued() int { return len(l.queue) }

// QueuedBytes is the size of the appends that wait for a group.
func (l *Ledger) QueuedBytes() int64 { return l.queued.Load() }

// What the tests must know of the limits.
const (
	MaxQueue      = maxQueue
	MaxQueueBytes = maxQueueBytes
	MaxGroup      = maxGroup
	RefusedFor    = refusedFor
)

// NewMsg is a message of the ledger as it is published.
var NewMsg = newMsg
