package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

// gcPercent is how much garbage, in percent of what is in use, is let grow before it is collected,
// unless GOGC says otherwise. Most of the time a control plane keeps much and makes little: half of
// Go's default spares a fifth of the memory, for a twentieth of the processor time when a whole
// mesh connects at once.
const gcPercent = 50

// leastGarbage is how much garbage, in bytes, is let grow in any case. Where little is in use the
// share would be a few requests' worth: answering questions of the HTTP API it would be collected
// sixty times a second, which a sixth of the processor time went to, and the slowest percent of the
// answers would be those that met a collection.
const leastGarbage = 32 << 20

// setGarbage sets both for this process, now and after each collection, until stop is called.
func setGarbage() (stop func()) {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	set := 0
	adjust := func() {
		metrics.Read(live)
		// To set it stops the process for a moment, so it is not done for little.
		if p := garbagePercent(live[0].Value.Uint64()); p < set*9/10 || p > set*11/10 {
			debug.SetGCPercent(p)
			set = p
		}
	}
	adjust()
	return eachCollection(adjust)
}

// eachCollection calls f after each collection until stop is called, not twice at a time.
func eachCollection(f func()) (stop func()) {
	var stopped atomic.Bool
	var watch func()
	watch = func() {
		runtime.SetFinalizer(new([16]byte), func(*[16]byte) {
			if !stopped.Load() {
				f()
				watch()
			}
		})
	}
	watch()
	return func() { stopped.Store(true) }
}

// garbagePercent is the GOGC for so many bytes in use.
func garbagePercent(live uint64) int {
	const least = 4 << 20                                         // Go takes less for as much
	return int(max(gcPercent, leastGarbage*100/max(live, least))) //nolint:gosec // it is 800 at most
}
