package audit

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/writ-project/writ/pkg/testkit"
)

// meanwhile does something right after an XRANGE.
type meanwhile struct {
	once sync.Once
	do   func()
}

func (m *meanwhile) DialHook(next redis.DialHook) redis.DialHook { return next }

func (m *meanwhile) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if found, ok := cmd.(*redis.XMessageSliceCmd); ok && err == nil && len(found.Val()) > 0 {
			m.once.Do(m.do)
		}
		return err
	}
}

func (m *meanwhile) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// TestRangeWhileTheLogIsTrimmed trims a log between the two questions of a
// Range: a part of what was read, and all of it. Nothing that stays is passed over.
func TestRangeWhileTheLogIsTrimmed(t *testing.T) {
	t.Parallel()
	const limit = 300
	for name, keepNewest := range map[string]bool{"a part": true, "all": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := testkit.Redis(t)
			r := newRig(t, url)
			r.fill(2000) // 1200 decisions: four bundles and a part
			other := redis.NewClient(need(redis.ParseURL(url))(t))
			defer other.Close()
			before := time.Now()
			if keepNewest {
				e := need(r.read.At(t.Context(), Decisions, limit-10))(t)
				before = time.UnixMilli(int64(e.ID.Ms))
			}
			var failed error
			r.rdb.AddHook(&meanwhile{do: func() {
				_, _, failed = NewAppender(other, 0).Trim(t.Context(), Decisions, before)
			}})
			entries := need(r.read.Range(t.Context(), Decisions, Span{To: MaxID, Limit: limit}))(t)
			if failed != nil || len(entries) == 0 {
				t.Fatalf("%d entries; %v", len(entries), failed)
			}
			want := int64(0) // what was read before it was trimmed is still true
			if !keepNewest {
				want = 4 * BundleSize // the newest bundle stays
			}
			for i, e := range entries {
				if e.Index != want+int64(i) {
					t.Fatalf("%d: entry %d, want %d", i, e.Index, want+int64(i))
				}
			}
			if _, err := r.read.At(t.Context(), Decisions, 0); !errors.Is(err, ErrTrimmed) {
				t.Fatalf("nothing was trimmed: %v", err)
			}
		})
	}
}
