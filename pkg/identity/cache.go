package identity

import (
	"container/list"
	"crypto/sha256"
	"sync"
	"time"
)

// digest is the SHA-256 of a token: caches hold no credentials.
type digest [sha256.Size]byte

func digestOf(token string) digest {
	var buf [2048]byte // on the stack: a token of the usual length costs no allocation
	return sha256.Sum256(append(buf[:0], token...))
}

// lru is a bounded cache of values that are good until a time; the least
// recently used gives way.
type lru[K comparable, V any] struct {
	mu    sync.Mutex
	size  int
	order *list.List // of *entry[K, V], the most recently used first
	items map[K]*list.Element
}

type entry[K comparable, V any] struct {
	key   K
	value V
	until time.Time
}

func newLRU[K comparable, V any](size int) *lru[K, V] {
	return &lru[K, V]{size: max(size, 1), order: list.New(), items: map[K]*list.Element{}}
}

func (c *lru[K, V]) get(key K, now time.Time) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var zero V
	el, ok := c.items[key]
	if !ok {
		return zero, false
	}
	e := el.Value.(*entry[K, V])
	if !now.Before(e.until) {
		c.remove(el)
		return zero, false
	}
	c.order.MoveToFront(el)
	return e.value, true
}

func (c *lru[K, V]) put(key K, value V, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.items[key]; ok {
		c.remove(el)
	}
	c.items[key] = c.order.PushFront(&entry[K, V]{key, value, until})
	if c.order.Len() > c.size {
		c.remove(c.order.Back())
	}
}

// dropIf forgets the values for which drop is true.
func (c *lru[K, V]) dropIf(drop func(K, V) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for el := c.order.Front(); el != nil; {
		next := el.Next()
		if e := el.Value.(*entry[K, V]); drop(e.key, e.value) {
			c.remove(el)
		}
		el = next
	}
}

func (c *lru[K, V]) remove(el *list.Element) {
	c.order.Remove(el)
	delete(c.items, el.Value.(*entry[K, V]).key)
}
