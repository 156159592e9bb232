package authz

import (
	"hash/maphash"
	"sync"
)

// memo remembers what a key stands for. It is bounded, in entries and in bytes,
// and forgets what has not been asked for for the longest: there are two
// generations, and when the young one is full it becomes the old one and the old
// one goes. It is safe for concurrent use. Keys are compared whole.
type memo[V any] struct {
	seed   maphash.Seed
	shards [memoShards]memoShard[V]
	// Bounds on one generation of one shard.
	entries, bytes int
}

// memoShards is how many parts a memo has, each with a lock of its own.
const memoShards = 16

type memoShard[V any] struct {
	mu         sync.RWMutex
	young, old map[string]remembered[V]
	bytes      int // of young
}

type remembered[V any] struct {
	key   string
	value V
	bytes int
}

// entryBytes is about what an entry takes beside its key and its value.
const entryBytes = 160

// newMemo makes a memo of at most so many entries and bytes.
func newMemo[V any](entries, bytes int) *memo[V] {
	return &memo[V]{seed: maphash.MakeSeed(), entries: max(entries/memoShards/2, 1), bytes: bytes / memoShards / 2}
}

func (m *memo[V]) shard(key []byte) *memoShard[V] {
	return &m.shards[maphash.Bytes(m.seed, key)%memoShards]
}

func (m *memo[V]) get(key []byte) (v V, ok bool) {
	s := m.shard(key)
	s.mu.RLock()
	e, ok := s.young[string(key)]
	again := false
	if !ok {
		e, again = s.old[string(key)]
	}
	s.mu.RUnlock()
	if again {
		m.keep(s, e)
	}
	return e.value, ok || again
}

// put remembers a value that takes about so many bytes; not at all where that is
// more than a sixteenth of a generation.
func (m *memo[V]) put(key []byte, v V, bytes int) {
	bytes += len(key) + entryBytes
	if bytes > m.bytes/16 {
		return
	}
	m.keep(m.shard(key), remembered[V]{string(key), v, bytes})
}

func (m *memo[V]) keep(s *memoShard[V], e remembered[V]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.young[e.key]; known {
		return
	}
	if s.young == nil || len(s.young) >= m.entries || s.bytes+e.bytes > m.bytes {
		s.young, s.old, s.bytes = map[string]remembered[V]{}, s.young, 0
	}
	s.young[e.key] = e
	s.bytes += e.bytes
}

// size counts the entries and the bytes that they take.
func (m *memo[V]) size() (entries, bytes int) {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.RLock()
		for _, generation := range []map[string]remembered[V]{s.young, s.old} {
			for _, e := range generation {
				entries, bytes = entries+1, bytes+e.bytes
			}
		}
		s.mu.RUnlock()
	}
	return entries, bytes
}
