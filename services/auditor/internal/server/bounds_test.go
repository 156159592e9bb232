package server

import (
	"context"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/writ-project/writ/pkg/audit"
	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind/user"
)

// counter counts what Redis is asked.
type counter struct{ commands, steps atomic.Int64 }

func (c *counter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.commands.Add(1)
		if strings.HasPrefix(cmd.Name(), "xr") {
			c.steps.Add(1)
		}
		return next(ctx, cmd)
	}
}

func (c *counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// TestRareFilterIsSearchedInBoundedSteps looks for three decisions among
// 60,000: no request takes more than its share of Redis or memory, and all together
// find all of them. How long one may look is TestSearchEndsInTime's.
func TestRareFilterIsSearchedInBoundedSteps(t *testing.T) {
	const n = 60_000
	r := newRig(t, func(r *rig) { r.limits.search, r.limits.entries = time.Minute, 16*audit.MaxRange }) // entries bound it, so that the count is exact
	wanted := map[int]bool{7: true, 23_456: true, n - 1: true}
	r.fill(n, func(i int) *events.Decision {
		d := made(nil)
		if wanted[i] {
			d.Resource.ID = "the-needle"
		}
		return d
	})
	_, token := r.person("olive", in(user.DefaultTenant, "auditor"))
	c := &counter{}
	r.rdb.AddHook(c)

	var peak atomic.Uint64
	watching, stop := context.WithCancel(t.Context())
	var watcher sync.WaitGroup
	watcher.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for watching.Err() == nil {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak.Store(max(peak.Load(), m.HeapAlloc))
			select {
			case <-tick.C:
			case <-watching.Done():
			}
		}
	})
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	before := m.HeapAlloc

	for _, order := range []string{"newest", "oldest"} {
		var found []int64
		requests, looked, cursor := 0, 0, ""
		for {
			c.commands.Store(0)
			c.steps.Store(0)
			p := r.list(token, "resource=the-needle&order="+order+cursor)
			requests, looked = requests+1, looked+p.Searched.Searched
			if steps := c.steps.Load(); steps > int64(r.limits.entries/audit.MaxRange) || c.commands.Load() > 3*steps+2 {
				t.Fatalf("one request asked Redis %d times in %d steps", c.commands.Load(), steps)
			}
			if p.Searched.Searched > r.limits.entries {
				t.Fatalf("one request looked at %d entries", p.Searched.Searched)
			}
			for _, it := range p.Items {
				found = append(found, it.Index)
			}
			if p.NextCursor == "" {
				break
			}
			cursor = "&cursor=" + p.NextCursor
		}
		if looked != n || len(found) != 3 || requests <= n/r.limits.entries {
			t.Errorf("%s: found %v in %d entries, %d requests", order, found, looked, requests)
		}
	}
	stop()
	watcher.Wait()
	if grown := int64(peak.Load()) - int64(before); grown > 64<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

// TestSearchEndsInTime checks that a search without time gets on nevertheless.
func TestSearchEndsInTime(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig) { r.limits.search = time.Nanosecond })
	r.fill(2000, func(int) *events.Decision { return made(nil) })
	_, token := r.person("olive", in(user.DefaultTenant, "auditor"))
	p := r.list(token, "resource=nowhere")
	if p.NextCursor == "" || p.Searched.Searched != audit.MaxRange || p.SearchedTo == nil {
		t.Errorf("%+v", p)
	}
	all, pages := r.pages(token, "resource=c-1&limit=200")
	if len(all) != 2000 || pages < 10 {
		t.Errorf("%d in %d pages", len(all), pages)
	}
}

func TestPageIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(r *rig) { r.limits.bytes = 10_000 })
	r.fill(300, func(int) *events.Decision { return made(nil) })
	_, token := r.person("olive", in(user.DefaultTenant, "auditor"))
	all, pages := r.pages(token, "limit=200")
	if len(all) != 300 || pages < 10 {
		t.Errorf("%d in %d pages", len(all), pages)
	}
	if a := r.get("/v1/decisions", token, "X-Large", strings.Repeat("x", 2<<20)); a.status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a header of 2 MiB: %d", a.status)
	}
}

func TestStepsWaitForEachOther(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for range maxSteps {
		done, err := r.server.room(t.Context())
		must(t, err)
		defer done()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := r.server.room(ctx); err == nil {
		t.Error("there is room for more than may be in memory")
	}
}
