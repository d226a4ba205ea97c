package authz

import (
	"context"
	"time"
)

const (
	// maxEvents is how many events wait for Run at most; others are only counted.
	maxEvents = 64
	// eventsPerSecond is how many of them are logged.
	eventsPerSecond = 10
	// maxLogged bounds a text in the log that a client may have written, in bytes.
	maxLogged = 256
)

// event is something to be logged: a denial, or a panic.
type event struct {
	verdict
	panicked, stack string // of a panic
}

// report hands e to Run. It never waits.
func (s *Server) report(e event) {
	select {
	case s.events <- e:
	default:
		s.dropped.Add(1)
	}
}

// Run logs the events of Check until ctx ends, and then returns nil. It is apart from Check because
// a log may block.
func (s *Server) Run(ctx context.Context) error {
	logged, left := 0, int64(0)
	var second <-chan time.Time // ends the second that began with the first event logged
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-s.events:
			if logged == eventsPerSecond {
				left++
				continue
			}
			if logged == 0 {
				second = time.After(time.Second)
			}
			logged++
			s.log(ctx, e)
		case <-second:
			logged, second = 0, nil
			if left += s.dropped.Swap(0); left > 0 {
				s.logger.InfoContext(ctx, "denials not logged", "denials", left)
			}
			left = 0
		}
	}
}

func (s *Server) log(ctx context.Context, e event) {
	source := e.principal
	if len(source) > maxLogged {
		source = source[:maxLogged] + "…"
	}
	if e.stack != "" {
		s.logger.ErrorContext(ctx, "panic in ext_authz check, denied", "proxy", e.proxy, "destination", e.destination.String(), "err", e.panicked, "stack", e.stack)
		return
	}
	origin := ""
	if e.intention != nil {
		origin = e.intention.Origin
	}
	s.logger.InfoContext(ctx, "denied", "source", source, "destination", e.destination.String(), "reason", e.String(), "origin", origin, "proxy", e.proxy)
}
