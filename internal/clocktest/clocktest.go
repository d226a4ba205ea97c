// Package clocktest makes times of a clock that was stepped, for tests.
package clocktest

import (
	"fmt"
	"strings"
	"time"
	"unsafe"
)

// layout is that of time.Time. Of one with a reading of the monotonic clock wall has a bit that says so, 33 bits of seconds since 1885 and
// 30 bits of nanoseconds, and ext has the reading, in nanoseconds. The package time has no other way to a time whose readings do not
// agree, which is what time.Now returns after a step of the wall clock.
type layout struct {
	wall uint64
	ext  int64
	loc  *time.Location
}

const (
	hasMonotonic = 1 << 63
	shift        = 30
)

// epoch is where wall begins.
var epoch = time.Date(1885, 1, 1, 0, 0, 0, 0, time.UTC)

// Stepped is now with the wall clock moved by some time. The reading of the monotonic clock stays; in a bubble of synctest times have
// none, and it is the time since 1970. It panics where package time makes times otherwise than it knows.
func Stepped(now time.Time, by time.Duration) time.Time {
	s := now
	l := (*layout)(unsafe.Pointer(&s)) //nolint:gosec // what it makes is checked below
	if l.wall&hasMonotonic == 0 {
		l.ext = now.UnixNano()
	}
	wall := now.Round(0).Add(by)
	l.wall = hasMonotonic | uint64(wall.Unix()-epoch.Unix())<<shift | uint64(wall.Nanosecond()) //nolint:gosec // no wall clock is before 1885
	if !s.Round(0).Equal(wall) || !strings.Contains(s.String(), " m=") || s.Add(time.Hour).Sub(s) != time.Hour {
		panic(fmt.Sprintf("clocktest: %s stepped by %s is %s: the layout of times has changed", now, by, s))
	}
	return s
}
