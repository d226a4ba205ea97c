package clocktest

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestStepped(t *testing.T) {
	check := func(t *testing.T) {
		start := time.Now()
		for _, by := range []time.Duration{0, time.Second, -time.Millisecond, 90 * time.Minute, -10 * 365 * 24 * time.Hour, 30 * 365 * 24 * time.Hour} {
			before, after := Stepped(start, 0), Stepped(start.Add(time.Minute), by)
			if wall, passed := after.Round(0).Sub(before.Round(0)), after.Sub(before); wall != time.Minute+by || passed != time.Minute {
				t.Errorf("by %s: the wall clock moved by %s while %s passed, want %s and a minute", by, wall, passed, time.Minute+by)
			}
		}
	}
	t.Run("real", check)
	t.Run("bubble", func(t *testing.T) { synctest.Test(t, check) })
}
