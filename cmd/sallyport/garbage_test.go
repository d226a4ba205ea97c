package main

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// TestGarbagePercent: a small process may make as much garbage as is worth a collection, a large one half of what it has in use.
func TestGarbagePercent(t *testing.T) {
	for live, want := range map[uint64]int{0: 800, 1 << 20: 800, 8 << 20: 400, 64 << 20: 50, 1 << 30: 50} {
		if got := garbagePercent(live); got != want {
			t.Errorf("%d bytes in use: %d percent, want %d", live, got, want)
		}
	}
}

// TestSetGarbage: a process that has more in use after a collection has its share set anew, and after the next one again.
func TestSetGarbage(t *testing.T) {
	before := debug.SetGCPercent(100)
	percent := func() int {
		p := debug.SetGCPercent(100)
		debug.SetGCPercent(p)
		return p
	}
	calls := make(chan struct{}, 10)
	stop := eachCollection(func() {
		select {
		case calls <- struct{}{}:
		default:
		}
	})
	defer stop()
	for range 3 {
		runtime.GC()
		select {
		case <-calls:
		case <-time.After(10 * time.Second):
			t.Fatal("a collection, and nobody was told")
		}
	}
	defer debug.SetGCPercent(before)
	defer setGarbage()()
	// until has collections be made until the share is the one that is wanted.
	until := func(what string, ok func(percent int) bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !ok(percent()); {
			if time.Now().After(deadline) {
				t.Fatalf("%s: GOGC is %d", what, percent())
			}
			runtime.GC()
		}
	}
	func() {
		held := make([]byte, 200<<20)
		until("200 MiB in use", func(p int) bool { return p == gcPercent })
		runtime.KeepAlive(held)
	}()
	until("and free again", func(p int) bool { return p > gcPercent })
}
