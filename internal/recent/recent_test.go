package recent_test

import (
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport/sallyport/internal/recent"
)

func TestLoadStore(t *testing.T) {
	table := recent.New[int](100)
	if v, ok := table.Load("a"); ok {
		t.Errorf("an empty table holds %d", v)
	}
	table.Store("a", 1, nil)
	table.Store("", 2, nil)
	table.Store("a", 3, nil)
	for text, want := range map[string]int{"a": 3, "": 2} {
		if v, ok := table.Load(text); !ok || v != want {
			t.Errorf("Load(%q) = %d, %t, want %d", text, v, ok, want)
		}
	}
}

// TestHolds fills tables up to their size: most answers must still be there, and none may be
// another's.
func TestHolds(t *testing.T) {
	for _, size := range []int{-1, 0, 1, 7, 8, 9, 100, 1000} {
		table := recent.New[int](size)
		for i := range size {
			table.Store(strconv.Itoa(i), i, nil)
		}
		found := 0
		for i := range size {
			v, ok := table.Load(strconv.Itoa(i))
			if ok && v != i {
				t.Errorf("size %d: Load(%d) = %d", size, i, v)
			}
			if ok {
				found++
			}
		}
		if found < size*3/4 {
			t.Errorf("size %d: %d answers are left", size, found)
		}
		table.Store("x", 7, nil)
		if v, ok := table.Load("x"); !ok || v != 7 {
			t.Errorf("size %d: the newest answer is lost", size)
		}
	}
}

// TestBounded stores many more answers than fit.
func TestBounded(t *testing.T) {
	table := recent.New[int](64)
	for i := range 10000 {
		table.Store(strconv.Itoa(i), i, nil)
	}
	found := 0
	for i := range 10000 {
		if _, ok := table.Load(strconv.Itoa(i)); ok {
			found++
		}
	}
	if found > 128 || found < 32 {
		t.Errorf("a table of 64 holds %d answers", found)
	}
}

// TestExpiredFirst demands that an answer that expired makes room before one that holds.
func TestExpiredFirst(t *testing.T) {
	table := recent.New[bool](1) // one place
	for i := range 8 {
		table.Store(strconv.Itoa(i), i == 5, nil)
	}
	table.Store("new", false, func(expired bool) bool { return expired })
	for i := range 8 {
		if _, ok := table.Load(strconv.Itoa(i)); ok != (i != 5) {
			t.Errorf("answer %d is there: %t", i, ok)
		}
	}
}

func TestLoadAllocates(t *testing.T) {
	table := recent.New[string](1000)
	text := strings.Repeat("x", 300)
	table.Store(text, "y", nil)
	if n := testing.AllocsPerRun(100, func() {
		if _, ok := table.Load(text); !ok {
			t.Error("lost")
		}
	}); n > 0 {
		t.Errorf("Load allocates %v times", n)
	}
}

func TestConcurrent(t *testing.T) {
	table := recent.New[int](32)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 5000 {
				n := (i*7 + g) % 100
				if v, ok := table.Load(strconv.Itoa(n)); ok && v != n {
					t.Errorf("Load(%d) = %d", n, v)
				}
				table.Store(strconv.Itoa(n), n, func(v int) bool { return v%2 == 0 })
			}
		})
	}
	wg.Wait()
}
