package ledger_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/ledger"
	"github.com/writ-project/writ/pkg/testkit"
)

// BenchmarkAppend is the ledger alone: appends of a writ's usual size with fsync
// before each acknowledgement, as in production, by so many callers at once.
// Beside it, the same events as a message each, pipelined.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 32, 128} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			l := open(b, testkit.NATS(b, testkit.NATSSyncAlways()).URL(), ledger.Config{})
			each(b, callers, func(m events.Message) error {
				_, err := l.Append(context.Background(), m)
				return err
			})
		})
	}
	b.Run("callers=32/single-messages", func(b *testing.B) {
		_, nc := openConn(b, testkit.NATS(b, testkit.NATSSyncAlways()).URL(), ledger.Config{})
		js, err := jetstream.New(nc)
		if err != nil {
			b.Fatal(err)
		}
		each(b, 32, func(m events.Message) error {
			_, err := js.PublishMsg(context.Background(), &nats.Msg{Subject: events.CommandSubject(0), Data: m.Data})
			return err
		})
	})
}

// each appends b.N events by so many callers.
func each(b *testing.B, callers int, appendOne func(events.Message) error) {
	data := event("m", 1700)
	var taken atomic.Int64
	var all sync.WaitGroup
	b.SetBytes(int64(len(data)))
	b.ResetTimer()
	for range callers {
		all.Go(func() {
			for {
				i := taken.Add(1)
				if i > int64(b.N) {
					return
				}
				if err := appendOne(events.Message{ID: fmt.Sprint(i), Resource: fmt.Sprint(i), Data: data}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
