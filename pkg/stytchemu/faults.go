package stytchemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// FaultKind is a way for a call to go wrong.
type FaultKind string

// The kinds of faults. Only FaultLost, FaultLate and FaultSlow let the call have its effect.
const (
	FaultLimited    FaultKind = "429"  // with Retry-After
	FaultInternal   FaultKind = "500"  // with Stytch's error body
	FaultUnreadable FaultKind = "502"  // an HTML page, as a proxy answers
	FaultHang       FaultKind = "hang" // no answer until the caller gives up or Delay is over, then the connection drops
	FaultSlow       FaultKind = "slow" // the right answer after Delay
	FaultLost       FaultKind = "lost" // done, but the connection drops before the answer
	FaultLate       FaultKind = "late" // done after Delay, whether or not the caller has given up, then the connection drops
)

// maxFaults is how many orders may stand at once.
const maxFaults = 100

// Fault orders trouble for calls under /v1/.
type Fault struct {
	Kind FaultKind
	// Path is the prefix of the paths that are hit; "" for all.
	Path string
	// Count is how many calls are hit, then the order is done. 0 means one
	// call, or with a Probability no limit.
	Count int
	// Probability hits calls at random, 0 < p < 1; 0 hits every call. The same
	// Seed hits the same calls in order.
	Probability float64
	Seed        uint64
	// RetryAfter is FaultLimited's header, in whole seconds rounded up; 1 s if 0.
	RetryAfter time.Duration
	// Delay is FaultSlow's and FaultLate's wait (1 s if 0) and FaultHang's longest (30 s if 0).
	Delay time.Duration
}

type order struct {
	Fault
	left int // -1: no limit
	rng  *rand.Rand
}

type faults struct {
	mu     sync.Mutex
	orders []*order
}

// Fail orders a fault. Orders stand in a queue: the first one that fits a call
// hits it. Errors say what is wrong with the order.
func (e *Emulator) Fail(f Fault) error {
	kinds := []FaultKind{FaultLimited, FaultInternal, FaultUnreadable, FaultHang, FaultSlow, FaultLost, FaultLate}
	switch {
	case !slices.Contains(kinds, f.Kind):
		return fmt.Errorf("stytchemu: no fault %q", f.Kind)
	case f.Count < 0 || f.RetryAfter < 0 || f.Delay < 0:
		return errors.New("stytchemu: count, retry_after and delay must not be negative")
	case math.IsNaN(f.Probability) || f.Probability < 0 || f.Probability > 1:
		return errors.New("stytchemu: probability must be between 0 and 1")
	}
	o := &order{Fault: f, left: f.Count}
	switch {
	case f.Count == 0 && f.Probability > 0:
		o.left = -1
	case f.Count == 0:
		o.left = 1
	}
	if f.Probability > 0 {
		o.rng = rand.New(rand.NewPCG(f.Seed, 0)) // faults must repeat, not be secret
	}
	e.faults.mu.Lock()
	defer e.faults.mu.Unlock()
	if len(e.faults.orders) >= maxFaults {
		return errors.New("stytchemu: too many faults are ordered")
	}
	e.faults.orders = append(e.faults.orders, o)
	return nil
}

// Faults lists the orders that stand, with what is left of their counts.
func (e *Emulator) Faults() []Fault {
	e.faults.mu.Lock()
	defer e.faults.mu.Unlock()
	out := []Fault{}
	for _, o := range e.faults.orders {
		f := o.Fault
		f.Count = max(o.left, 0)
		out = append(out, f)
	}
	return out
}

// ClearFaults takes every order back.
func (e *Emulator) ClearFaults() {
	e.faults.mu.Lock()
	defer e.faults.mu.Unlock()
	e.faults.orders = nil
}

func (fs *faults) take(path string) (Fault, bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for i, o := range fs.orders {
		if !strings.HasPrefix(path, o.Path) || (o.rng != nil && o.rng.Float64() >= o.Probability) {
			continue
		}
		if o.left > 0 {
			if o.left--; o.left == 0 {
				fs.orders = slices.Delete(fs.orders, i, i+1)
			}
		}
		return o.Fault, true
	}
	return Fault{}, false
}

// fail answers a call as the fault wants it.
func (e *Emulator) fail(f Fault, w http.ResponseWriter, r *http.Request) {
	switch f.Kind {
	case FaultLimited:
		seconds := max(1, int(math.Ceil(f.RetryAfter.Seconds())))
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
		e.refuse(w, e.newID("request-id"), errRateLimit)
	case FaultInternal:
		e.refuse(w, e.newID("request-id"), errInternal)
	case FaultUnreadable:
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusBadGateway)
		_, _ = io.WriteString(w, "<html><body><h1>502 Bad Gateway</h1></body></html>\n")
	case FaultHang:
		e.wait(r, orDefault(f.Delay, 30*time.Second))
		panic(http.ErrAbortHandler)
	case FaultSlow:
		if e.wait(r, orDefault(f.Delay, time.Second)) {
			e.mux.ServeHTTP(w, r)
		}
	case FaultLate:
		r = r.WithContext(context.WithoutCancel(r.Context()))
		if e.wait(r, orDefault(f.Delay, time.Second)) {
			e.mux.ServeHTTP(discard{http.Header{}}, r)
		}
		panic(http.ErrAbortHandler)
	case FaultLost:
		e.mux.ServeHTTP(discard{http.Header{}}, r)
		panic(http.ErrAbortHandler)
	}
}

// wait reports whether the time passed before the caller went or Close. The
// server sees a caller go only once the body was read, so it is read first.
func (e *Emulator) wait(r *http.Request, d time.Duration) bool {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return false
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.Context().Done():
	case <-e.closed:
	}
	return false
}

func orDefault(d, def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return d
}

// discard is a ResponseWriter whose answer nobody gets.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}
