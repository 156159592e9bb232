package whatif

import "sync"

// memory remembers answers, which nobody changes. When a part of it is full that
// part is forgotten.
type memory struct {
	parts [64]struct {
		sync.Mutex
		answers map[digest]*answer
	}
	limit int // of a part
}

func newMemory(limit int) *memory {
	m := &memory{}
	m.limit = max(limit/len(m.parts), 1)
	return m
}

func (m *memory) get(k digest) *answer {
	p := &m.parts[int(k[0])%len(m.parts)]
	p.Lock()
	defer p.Unlock()
	return p.answers[k]
}

func (m *memory) put(k digest, a *answer) {
	p := &m.parts[int(k[0])%len(m.parts)]
	p.Lock()
	defer p.Unlock()
	if p.answers == nil || len(p.answers) >= m.limit {
		p.answers = map[digest]*answer{}
	}
	p.answers[k] = a
}
