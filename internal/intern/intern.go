// Package intern keeps one of all equal values, for as long as somebody has it.
package intern

import (
	"runtime"
	"sync"
	"weak"
)

// Table holds one value for each key that stands for its content, and keeps none alive: what nobody
// has any more is forgotten. The zero Table is empty; it must not be copied. Its methods may be
// called by several goroutines.
type Table[K comparable, V any] struct {
	mu     sync.Mutex
	values map[K]weak.Pointer[V]
}

// Get returns the value of key; nil: there is none, or nobody has it any more.
func (t *Table[K, V]) Get(key K) *V {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.values[key].Value()
}

// Keep returns the value of key, which v becomes if there is none. v is not changed, and must not
// be later.
func (t *Table[K, V]) Keep(key K, v *V) *V {
	t.mu.Lock()
	defer t.mu.Unlock()
	if kept := t.values[key].Value(); kept != nil {
		return kept
	}
	if t.values == nil {
		t.values = map[K]weak.Pointer[V]{}
	}
	t.values[key] = weak.Make(v)
	runtime.AddCleanup(v, t.forget, key)
	return v
}

// forget drops the entry of a value that is gone, unless an equal one has taken its place.
func (t *Table[K, V]) forget(key K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.values[key].Value() == nil {
		delete(t.values, key)
	}
}
