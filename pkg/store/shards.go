package store

import (
	"context"
	"database/sql"
)

// MakeShards adds the positions of the shards that have none: their commands are
// applied from the beginning of the ledger.
func (s *Store) MakeShards(ctx context.Context, shards int) error {
	return s.Update(ctx, func(ctx context.Context, tx *Tx) error {
		for shard := range shards {
			if _, err := tx.exec(ctx, "INSERT INTO positions (part, seq) VALUES (?, 0) ON CONFLICT (part) DO NOTHING", []any{shard}); err != nil {
				return tx.keep(ctx, "make the position of a shard", err)
			}
		}
		return tx.err
	})
}

// ResetShards makes the positions anew, for another number of shards: all of
// them begin at one address (ledger.Reshard).
func (s *Store) ResetShards(ctx context.Context, shards int, begin uint64) error {
	return s.Update(ctx, func(ctx context.Context, tx *Tx) error {
		if _, err := tx.exec(ctx, "DELETE FROM positions", nil); err != nil {
			return tx.keep(ctx, "forget the shards", err)
		}
		for shard := range shards {
			if _, err := tx.exec(ctx, "INSERT INTO positions (part, seq) VALUES (?, ?)", []any{shard, int64(begin)}); err != nil {
				return tx.keep(ctx, "make the position of a shard", err)
			}
		}
		return tx.err
	})
}

// CommandsByKey reads the commands that have these idempotency keys, by key.
func (t *Tx) CommandsByKey(ctx context.Context, keys []string) (map[string]Command, error) {
	out := make(map[string]Command, len(keys))
	err := t.byID(keys, func(n int, args []any) error {
		return t.query(ctx, commands.selectBy(`"key"`, n), args, func(rows *sql.Rows) error {
			return each(rows, func() error {
				var r commandRow
				err := rows.Scan(r.dest()...)
				out[*r.key] = r.command()
				return err
			})
		})
	})
	return out, t.keep(ctx, "load commands by key", err)
}
