package xds

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// serve runs a session's stream and its timers. It returns why the stream ended; nil: Envoy ended
// it.
//
// Requests are received by a goroutine of their own, and responses are sent by one that lives as
// long as there are some. The gRPC handler, which calls serve, does neither, because both may
// block, and end only when the handler has returned. An idle stream has two goroutines that wait.
func (s *Server) serve(ctx context.Context, n *session, g *guard) error {
	g.lastRequest.Store(time.Now().UnixNano())
	received, sent := make(chan struct{}), make(chan error, 1)
	s.streams.Go(func() { //nolint:contextcheck // what it receives from has ctx
		defer close(received)
		g.receive()
	})
	sending := false
	watchdog := time.NewTicker(s.stallTimeout / 4)
	defer watchdog.Stop()
	due := time.NewTimer(time.Hour)
	defer due.Stop()
	for {
		if !sending && n.queued() {
			sending = true
			s.streams.Go(func() { sent <- g.send() })
		}
		if wait, ok := n.next(); ok {
			due.Reset(wait)
		}
		select {
		case <-received: // Envoy or the control plane has ended the stream
			return ended(ctx)
		case err := <-sent:
			if err != nil {
				if cause := ended(ctx); cause != nil {
					return cause
				}
				return err
			}
			sending = false
		case <-ctx.Done():
			return ended(ctx)
		case <-n.kick:
		case <-due.C:
			n.tick()
		case now := <-watchdog.C:
			if g.stalled(now.Add(-s.stallTimeout)) {
				s.metrics.streamsRejected.WithLabelValues(rejectedStalled).Inc()
				return status.Error(codes.DeadlineExceeded, "a response was not read or not answered in time")
			}
		}
	}
}

// receive passes requests to the session until the stream ends.
func (g *guard) receive() {
	for {
		q, err := g.Recv()
		if err != nil {
			return
		}
		g.session.receive(q)
	}
}

// send sends the queued responses.
func (g *guard) send() error {
	for {
		r := g.session.outgoing()
		if r == nil {
			return nil
		}
		if err := g.Send(r); err != nil {
			return err
		}
	}
}
