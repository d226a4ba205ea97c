package xds

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// parallel calls f with each of all, on all processors, and returns when all calls have returned.
func parallel[T any](all []T, f func(T)) {
	workers := min(runtime.GOMAXPROCS(0), len(all))
	if workers <= 1 {
		for _, x := range all {
			f(x)
		}
		return
	}
	var next atomic.Int64
	var working sync.WaitGroup
	for range workers {
		working.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(all) {
					return
				}
				f(all[i])
			}
		})
	}
	working.Wait()
}
