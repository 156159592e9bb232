package jobs

import (
	"context"
	"errors"
	"math"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// Bounds of one List.
const (
	// maxPage is how many jobs a page may have.
	maxPage = 200
	// maxLooked is how many jobs of the tenant it asks about, those that the status
	// leaves out included.
	maxLooked = 500
	// maxReads is how many stretches of the streams it reads, of at most readSize
	// messages each.
	maxReads = 24
	readSize = 512
)

// Filter says which jobs List gives.
type Filter struct {
	Queue  string // "" for every queue
	Status Status // "" for every status
	Tenant string // "" for every tenant
	Limit  int    // at most 200, 0 means that
	Cursor string // next of the page before, "" for the first
}

// ErrCursor is a cursor that List did not give.
var ErrCursor = errors.New("jobs: this is no cursor of a list")

// List gives a page of jobs: first those that wait for their first attempt, the
// newest first, then the others, those that changed last first. next is the cursor
// of the next page, "" on the last; a page that is not the last may have any
// number of jobs, none included, as the work on each is bounded. A job that
// changes while its list is read page by page may be missing from it: it is at the
// top of the next one.
func (c *Client) List(ctx context.Context, f Filter) (found []Job, next string, err error) {
	p := page{Client: c, Filter: f, paused: map[string]bool{}}
	if p.Limit <= 0 || p.Limit > maxPage {
		p.Limit = maxPage
	}
	if p.Queue == "" {
		p.Queue = "*"
	}
	waiting, before, err := place(f.Cursor)
	if err != nil {
		return nil, "", err
	}
	// Only those can wait for their first attempt.
	if waiting && (f.Status == "" || f.Status == Queued || f.Status == Paused) {
		at, err := p.down(ctx, c.stream, before, func(ctx context.Context, in span, most int) ([]stored, bool, error) {
			return c.read(ctx, events.JobSubject(p.Queue, "*"), in, most)
		}, p.untried)
		if err != nil {
			return nil, "", err
		}
		if at > 0 {
			return p.found, cursorWaiting + strconv.FormatUint(at, 10), nil
		}
	}
	if waiting {
		before = math.MaxUint64
	}
	at, err := p.down(ctx, c.states.stream, before, func(ctx context.Context, in span, most int) ([]stored, bool, error) {
		return c.states.read(ctx, stateSubject(p.Queue, "*"), in, most)
	}, p.known)
	if err != nil {
		return nil, "", err
	}
	if at > 0 {
		next = cursorKnown + strconv.FormatUint(at, 10)
	}
	return p.found, next, nil
}

// What cursors begin with: the list goes on before a sequence of JOBS, or of
// JOB_STATES.
const (
	cursorWaiting = "w"
	cursorKnown   = "s"
)

// place is where a list goes on: before which sequence of which stream.
func place(cursor string) (waiting bool, before uint64, err error) {
	if cursor == "" {
		return true, math.MaxUint64, nil
	}
	number, waiting := strings.CutPrefix(cursor, cursorWaiting)
	if !waiting {
		var known bool
		if number, known = strings.CutPrefix(cursor, cursorKnown); !known {
			return false, 0, ErrCursor
		}
	}
	if before, err = strconv.ParseUint(number, 10, 64); err != nil || before == 0 {
		return false, 0, ErrCursor
	}
	return waiting, before, nil
}

// page is a page that is being filled.
type page struct {
	*Client
	Filter
	found  []Job
	looked int
	reads  int
	paused map[string]bool // queues that were asked about
}

func (p *page) full() bool { return len(p.found) == p.Limit || p.looked == maxLooked }

// down goes through a stream from before a sequence to its beginning, stretch by
// stretch: longer ones where there is little. It gives the sequence before which
// the next page goes on, 0 at the end.
func (p *page) down(ctx context.Context, stream jetstream.Stream, before uint64,
	read func(context.Context, span, int) ([]stored, bool, error), visit func(context.Context, stored) error) (at uint64, err error) {
	one, cancel := context.WithTimeout(ctx, callTimeout)
	info, err := stream.Info(one)
	cancel()
	if err != nil {
		return 0, fault.Unreachable(Dependency, err)
	}
	first := max(info.State.FirstSeq, 1)
	size := uint64(readSize / 2)
	for before = min(before, info.State.LastSeq+1); before > first; p.reads++ {
		if p.reads == maxReads || p.full() {
			return before, nil
		}
		in := span{lo: first, hi: before - 1}
		if in.hi-in.lo >= size {
			in.lo = in.hi - size + 1
		}
		msgs, all, err := read(ctx, in, readSize)
		if err != nil {
			return 0, err
		}
		if !all && size > 1 && in.hi > in.lo { // more than can be read at once: a shorter stretch
			size = max(min(size, in.hi-in.lo+1)/4, 1)
			continue
		}
		for i := len(msgs) - 1; i >= 0; i-- {
			if p.full() {
				return msgs[i].sequence + 1, nil
			}
			if err := visit(ctx, msgs[i]); err != nil {
				return 0, err
			}
		}
		before = in.lo
		if len(msgs) < readSize/4 && size < math.MaxUint64/8 {
			size *= 4
		}
	}
	return 0, nil
}

// untried adds the job of a message if no worker has seen it yet: then the
// message is all that tells of it.
func (p *page) untried(ctx context.Context, m stored) error {
	j, err := p.parse(m.subject, m.header, m.data)
	if err != nil || p.Tenant != "" && j.Tenant != p.Tenant {
		return nil // what is not believed is shown by nobody
	}
	p.looked++
	known, err := p.states.get(ctx, j.Queue, j.ID)
	if err != nil || known != nil && known.Sequence >= m.sequence {
		return err
	}
	return p.add(ctx, j.job(m.sequence))
}

// known adds the job of a record, unless it was enqueued again since.
func (p *page) known(ctx context.Context, m stored) error {
	j := p.states.decode(m)
	if j.Status == "" || p.Tenant != "" && j.Tenant != p.Tenant || !p.wants(j.Status) {
		return nil
	}
	p.looked++
	if j.Status.Final() || j.Status == Retrying {
		one, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		m, err := p.stream.GetLastMsgForSubject(one, events.JobSubject(j.Queue, j.ID))
		if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			return fault.Unreachable(Dependency, err)
		}
		if err == nil && m.Sequence > j.Sequence {
			return nil
		}
	}
	return p.add(ctx, j)
}

// wants reports whether a job that is recorded so may pass the filter.
func (p *page) wants(s Status) bool {
	return p.Status == "" || p.Status == s || p.Status == Paused && (s == Queued || s == Retrying)
}

func (p *page) add(ctx context.Context, j *Job) error {
	if j.Status == Queued || j.Status == Retrying {
		paused, asked := p.paused[j.Queue]
		if !asked {
			var err error
			if paused, err = p.isPaused(ctx, j.Queue); err != nil {
				return err
			}
			p.paused[j.Queue] = paused
		}
		j.show(paused)
	}
	if p.Status == "" || j.Status == p.Status {
		p.found = append(p.found, *j)
	}
	return nil
}

// show is the job as people see it where its queue may be paused.
func (j *Job) show(paused bool) {
	if paused && (j.Status == Queued || j.Status == Retrying) {
		j.Status = Paused
	}
}

// isPaused reports whether a queue is paused; one that no worker ever served is not.
func (c *Client) isPaused(ctx context.Context, queue string) (bool, error) {
	if !queueName.MatchString(queue) {
		return false, nil // somebody else's message
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	consumer, err := c.stream.Consumer(ctx, consumerName(queue))
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fault.Unreachable(Dependency, err)
	}
	return consumer.CachedInfo().Paused, nil
}
