package apply

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind"
	"github.com/writ-project/writ/pkg/testkit"
)

// BenchmarkApply is commands that stand on the ledger in messages of 256, updates
// of as many contacts, until their outcomes are there: by one loop, and by two
// with a shard each. The ledger is not synced, the database as in production.
func BenchmarkApply(b *testing.B) {
	for _, c := range []struct {
		name     string
		shards   int
		database func() string
	}{
		{"sqlite", 1, func() string { return "sqlite:" + filepath.Join(b.TempDir(), "writ.db") }},
		{"postgres", 1, func() string { return testkit.Postgres(b) }},
		{"postgres, two shards", 2, func() string { return testkit.Postgres(b) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := newRig(b, c.database(), c.shards)
			sam := r.person("sam", "user")
			const rounds = 16 // batches of a shard
			for range b.N {
				b.StopTimer()
				var ids [][]string
				for shard := range c.shards {
					var of []string
					for range maxBatch {
						id := r.inShard(shard)
						r.put(id, "sam")
						of = append(of, id)
					}
					ids = append(ids, of)
				}
				for round := range rounds {
					var all []events.Message
					for _, of := range ids {
						for _, id := range of {
							m, _ := r.writ(sam, kind.ActionUpdate, id, int64(round+1), owned, fmt.Sprintf(`{"notes":"%d"}`, round))
							all = append(all, m)
						}
					}
					r.batch(all...)
				}
				last := need(r.ledger.Last(b.Context()))(b)
				b.StartTimer()
				var workers []*process
				for range c.shards {
					workers = append(workers, r.start(nil))
				}
				for shard := range c.shards {
					for need(r.ledger.LastOutcomes(b.Context(), events.OutcomeSubject(shard)))(b).Answered < events.At(last-uint64(c.shards-1), 0) {
						time.Sleep(time.Millisecond)
					}
				}
				b.StopTimer()
				for _, p := range workers {
					p.end()
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(b.N*rounds*maxBatch*c.shards)/b.Elapsed().Seconds(), "commands/s")
		})
	}
}
