package authz

import (
	"maps"
	"sync"
	"sync/atomic"
)

// maxViews is how many combinations of a kind and actions a policy set keeps
// track of. There are some hundreds; a caller may ask about any.
const maxViews = 4096

// views are what the policies about actions on a kind read, found out when first asked for.
type views struct {
	known atomic.Pointer[map[string]*readSet]
	mu    sync.Mutex
}

// of gives what an answer about actions on a kind depends on; key is unlike that
// of any other kind and actions.
func (v *views) of(x *readIndex, key []byte, kind string, actions []string) *readSet {
	if known := v.known.Load(); known != nil {
		if r, ok := (*known)[string(key)]; ok {
			return r
		}
	}
	r := x.of(kind, actions...)
	v.mu.Lock()
	defer v.mu.Unlock()
	next := map[string]*readSet{}
	if known := v.known.Load(); known != nil && len(*known) < maxViews {
		next = maps.Clone(*known)
	}
	next[string(key)] = r
	v.known.Store(&next)
	return r
}

// remembered reports whether an answer holds for a question that is the same:
// not one that depends on the time, be it the request's.
func (r *readSet) remembered() bool { return !r.clock && !r.request }
