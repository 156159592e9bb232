package ledger_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

// BenchmarkAppend is one append of a writ's usual size with fsync before each
// acknowledgement, as in production, by so many callers at once.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 32, 128} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			l := open(b, testkit.NATS(b, testkit.NATSSyncAlways()).URL(), ledger.Config{})
			data := make([]byte, 1500)
			var taken atomic.Int64
			var all sync.WaitGroup
			b.ResetTimer()
			for range callers {
				all.Go(func() {
					for {
						i := taken.Add(1)
						if i > int64(b.N) {
							return
						}
						m := events.Message{ID: fmt.Sprintf("m-%d", i), Subject: events.CommandSubject("contact", int(i%events.Partitions), "update"), Data: data}
						if _, err := l.Append(context.Background(), m); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
		})
	}
}
