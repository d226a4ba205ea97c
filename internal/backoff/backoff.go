// Package backoff says how long to wait before something that failed is tried again, and waits.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Delay is how long to wait after so many failures in a row, at least one: from half of first to
// the whole of it after one, twice that after each more, up to longest.
func Delay(failures int, first, longest time.Duration) time.Duration {
	d := first
	for n := 1; n < failures && d < longest; n++ {
		d *= 2
	}
	d = min(d, longest)
	return d/2 + rand.N(d/2+1)
}

// Sleep waits; it returns false at once when ctx ends.
func Sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
