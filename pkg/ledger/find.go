package ledger

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// Find gives the events with the ids that stand on the ledger at an address or
// after it, on the subjects given. It reads until it has found them all, or to
// the end of the ledger as it is now: it is meant for what is rare.
func (l *Ledger) Find(ctx context.Context, start events.Address, subjects []string, ids map[string]bool) (map[string]Record, error) {
	found := map[string]Record{}
	if len(ids) == 0 {
		return found, nil
	}
	left := maps.Clone(ids)
	err := l.scan(ctx, start, subjects, func(r Record) bool {
		if id := events.IDOf(r.Data); left[id] {
			delete(left, id)
			found[id] = r
		}
		return len(left) > 0
	})
	return found, err
}

// scan reads the events on the subjects from an address on, to the end of the
// ledger as it is now or until look says false.
func (l *Ledger) scan(ctx context.Context, start events.Address, subjects []string, look func(Record) bool) error {
	last, err := l.Last(ctx)
	if err != nil || last < events.SequenceOf(start) {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	consumer, err := l.ordered(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(events.SequenceOf(start), 1),
		FilterSubjects: subjects, InactiveThreshold: 10 * time.Second,
	})
	if err != nil {
		return err
	}
	if info, err := consumer.Info(ctx); err != nil {
		return fault.Unreachable(Dependency, err)
	} else if info.NumPending == 0 {
		return nil
	}
	msgs, err := consumer.Messages(jetstream.PullMaxBytes(followBytes))
	if err != nil {
		return fault.Unreachable(Dependency, err)
	}
	defer msgs.Stop()
	for {
		m, err := msgs.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fault.Unreachable(Dependency, err)
		}
		all, meta, err := delivered(m)
		if err != nil {
			return fault.Unreachable(Dependency, err)
		}
		for _, r := range from(all, start) {
			if !look(r) {
				return nil
			}
		}
		if meta.NumPending == 0 || meta.Sequence.Stream >= last {
			return nil
		}
	}
}

// Waiting gives the commands of all shards that stand after the positions given,
// at most limit of them, shard by shard. It reports whether these are all.
func (l *Ledger) Waiting(ctx context.Context, positions map[int]events.Address, limit int) (found []Record, complete bool, err error) {
	complete = true
	for shard := range l.cfg.Shards {
		last, err := l.lastCommand(ctx, shard)
		if err != nil {
			return nil, false, err
		}
		if last <= positions[shard] {
			continue
		}
		err = l.scan(ctx, positions[shard]+1, []string{events.CommandSubject(shard)}, func(r Record) bool {
			if len(found) == limit {
				complete = false
				return false
			}
			found = append(found, r)
			return true
		})
		if err != nil || !complete {
			return found, false, err
		}
	}
	return found, complete, nil
}

// lastCommand gives the address of the last command of a shard, 0 for none.
func (l *Ledger) lastCommand(ctx context.Context, shard int) (events.Address, error) {
	r, found, err := l.LastOn(ctx, events.CommandSubject(shard))
	if err != nil || !found {
		return 0, err
	}
	return r.Address, nil
}

// Lacks reports whether a database lacks a command that was answered before: it
// was restored from an older state and catches up. positions, which tells up to
// where it has each shard's commands, is called after the ledger was asked: the
// other way round, what is answered in between would be taken for missing.
func (l *Ledger) Lacks(ctx context.Context, positions func(context.Context) (map[int]events.Address, error)) (bool, error) {
	answered := make([]events.Address, l.cfg.Shards)
	for shard := range answered {
		o, err := l.LastOutcomes(ctx, events.OutcomeSubject(shard))
		if err != nil {
			return false, err
		}
		answered[shard] = o.Answered
	}
	has, err := positions(ctx)
	if err != nil {
		return false, err
	}
	for shard, at := range answered {
		if has[shard] < at {
			return true, nil
		}
	}
	return false, nil
}

// LastOn gives the last event on a subject, which may hold wildcards, and
// whether there is one. Of a cluster it may be a replica's view, a little older.
func (l *Ledger) LastOn(ctx context.Context, subject string) (rec Record, found bool, err error) {
	m, err := l.stream.GetLastMsgForSubject(ctx, subject)
	if isNotFound(err) {
		return Record{}, false, nil
	}
	if err != nil {
		return Record{}, false, fault.Unreachable(Dependency, err)
	}
	all := stored(m)
	return all[len(all)-1], true, nil
}

// Get reads one event.
func (l *Ledger) Get(ctx context.Context, address events.Address) (Record, error) {
	m, err := l.stream.GetMsg(ctx, events.SequenceOf(address))
	if err != nil {
		return Record{}, fault.Unreachable(Dependency, fmt.Errorf("read event %d: %w", address, err))
	}
	all := stored(m)
	if i := events.IndexOf(address); i < len(all) {
		return all[i], nil
	}
	return Record{}, fault.Unreachable(Dependency, fmt.Errorf("read event %d: the message holds %d events", address, len(all)))
}

// Gone reports whether an event was on the ledger and is not any more: trimmed,
// purged or deleted. What the ledger has not come to, or only a replica lacks, is
// not gone.
func (l *Ledger) Gone(ctx context.Context, address events.Address) (bool, error) {
	sequence := events.SequenceOf(address)
	info, err := l.stream.Info(ctx) // the leader's
	if err == nil && sequence >= info.State.FirstSeq && sequence <= info.State.LastSeq && info.State.NumDeleted > 0 {
		info, err = l.stream.Info(ctx, jetstream.WithDeletedDetails(true))
	}
	if err != nil {
		return false, fault.Unreachable(Dependency, fmt.Errorf("look for event %d: %w", address, err))
	}
	s := info.State
	return sequence <= s.LastSeq && (sequence < s.FirstSeq || slices.Contains(s.Deleted, sequence)), nil
}

// Commands reads the commands of a shard from one address to another, both
// inclusive, at most limit of them, in order.
func (l *Ledger) Commands(ctx context.Context, shard int, start, end events.Address, limit int) (found []Record, err error) {
	err = l.scan(ctx, start, []string{events.CommandSubject(shard)}, func(r Record) bool {
		if r.Address <= end && len(found) < limit {
			found = append(found, r)
		}
		return r.Address < end && len(found) < limit
	})
	return found, err
}
