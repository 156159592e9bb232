package whatif

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"maps"
	"sync"

	"github.com/writ-project/writ/pkg/events"
	"github.com/writ-project/writ/pkg/kind/user"
)

// digest stands for a question.
type digest [sha256.Size]byte

// key is the digest of all of a question that the candidate can see.
func (r *Replayer) key(d *events.Decision) digest {
	reads := r.seen(d)
	p, res := d.Principal, d.Resource
	p.Version, res.Version = 0, 0
	if !reads.ResourceID && res.ID != "" {
		res.ID = "-"
	}
	if !reads.Request {
		p.Attr = withoutRequest(p.Attr)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	for _, v := range []any{d.Tenant, d.Action, p, res} {
		if e.Encode(v) != nil { // cannot be: it was JSON. Then it is like no other
			return sha256.Sum256([]byte(d.ID))
		}
	}
	return sha256.Sum256(b.Bytes())
}

// withoutRequest leaves the request's address and time out of a principal's
// attributes, if they are strings as they should be.
func withoutRequest(attr map[string]any) map[string]any {
	of, ok := attr[user.AttrRequest].(map[string]any)
	if !ok {
		return attr
	}
	for _, v := range of {
		if _, ok := v.(string); !ok {
			return attr
		}
	}
	attr = maps.Clone(attr)
	attr[user.AttrRequest] = true
	return attr
}

// memory remembers answers. When a part of it is full that part is forgotten.
type memory struct {
	parts [64]struct {
		sync.Mutex
		answers map[digest]answer
	}
	limit int // of a part
}

func newMemory(limit int) *memory {
	m := &memory{limit: limit}
	m.limit = max(limit/len(m.parts), 1)
	return m
}

func (m *memory) get(k digest) (answer, bool) {
	p := &m.parts[int(k[0])%len(m.parts)]
	p.Lock()
	defer p.Unlock()
	a, ok := p.answers[k]
	return a, ok
}

func (m *memory) put(k digest, a answer) {
	p := &m.parts[int(k[0])%len(m.parts)]
	p.Lock()
	defer p.Unlock()
	if p.answers == nil || len(p.answers) >= m.limit {
		p.answers = map[digest]answer{}
	}
	p.answers[k] = a
}
