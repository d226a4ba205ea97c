package authz

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	// maxEvents is how many events wait for Run at most; others are only counted.
	maxEvents = 4096
	// denialsEvery is how long denials are summed up for, from the first one on.
	denialsEvery = time.Minute
	// maxDenials is how many kinds of denials a summary has at most; others are only counted.
	maxDenials = 1000
	// maxPanics is how many panics are logged in that time.
	maxPanics = 10
	// maxLogged bounds a text in the log that a client may have written, in bytes.
	maxLogged = 256
)

// event is something to be logged: a denial, or a panic.
type event struct {
	verdict
	panicked, stack string // of a panic
}

// denial is what a line of the summary is about.
type denial struct{ source, destination, reason, origin string }

// summary is what was denied since it began.
type summary struct {
	count  map[denial]int
	others int64 // for which there was no room
	panics int
}

// report hands e to Run. It never waits.
func (s *Server) report(e event) {
	select {
	case s.events <- e:
	default:
		s.dropped.Add(1)
	}
}

// Run logs the events of Check until ctx ends, and then returns nil: denials summed up, one line per
// caller, service, reason and minute. It is apart from Check because a log may block.
func (s *Server) Run(ctx context.Context) error {
	sum := summary{count: map[denial]int{}}
	var end <-chan time.Time // of the summary, which the first event began
	for {
		select {
		case <-ctx.Done():
			for len(s.events) > 0 {
				s.take(&sum, <-s.events)
			}
			s.flush(&sum)
			return nil
		case e := <-s.events:
			if end == nil {
				end = time.After(denialsEvery)
			}
			s.take(&sum, e)
		case <-end:
			s.flush(&sum)
			end = nil
		}
	}
}

func (s *Server) take(sum *summary, e event) {
	if e.stack != "" {
		if sum.panics++; sum.panics <= maxPanics {
			s.logger.Error("panic in ext_authz check, denied", "proxy", e.proxy, "destination", e.destination.String(), "err", e.panicked, "stack", e.stack)
		}
		return
	}
	d := denial{source: e.principal, destination: e.destination.String(), reason: e.String()}
	if len(d.source) > maxLogged {
		d.source = d.source[:maxLogged] + "…"
	}
	switch {
	case e.intention != nil:
		d.origin = e.intention.Origin
	case e.revocation != nil:
		d.origin = e.revocation.Origin
	}
	if _, known := sum.count[d]; !known && len(sum.count) == maxDenials {
		sum.others++
		return
	}
	sum.count[d]++
}

// flush logs what was summed up, and begins anew.
func (s *Server) flush(sum *summary) {
	for _, d := range slices.SortedFunc(maps.Keys(sum.count), func(a, b denial) int {
		return cmp.Or(strings.Compare(a.destination, b.destination), strings.Compare(a.source, b.source), strings.Compare(a.reason, b.reason), strings.Compare(a.origin, b.origin))
	}) {
		fields := []any{"source", d.source, "destination", d.destination, "reason", d.reason}
		if d.origin != "" {
			fields = append(fields, "origin", d.origin)
		}
		s.logger.Info("denied", append(fields, "count", sum.count[d])...)
	}
	if others := sum.others + s.dropped.Swap(0); others > 0 {
		s.logger.Info("denied, of callers or services that are not listed", "count", others)
	}
	clear(sum.count)
	sum.others, sum.panics = 0, 0
}
