package intern

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

type value struct{ _ *string }

func TestTable(t *testing.T) {
	var table Table[string, value]
	if table.Get("a") != nil {
		t.Error("an empty table has a value")
	}
	a := &value{}
	if table.Keep("a", a) != a || table.Keep("a", &value{}) != a || table.Get("a") != a {
		t.Error("equal values are kept twice")
	}
	if b := (&value{}); table.Keep("b", b) != b {
		t.Error("the values of two keys are one")
	}
	var keeping sync.WaitGroup
	for range 8 {
		keeping.Go(func() {
			for range 1000 {
				v := table.Keep("c", &value{})
				if table.Get("c") != v {
					t.Error("another value took the place of one that somebody has")
				}
				runtime.KeepAlive(v)
			}
		})
	}
	keeping.Wait()
	runtime.KeepAlive(a)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		runtime.GC()
		table.mu.Lock()
		n := len(table.values)
		table.mu.Unlock()
		if n == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d values are remembered that nobody has", n)
		}
	}
}
