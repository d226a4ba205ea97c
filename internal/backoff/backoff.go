// Package backoff has the delays between retries.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Delay is how long to wait after a number of failures in a row, at least one: between half of
// first and first after one failure, doubled with each further one, up to longest.
func Delay(failures int, first, longest time.Duration) time.Duration {
	d := first
	for n := 1; n < failures && d < longest; n++ {
		d *= 2
	}
	d = min(d, longest)
	return d/2 + rand.N(d/2+1)
}

// Sleep waits for d and returns true; when ctx ends first, it returns false at once.
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
