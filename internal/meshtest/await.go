package meshtest

import (
	"testing"
	"time"
)

// Deadline bounds each wait for something that has no promised time: it is long, for a busy
// machine, and reached only by failures.
const Deadline = 20 * time.Second

// Await calls try until it returns nil and reports how long that took; after Deadline the test
// fails with try's last error.
func Await(t testing.TB, what string, try func() error) time.Duration {
	t.Helper()
	start := time.Now()
	took, err := Within(Deadline, try)
	if err != nil {
		t.Fatalf("%s%s: still not so after %s: %v", Excused(start), what, Deadline, err)
	}
	return took
}

// Within calls try every few milliseconds until it returns nil or d is over. It reports how long
// that took, or try's last error.
func Within(d time.Duration, try func() error) (time.Duration, error) {
	start := time.Now()
	for {
		err := try()
		took := time.Since(start)
		if err == nil {
			return took, nil
		}
		if took > d {
			return took, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Holds calls check every 20 ms for d and fails the test as soon as it returns an error: for what
// must not happen.
func Holds(t testing.TB, what string, d time.Duration, check func() error) {
	t.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err := check(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}
