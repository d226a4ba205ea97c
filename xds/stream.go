package xds

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// serve runs a session's stream, and is its clock. It returns why the stream ended; nil: Envoy
// ended it.
//
// Requests are taken in by a goroutine of their own, and responses are sent by one that lives as
// long as there are some. This one, the gRPC handler, does neither, because both block: sending
// while Envoy does not read, and only when the handler has returned do they fail. A stream on which
// nothing happens has the two that wait.
func (s *Server) serve(ctx context.Context, n *session, g *guard) error {
	g.heard.Store(time.Now().UnixNano())
	received, sent := make(chan struct{}), make(chan error, 1)
	s.streams.Go(func() {
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
		case <-received: // whyever: Envoy ended it, or we did
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

// receive takes requests in until the stream ends.
func (g *guard) receive() {
	for {
		q, err := g.Recv()
		if err != nil {
			return
		}
		g.session.receive(q)
	}
}

// send sends what there is to send.
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
