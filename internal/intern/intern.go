// Package intern keeps one of all equal values, for as long as it is referenced.
package intern

import (
	"runtime"
	"sync"
	"weak"
)

// Table holds one value for each key, which stands for the value's content. Its references are
// weak: a value that is not referenced elsewhere is dropped. The zero Table is empty; it must not
// be copied. Its methods may be called by several goroutines.
type Table[K comparable, V any] struct {
	mu     sync.Mutex
	values map[K]weak.Pointer[V]
}

// Get returns the value of key; nil if there is none, or it was dropped.
func (t *Table[K, V]) Get(key K) *V {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.values[key].Value()
}

// Keep returns the value of key; if there is none, v becomes it. v must not be changed later.
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

// forget deletes the entry of a value that was collected, unless an equal one has taken its place.
func (t *Table[K, V]) forget(key K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.values[key].Value() == nil {
		delete(t.values, key)
	}
}
