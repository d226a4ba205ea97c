package backoff_test

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport/sallyport/internal/backoff"
)

func TestDelay(t *testing.T) {
	for failures, most := range map[int]time.Duration{
		1: 2 * time.Second, 2: 4 * time.Second, 3: 8 * time.Second, 5: 32 * time.Second,
		6: time.Minute, 100: time.Minute, math.MaxInt: time.Minute,
	} {
		seen := map[time.Duration]bool{}
		for range 100 {
			d := backoff.Delay(failures, 2*time.Second, time.Minute)
			if d < most/2 || d > most {
				t.Errorf("after %d failures %s, want %s to %s", failures, d, most/2, most)
			}
			seen[d] = true
		}
		if len(seen) < 90 {
			t.Errorf("after %d failures only %d different delays", failures, len(seen))
		}
	}
}

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		for _, tt := range []struct {
			sleep, slept time.Duration
			want         bool
		}{
			{0, 0, true}, {time.Minute, time.Minute, true}, {time.Minute, 30 * time.Second, false}, {0, 0, false},
		} {
			begin := time.Now()
			got := backoff.Sleep(ctx, tt.sleep)
			if slept := time.Since(begin); got != tt.want || slept != tt.slept {
				t.Errorf("Sleep(%s) = %t after %s, want %t after %s", tt.sleep, got, slept, tt.want, tt.slept)
			}
		}
	})
}
