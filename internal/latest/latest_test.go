package latest_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/sallyport/sallyport/internal/latest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestZero(t *testing.T) {
	var v latest.Value[*int]
	if got, ok := v.Load(); ok || got != nil {
		t.Errorf("Load of an empty Value = %v, %t", got, ok)
	}
	v.Set(nil) // a nil that was set is a value
	if got, ok := v.Load(); !ok || got != nil {
		t.Errorf("Load after Set(nil) = %v, %t", got, ok)
	}
}

func TestChanged(t *testing.T) {
	var v latest.Value[int]
	first, second := v.Changed(), v.Changed()
	select {
	case <-first:
		t.Fatal("Changed is closed before any Set")
	default:
	}
	v.Set(1)
	for _, c := range []<-chan struct{}{first, second} {
		select {
		case <-c:
		default:
			t.Error("Set did not wake all who wait")
		}
	}
	select {
	case <-v.Changed():
		t.Error("Changed is closed without a further Set")
	default:
	}
	v.Set(1) // equal, but set: Value does not compare
	if got, ok := v.Load(); !ok || got != 1 {
		t.Errorf("Load = %d, %t", got, ok)
	}
}

// TestNothingSleptThrough has readers that take Changed before Load: each must end with the last
// value, however the Sets fall.
func TestNothingSleptThrough(t *testing.T) {
	const last = 1000
	synctest.Test(t, func(t *testing.T) {
		var v latest.Value[int]
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for seen := 0; ; {
					changed := v.Changed()
					got, ok := v.Load()
					if got < seen || !ok && got != 0 {
						t.Errorf("Load = %d, %t after %d", got, ok, seen)
					}
					if seen = got; seen == last {
						return
					}
					<-changed // a wake-up that was lost deadlocks, which synctest reports
				}
			})
		}
		for i := 1; i <= last; i++ {
			v.Set(i)
		}
		wg.Wait()
	})
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v latest.Value[int]
		var got []int
		ctx, cancel := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		watching.Go(func() {
			v.Watch(ctx, func(n int) {
				if got = append(got, n); n == 1 {
					v.Set(2)
					v.Set(3)
				}
			})
		})
		synctest.Wait()
		if len(got) > 0 {
			t.Errorf("an empty Value gave %v", got)
		}
		for _, n := range []int{1, 4} {
			v.Set(n)
			synctest.Wait()
		}
		cancel()
		watching.Wait()
		v.Set(5)
		if want := []int{1, 3, 4}; !slices.Equal(got, want) {
			t.Errorf("Watch gave %v, want %v", got, want)
		}
	})
}

func TestSetManySides(t *testing.T) {
	var v latest.Value[[2]int]
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 1000 {
				v.Set([2]int{i + g, i + g})
				if got, ok := v.Load(); !ok || got[0] != got[1] {
					t.Errorf("Load = %v, %t: half of one value and half of another", got, ok)
				}
			}
		})
	}
	wg.Wait()
}

func TestLoadAllocates(t *testing.T) {
	var v latest.Value[[4]int]
	v.Set([4]int{1})
	if n := testing.AllocsPerRun(100, func() { v.Load() }); n > 0 {
		t.Errorf("Load allocates %v times", n)
	}
}
