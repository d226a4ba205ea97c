// Package latest holds the newest value of something and wakes the goroutines that wait for the
// next one. There are no queues: a slow reader sees the newest value and misses those between.
package latest

import (
	"context"
	"sync"
	"sync/atomic"
)

// Value holds the newest value of a T. The zero Value is empty and ready for use; it must not be
// copied. All methods may be called by several goroutines. What is stored must not be changed
// afterwards.
type Value[T any] struct {
	current atomic.Pointer[T]
	mu      sync.Mutex
	changed chan struct{}
}

// Load returns the newest value; ok is false as long as there is none. It neither blocks nor
// allocates.
func (v *Value[T]) Load() (value T, ok bool) {
	p := v.current.Load()
	if p == nil {
		return value, false
	}
	return *p, true
}

// Set replaces the value and wakes all waiting goroutines. It does not block.
func (v *Value[T]) Set(value T) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.current.Store(&value)
	if v.changed != nil {
		close(v.changed)
		v.changed = nil
	}
}

// Changed returns a channel that is closed at the next Set. Call it before Load, or a value that is
// set between the two is missed.
func (v *Value[T]) Changed() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.changed == nil {
		v.changed = make(chan struct{})
	}
	return v.changed
}

// Watch calls f with the value, if there is one, and with each one that is set later, until ctx
// ends. f misses those that are replaced while it runs.
func (v *Value[T]) Watch(ctx context.Context, f func(T)) {
	for {
		changed := v.Changed()
		if value, ok := v.Load(); ok {
			f(value)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
