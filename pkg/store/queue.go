package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
)

// Queued is a command that needs somebody outside, from when the apply loop
// came to it until its outcome is on the ledger.
type Queued struct {
	Sequence  uint64 // of the command on the ledger
	CommandID string
	// Lane is what it must stay in order with: the resource's id.
	Lane string
	// Attempts counts how often somebody outside was asked to act on it: above 0
	// the effect may be there already. Below 0 it is Requeued.
	Attempts int
}

// queue is the table of queued commands, for the statement over many rows.
var queue = &table{
	name: `"queue"`, columns: []string{`"seq"`, `"command_id"`, `"lane"`, `"attempts"`},
	types: []string{"bigint", "text", "text", "bigint"},
}

// Enqueue adds commands to the queue, in the transaction that moves the
// position past them.
func (t *Tx) Enqueue(ctx context.Context, all []Queued) error {
	return t.write(ctx, "queue commands", t.store.enqueue(all))
}

func (s *Store) enqueue(all []Queued) writes {
	return newWrites(inserting(s, all, func(q Queued) []any { return []any{int64(q.Sequence), q.CommandID, q.Lane, int64(0)} }, queue.insertRows, queue, nil))
}

// Tried counts an attempt at a queued command, before it is made.
func (t *Tx) Tried(ctx context.Context, sequence uint64) error {
	_, err := t.exec(ctx, "UPDATE queue SET attempts = attempts + 1 WHERE seq = ?", []any{int64(sequence)})
	return t.keep(ctx, "count an attempt", err)
}

// Dequeue takes a command off the queue. One that is not there is no error.
func (t *Tx) Dequeue(ctx context.Context, sequence uint64) error {
	_, err := t.exec(ctx, "DELETE FROM queue WHERE seq = ?", []any{int64(sequence)})
	return t.keep(ctx, "take a command off the queue", err)
}

// Requeued is the Attempts of a command that was put back after it was done.
const Requeued = -1

// Requeue puts a command back that somebody may have done again, late, after
// others of its lane. One that is still queued stays as it is.
func (t *Tx) Requeue(ctx context.Context, q Queued) error {
	_, err := t.exec(ctx, "INSERT INTO queue (seq, command_id, lane, attempts) VALUES (?, ?, ?, ?) ON CONFLICT (seq) DO NOTHING",
		[]any{int64(q.Sequence), q.CommandID, q.Lane, Requeued})
	return t.keep(ctx, "put a command back", err)
}

// Attempted reads the lanes in which an attempt has been made at a command that
// is still queued, and that command's action.
func (t *Tx) Attempted(ctx context.Context) (map[string]string, error) {
	out := map[string]string{}
	query := "SELECT q.lane, c.action FROM queue q JOIN commands c ON c.id = q.command_id WHERE q.attempts > 0"
	err := t.query(ctx, query, nil, func(rows resultSet) error {
		return each(rows, func() error {
			var lane, action string
			err := rows.Scan(&lane, &action)
			out[lane] = action
			return err
		})
	})
	return out, t.keep(ctx, "load what is being attempted", err)
}

// PutCommand writes what became of a command that is known already.
func (t *Tx) PutCommand(ctx context.Context, c Command) error {
	return t.write(ctx, "save a command", newWrites(inserting(t.store, []Command{c}, commandValues, commands.putRows, commands, nil)))
}

const queueColumns = "SELECT q.seq, q.command_id, q.lane, q.attempts FROM queue q "

// Heads reads the first command of each lane of the queue, the oldest first, at
// most limit of them.
func (s *Store) Heads(ctx context.Context, limit int) ([]Queued, error) {
	if limit == 1 { // no need to look at the others
		return s.queued(ctx, queueColumns+"ORDER BY q.seq LIMIT 1")
	}
	return s.queued(ctx, queueColumns+"JOIN (SELECT min(seq) AS first FROM queue GROUP BY lane) h ON h.first = q.seq ORDER BY q.seq LIMIT ?", limit)
}

// Head reads the first command of a lane.
func (s *Store) Head(ctx context.Context, lane string) (q Queued, found bool, err error) {
	all, err := s.queued(ctx, queueColumns+"WHERE q.lane = ? ORDER BY q.seq LIMIT 1", lane)
	if len(all) > 0 {
		q, found = all[0], true
	}
	return q, found, err
}

// Unfinished reads the queued commands of a tenant that have no outcome yet, the
// oldest first, at most limit of them.
func (s *Store) Unfinished(ctx context.Context, tenant string, limit int) ([]Queued, error) {
	return s.queued(ctx, queueColumns+"JOIN commands c ON c.id = q.command_id WHERE c.tenant = ? AND c.status IN (?, ?) ORDER BY q.seq LIMIT ?",
		tenant, string(events.StatusAccepted), string(events.StatusRetrying), limit)
}

func (s *Store) queued(ctx context.Context, query string, args ...any) (all []Queued, err error) {
	err = s.reading(ctx, func() error {
		all = nil
		rows, err := s.query(ctx, s.prepared, query, args...)
		if err != nil {
			return err
		}
		return each(rows, func() error {
			var q Queued
			var seq int64
			err := rows.Scan(&seq, &q.CommandID, &q.Lane, &q.Attempts)
			q.Sequence = uint64(seq)
			all = append(all, q)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("load the queue: %w", err)
	}
	return all, nil
}

// Waiting counts the queued commands, and costs less than QueueLength.
func (s *Store) Waiting(ctx context.Context) (n uint64, err error) {
	err = s.reading(ctx, func() error {
		rows, err := s.query(ctx, s.prepared, "SELECT count(*) FROM queue")
		if err != nil {
			return err
		}
		return each(rows, func() error { return rows.Scan(&n) })
	})
	if err != nil {
		return 0, fmt.Errorf("count the queue: %w", err)
	}
	return n, nil
}

// QueueLength counts the queued commands, and gives when the oldest of them was
// issued; the zero time when there is none.
func (s *Store) QueueLength(ctx context.Context) (n int, oldest time.Time, err error) {
	err = s.reading(ctx, func() error {
		rows, err := s.query(ctx, s.prepared, "SELECT count(*), coalesce(min(c.issued_at), 0) FROM queue q JOIN commands c ON c.id = q.command_id")
		if err != nil {
			return err
		}
		return each(rows, func() error {
			var at int64
			err := rows.Scan(&n, &at)
			if oldest = (time.Time{}); n > 0 {
				oldest = kind.FromMicros(at)
			}
			return err
		})
	})
	if err != nil {
		return 0, time.Time{}, fmt.Errorf("count the queue: %w", err)
	}
	return n, oldest, nil
}

// Tried reads commands about users that have ended, by when, after one of them
// and no later than until: those that needed more than one attempt, so that one
// of these may come to its end late. At most limit of them.
func (s *Store) Tried(ctx context.Context, after time.Time, afterID string, until time.Time, limit int) (all []Command, err error) {
	query := "SELECT " + strings.Join(commandColumns, ", ") + ` FROM "commands" WHERE kind = 'user' AND attempts > 1 AND at >= ? AND at <= ?` +
		" AND (at > ? OR id > ?) AND action IN ('roles', 'bootstrap', 'create') AND status IN ('applied', 'rejected', 'failed') ORDER BY at, id LIMIT ?"
	from := kind.ToMicros(after)
	err = s.reading(ctx, func() error {
		all = nil
		rows, err := s.query(ctx, s.prepared, query, from, kind.ToMicros(until), from, afterID, limit)
		if err != nil {
			return err
		}
		return each(rows, func() error {
			var r commandRow
			err := rows.Scan(r.dest()...)
			all = append(all, r.command())
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("load what was tried more than once: %w", err)
	}
	return all, nil
}

// departed is the table of users that were deleted.
var departed = &table{name: `"departed"`, columns: []string{`"id"`}}

// Departed reads which of the users were deleted.
func (t *Tx) Departed(ctx context.Context, ids []string) (map[string]bool, error) {
	out := map[string]bool{}
	return out, t.run(ctx, "load who was deleted", t.store.departed(ids, out))
}

func (s *Store) departed(ids []string, into map[string]bool) []operation {
	return s.byID(departed.selectRows, ids, func(rows resultSet) error {
		return each(rows, func() error {
			var id string
			err := rows.Scan(&id)
			into[id] = true
			return err
		})
	})
}

// Depart notes that a user was deleted, for good.
func (t *Tx) Depart(ctx context.Context, id string, at time.Time) error {
	return t.run(ctx, "note who was deleted", []operation{t.store.depart(id, at)})
}

func (s *Store) depart(id string, at time.Time) operation {
	return operation{query: s.rebind("INSERT INTO departed (id, at) VALUES (?, ?) ON CONFLICT (id) DO NOTHING"), args: []any{id, kind.ToMicros(at)}}
}

const mayBeAdmins = `SELECT id FROM users WHERE tenants LIKE '%"admin"%' ORDER BY id`

// MayBeAdmins reads the ids of the users in whose memberships the word admin
// stands; who is one, and where, is for the caller to see.
func (t *Tx) MayBeAdmins(ctx context.Context) (ids []string, err error) {
	err = t.query(ctx, mayBeAdmins, nil, func(rows resultSet) error { return scanIDs(rows, &ids) })
	return ids, t.keep(ctx, "look for admins", err)
}

// MayBeAdmins is Tx.MayBeAdmins outside a transaction.
func (s *Store) MayBeAdmins(ctx context.Context) (ids []string, err error) {
	err = s.reading(ctx, func() error {
		ids = nil
		rows, err := s.query(ctx, s.prepared, mayBeAdmins)
		if err != nil {
			return err
		}
		return scanIDs(rows, &ids)
	})
	if err != nil {
		return nil, fmt.Errorf("look for admins: %w", err)
	}
	return ids, nil
}

func scanIDs(rows resultSet, into *[]string) error {
	return each(rows, func() error {
		var id string
		err := rows.Scan(&id)
		*into = append(*into, id)
		return err
	})
}
