package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
	"golang.org/x/sync/errgroup"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/fault"
)

// How the consumers of the partitions behave.
const (
	// pinnedTTL is after how long without a sign of life a partition goes to
	// another process.
	pinnedTTL = 2 * time.Second
	// ackWait is after how long an unacknowledged command is delivered again.
	ackWait = 5 * time.Second
	// maxAckPending bounds the commands of one partition that are delivered and
	// not yet acknowledged.
	maxAckPending = 512
	// buffered bounds the commands of one partition held in memory.
	buffered   = 64
	pullExpiry = time.Second
	pinGroup   = "apply"
)

// Record is one message of the ledger.
type Record struct {
	Sequence uint64
	Subject  string
	Header   nats.Header
	Data     []byte
	Time     time.Time // when the ledger stored it
}

// Delivery is a command handed to the worker.
type Delivery struct {
	Record
	Partition int
	// Previous is the sequence of the command before this one in its partition,
	// as far as this reader has seen it delivered right before; 0 means that
	// others may stand between (the first delivery, a takeover, a redelivery).
	// JetStream delivers what a dead client left unacknowledged after what is
	// new, so without this check order would be lost.
	Previous uint64
	// Deliveries counts how often it was delivered, this time included.
	Deliveries int

	msg jetstream.Msg
}

// Ack tells the ledger that the command needs no further delivery. It does not
// wait: a lost ack is a redelivery, which is harmless.
func (d Delivery) Ack() error {
	if d.msg == nil { // fetched by Range, not delivered
		return nil
	}
	return d.msg.Ack()
}

// Partitions delivers the commands of every partition that this process gets
// to hold to out, until ctx ends. Of several processes one at a time holds a
// partition (pinned client). Errors of the connection are waited out.
func (l *Ledger) Partitions(ctx context.Context, out chan<- Delivery) error {
	g, ctx := errgroup.WithContext(ctx)
	for p := range events.Partitions {
		g.Go(func() error { return l.partition(ctx, p, out) })
	}
	return g.Wait()
}

// partition reads one partition and begins anew after an error.
func (l *Ledger) partition(ctx context.Context, p int, out chan<- Delivery) error {
	for ctx.Err() == nil {
		consumer, err := l.partitionConsumer(ctx, p)
		if err == nil {
			err = deliver(ctx, consumer, p, out)
		}
		if ctx.Err() == nil && err != nil {
			select {
			case <-time.After(250 * time.Millisecond): // an outage: do not spin
			case <-ctx.Done():
			}
		}
	}
	return nil
}

func (l *Ledger) partitionConsumer(ctx context.Context, p int) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.AppendTimeout)
	defer cancel()
	return KeepConsumer(ctx, l.stream, jetstream.ConsumerConfig{
		Durable:        fmt.Sprintf("worker-%02d", p),
		FilterSubject:  events.PartitionFilter(p),
		AckPolicy:      jetstream.AckExplicitPolicy,
		AckWait:        ackWait,
		MaxDeliver:     -1, // attempts are the worker's to count: a partition must not skip
		MaxAckPending:  maxAckPending,
		PriorityPolicy: jetstream.PriorityPolicyPinned,
		PriorityGroups: []string{pinGroup},
		PinnedTTL:      pinnedTTL,
	})
}

// deliver pumps one consumer's messages until ctx ends or the consumer fails.
func deliver(ctx context.Context, consumer jetstream.Consumer, p int, out chan<- Delivery) error {
	msgs, err := consumer.Messages(jetstream.PullPriorityGroup(pinGroup), jetstream.PullMaxMessages(buffered),
		jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(pullExpiry/2))
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, msgs.Stop)
	defer stop()
	defer msgs.Stop()
	var lastConsumer, lastStream uint64
	for {
		m, err := msgs.Next()
		if err != nil {
			if errors.Is(err, jetstream.ErrNoHeartbeat) && exists(ctx, consumer) {
				lastConsumer = 0
				continue // the iterator pulls again by itself
			}
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		d := Delivery{Record: record(m, meta), Partition: p, Deliveries: int(min(meta.NumDelivered, 1<<20)), msg: m}
		first := meta.NumDelivered == 1
		if first && lastConsumer != 0 && meta.Sequence.Consumer == lastConsumer+1 {
			d.Previous = lastStream
		}
		if first {
			lastConsumer, lastStream = meta.Sequence.Consumer, meta.Sequence.Stream
		} else {
			lastConsumer = 0
		}
		select {
		case out <- d:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// exists reports whether the consumer is still there, as far as that can be
// told: one that was deleted while the connection was away says nothing.
func exists(ctx context.Context, consumer jetstream.Consumer) bool {
	ctx, cancel := context.WithTimeout(ctx, pullExpiry)
	defer cancel()
	_, err := consumer.Info(ctx)
	return !errors.Is(err, jetstream.ErrConsumerNotFound)
}

func record(m jetstream.Msg, meta *jetstream.MsgMetadata) Record {
	return Record{Sequence: meta.Sequence.Stream, Subject: m.Subject(), Header: m.Headers(), Data: m.Data(), Time: meta.Timestamp}
}

// Progress is how far a partition has got in the hands of workers.
type Progress struct {
	// Delivered is the sequence of the last command that was ever delivered to
	// any worker. Those up to there that are not applied were delivered to a
	// process that died.
	Delivered uint64
	// Settled is the sequence up to which every command was acknowledged: each of
	// them is done and its outcome is on the ledger. The message there may be one of
	// another partition, or no command: the server may count what it passed over.
	Settled uint64
}

// Progress tells how far each partition has got.
func (l *Ledger) Progress(ctx context.Context) (map[int]Progress, error) {
	out := make(map[int]Progress, events.Partitions)
	for p := range events.Partitions {
		c, err := l.partitionConsumer(ctx, p)
		if err != nil {
			return nil, fault.Unreachable(Dependency, err)
		}
		info := c.CachedInfo()
		out[p] = Progress{Delivered: info.Delivered.Stream, Settled: info.AckFloor.Stream}
	}
	return out, nil
}

// Lacks reports whether a database lacks a command that was settled before: it was
// restored from an older state and catches up. positions, which tells up to where it
// has each partition's commands, is called after the ledger was asked: the other way
// round, what is settled in between would be taken for missing.
func (l *Ledger) Lacks(ctx context.Context, positions func(context.Context) (map[int]uint64, error)) (bool, error) {
	progress, err := l.Progress(ctx)
	if err != nil {
		return false, err
	}
	has, err := positions(ctx)
	if err != nil {
		return false, err
	}
	for p, at := range progress {
		if has[p] >= at.Settled {
			continue
		}
		last, err := l.lastOf(ctx, p)
		if err != nil {
			return false, err
		}
		next, _, err := l.Range(ctx, p, has[p]+1, last, 1)
		if err != nil {
			return false, err
		}
		if len(next) > 0 && next[0].Sequence <= at.Settled {
			return true, nil
		}
	}
	return false, nil
}

// Lag gives, for each partition, how many commands wait to be delivered or acknowledged.
func (l *Ledger) Lag(ctx context.Context) (map[int]uint64, error) {
	out := make(map[int]uint64, events.Partitions)
	for p := range events.Partitions {
		c, err := l.stream.Consumer(ctx, fmt.Sprintf("worker-%02d", p))
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			continue
		}
		if err != nil {
			return nil, fault.Unreachable(Dependency, err)
		}
		info := c.CachedInfo()
		out[p] = info.NumPending + uint64(max(info.NumAckPending, 0))
	}
	return out, nil
}

// Range reads the commands of a partition from sequence from (inclusive), at
// most limit of them and none after to. More tells that there may be others up
// to to. The command at to must exist: a replica that has not got it yet gives
// an error, not a gap.
func (l *Ledger) Range(ctx context.Context, partition int, from, to uint64, limit int) (found []Record, more bool, err error) {
	if from > to {
		return nil, false, nil
	}
	// GetBatch subscribes before it asks, and keeps the subscription when it
	// cannot ask: an outage would fill the connection with them.
	if !l.nc.IsConnected() {
		return nil, false, fault.Unreachable(Dependency, nats.ErrDisconnected)
	}
	batch, err := jetstreamext.GetBatch(ctx, l.js, events.StreamLedger, limit+1,
		jetstreamext.GetBatchSeq(from), jetstreamext.GetBatchSubject(events.PartitionFilter(partition)), jetstreamext.GetBatchMaxBytes(maxGroupBytes))
	if err != nil {
		return nil, false, fault.Unreachable(Dependency, err)
	}
	for m, err := range batch {
		if err != nil {
			return nil, false, fault.Unreachable(Dependency, err)
		}
		if m.Sequence > to {
			return found, false, nil
		}
		if len(found) == limit {
			return found, true, nil
		}
		found = append(found, Record{Sequence: m.Sequence, Subject: m.Subject, Header: m.Header, Data: m.Data, Time: m.Time})
		if m.Sequence == to {
			return found, false, nil
		}
	}
	if len(found) == 0 {
		return nil, false, fault.Unreachable(Dependency, fmt.Errorf("partition %d: nothing from %d to %d yet", partition, from, to))
	}
	return found, true, nil // cut short by the size of the batch
}

// Get reads one message.
func (l *Ledger) Get(ctx context.Context, sequence uint64) (Record, error) {
	m, err := l.stream.GetMsg(ctx, sequence)
	if err != nil {
		return Record{}, fault.Unreachable(Dependency, fmt.Errorf("read message %d: %w", sequence, err))
	}
	return Record{Sequence: m.Sequence, Subject: m.Subject, Header: m.Header, Data: m.Data, Time: m.Time}, nil
}

// Gone reports whether a message was on the ledger and is not any more: trimmed,
// purged or deleted. A sequence that the ledger has not come to, or that only a
// replica lacks, is not gone.
func (l *Ledger) Gone(ctx context.Context, sequence uint64) (bool, error) {
	info, err := l.stream.Info(ctx) // the leader's
	if err == nil && sequence >= info.State.FirstSeq && sequence <= info.State.LastSeq && info.State.NumDeleted > 0 {
		info, err = l.stream.Info(ctx, jetstream.WithDeletedDetails(true))
	}
	if err != nil {
		return false, fault.Unreachable(Dependency, fmt.Errorf("look for message %d: %w", sequence, err))
	}
	s := info.State
	return sequence <= s.LastSeq && (sequence < s.FirstSeq || slices.Contains(s.Deleted, sequence)), nil
}
