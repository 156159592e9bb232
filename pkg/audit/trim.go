package audit

import (
	"context"
	"time"

	"github.com/writ-project/writ/pkg/fault"
)

// trimBundles bounds what one script removes, so that Redis stays responsive.
const trimBundles = 16

// Trim removes the bundles of which every entry is older than before, and tells
// how many entries that were and whether there are more to remove. The newest
// bundle stays. Hashes stay: the tree is whole, and Verify says from where on
// the records are there. Errors are fault.Unavailable.
func (a *Appender) Trim(ctx context.Context, l Log, before time.Time) (removed int64, more bool, err error) {
	members, err := a.rdb.ZRange(ctx, l.bundlesKey(), 0, trimBundles).Result()
	if err != nil {
		return 0, false, fault.Unreachable(Dependency, err)
	}
	stay := 0
	var first ID
	for i, m := range members {
		_, id, err := parseMember(m)
		if err != nil {
			return 0, false, err
		}
		// Ids ascend: all entries of the bundles before are older than this id.
		if time.UnixMilli(int64(id.Ms)).After(before) {
			break
		}
		stay, first = i, id
	}
	if stay == 0 {
		return 0, false, nil
	}
	removed, err = trimLua.Run(ctx, a.rdb, []string{l.Stream(), l.bundlesKey()}, members[stay], first.String()).Int64()
	if err != nil {
		return 0, false, fault.Unreachable(Dependency, err)
	}
	return removed, stay == trimBundles, nil
}

// TrimExplained forgets which ledger addresses are explained, up to where a log
// was trimmed: before that nothing can be missed. Errors are fault.Unavailable.
func (a *Appender) TrimExplained(ctx context.Context) error {
	var from uint64
	for _, l := range Logs {
		members, err := a.rdb.ZRange(ctx, l.bundlesKey(), 0, 0).Result()
		if err != nil {
			return fault.Unreachable(Dependency, err)
		}
		if len(members) == 0 {
			continue
		}
		n, id, err := parseMember(members[0])
		if err != nil {
			return err
		}
		if n > 0 {
			from = max(from, id.Sequence)
		}
	}
	// All of them, every time: a bucket is 2^16 messages, so they are few, and
	// nothing must be remembered.
	var keys []string
	for n := uint64(0); n < min(from>>bucketExplained, maxBuckets); n++ {
		keys = append(keys, explained(n<<bucketExplained).key())
	}
	if len(keys) == 0 {
		return nil
	}
	if err := a.rdb.Unlink(ctx, keys...).Err(); err != nil {
		return fault.Unreachable(Dependency, err)
	}
	return nil
}
