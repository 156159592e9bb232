package signin

import (
	"context"
	"hash/maphash"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/go-chi/httprate"

	"github.com/writ-project/writ/pkg/fault"
	"github.com/writ-project/writ/pkg/request"
)

// The limits, of each api instance: they are counted before Stytch is called.
const (
	limitWindow = 10 * time.Minute
	perAddress  = 5  // links for an e-mail address
	perIP       = 60 // links asked for from an IP address (IPv6: a /64)
	perIPTries  = 60 // links redeemed from an IP address
)

type limits struct{ address, ip, tries *httprate.RateLimiter }

func newLimits() *limits {
	limiter := func(n int) *httprate.RateLimiter {
		return httprate.NewRateLimiter(n, limitWindow, httprate.WithLimitCounter(newSketch()), httprate.WithResponseHeaders(httprate.ResponseHeaders{}))
	}
	return &limits{address: limiter(perAddress), ip: limiter(perIP), tries: limiter(perIPTries)}
}

// allow counts a request. The error is fault.Limited.
func allow(l *httprate.RateLimiter, r *http.Request, key string) error {
	if !l.OnLimit(nil, r, key) { // without names for headers nothing is written
		return nil
	}
	e := fault.New(fault.Limited, "rate-limited", "too many sign-in requests: try again later")
	e.RetryAfter = limitWindow
	return e
}

// remoteIP is the address that a request came from, of IPv6 the /64.
func remoteIP(ctx context.Context) string {
	return httprate.CanonicalizeIP(request.Info(ctx).Remote)
}

// sketch counts requests by key for httprate in memory of one size whoever sends
// what: a count-min sketch. Two keys may share a counter, so that one is counted
// too high; none is counted too low. The hash is seeded, so that nobody can choose
// whose counters they share.
type sketch struct {
	mu       sync.Mutex
	seeds    [sketchRows]maphash.Seed
	length   time.Duration
	latest   time.Time // the window that now counts
	now, old []uint32
}

const (
	sketchRows  = 3
	sketchSlots = 1 << 14 // 16,384 counters a row: 384 KiB for both windows
)

func newSketch() *sketch {
	s := &sketch{now: make([]uint32, sketchRows*sketchSlots), old: make([]uint32, sketchRows*sketchSlots)}
	for i := range s.seeds {
		s.seeds[i] = maphash.MakeSeed()
	}
	return s
}

// Config implements httprate.LimitCounter.
func (s *sketch) Config(_ int, length time.Duration) { s.length = length }

// Increment implements httprate.LimitCounter.
func (s *sketch) Increment(key string, window time.Time) error { return s.IncrementBy(key, window, 1) }

// IncrementBy implements httprate.LimitCounter.
func (s *sketch) IncrementBy(key string, window time.Time, n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn(window)
	for _, i := range s.slots(key) {
		if s.now[i] < math.MaxUint32-uint32(n) {
			s.now[i] += uint32(n)
		}
	}
	return nil
}

// Get implements httprate.LimitCounter.
func (s *sketch) Get(key string, window, _ time.Time) (current, previous int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn(window)
	low, lowOld := uint32(math.MaxUint32), uint32(math.MaxUint32)
	for _, i := range s.slots(key) {
		low, lowOld = min(low, s.now[i]), min(lowOld, s.old[i])
	}
	return int(low), int(lowOld), nil
}

// turn makes window the one that counts. A clock that steps back keeps it.
func (s *sketch) turn(window time.Time) {
	if !window.After(s.latest) {
		return
	}
	if window.Sub(s.latest) == s.length {
		s.now, s.old = s.old, s.now
	} else {
		clear(s.old)
	}
	clear(s.now)
	s.latest = window
}

func (s *sketch) slots(key string) (out [sketchRows]int) {
	for row := range out {
		out[row] = row*sketchSlots + int(maphash.String(s.seeds[row], key)%sketchSlots)
	}
	return out
}
