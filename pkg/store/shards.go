package store

import (
	"context"
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
	return out, t.run(ctx, "load commands by key", t.store.commandsByKey(keys, out))
}

func (s *Store) commandsByKey(keys []string, into map[string]Command) []operation {
	return s.byID(commandsByKey.selectRows, keys, func(rows resultSet) error {
		return each(rows, func() error {
			row, key, dest := commandsByKey.fresh()
			err := rows.Scan(dest...)
			into[*key] = row.(*commandRow).command()
			return err
		})
	})
}
